#include "parse_message.h"

#include <grpcpp/support/proto_buffer_reader.h>

#include <vector>

#include "names.h"

namespace smt::server {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

// How a path names a message in a list beside its position; most of our messages have a `name`.
std::string name_of(const Message& message) {
  const FieldDescriptor* name = message.GetDescriptor()->FindFieldByName("name");
  if (name == nullptr || name->cpp_type() != FieldDescriptor::CPPTYPE_STRING || name->is_repeated()) return "";
  std::string text = message.GetReflection()->GetString(message, name);
  return text.empty() ? "" : " " + quote(text);
}

// "PATH: found 'TEXT'" of the first text in the message that is not UTF-8; empty if there is none.
std::string find_bad_text(const Message& message, const std::string& path) {
  const Reflection& reflection = *message.GetReflection();
  std::vector<const FieldDescriptor*> fields;
  reflection.ListFields(message, &fields);
  for (const FieldDescriptor* field : fields) {
    bool text = field->type() == FieldDescriptor::TYPE_STRING;
    if (!text && field->cpp_type() != FieldDescriptor::CPPTYPE_MESSAGE) continue;
    int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      std::string place = path + field->name() + (field->is_repeated() ? "[" + std::to_string(i) + "]" : "");
      if (text) {
        std::string scratch;
        const std::string& value = field->is_repeated()
                                       ? reflection.GetRepeatedStringReference(message, field, i, &scratch)
                                       : reflection.GetStringReference(message, field, &scratch);
        if (!transform::valid_utf8(value)) return place + ": found " + quote(value);
        continue;
      }
      const Message& inner = field->is_repeated() ? reflection.GetRepeatedMessage(message, field, i)
                                                  : reflection.GetMessage(message, field);
      std::string found = find_bad_text(inner, place + name_of(inner) + ".");
      if (!found.empty()) return found;
    }
  }
  return "";
}

}  // namespace

std::string parse_message(const grpc::ByteBuffer& bytes, Message& out) {
  grpc::ByteBuffer shared = bytes;  // shares the slices; reading consumes the handle
  grpc::ProtoBufferReader reader(&shared);
  if (out.ParseFromZeroCopyStream(&reader) && reader.status().ok()) return "";
  // The parser keeps what it read up to the field that it stopped at, and that field too.
  std::string found = find_bad_text(out, "");
  if (!found.empty()) return found + "; expected UTF-8";
  return "the message is not a " + out.GetDescriptor()->full_name() + ": wire format damaged";
}

}  // namespace smt::server
