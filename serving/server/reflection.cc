#include "reflection.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/descriptor.pb.h>

#include <memory>
#include <set>
#include <utility>

#include "answer.h"
#include "grpc/reflection/v1/reflection.pb.h"

namespace smt::server {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::DescriptorPool;
using google::protobuf::FieldDescriptor;
using google::protobuf::FileDescriptor;
using grpc::reflection::v1::ServerReflectionRequest;
using grpc::reflection::v1::ServerReflectionResponse;

using Services = std::vector<std::string>;

// The file, and before it what it imports.
void add_file(const FileDescriptor& file, std::set<std::string>& seen,
              grpc::reflection::v1::FileDescriptorResponse& out) {
  if (!seen.insert(file.name()).second) return;
  for (int i = 0; i < file.dependency_count(); ++i) add_file(*file.dependency(i), seen, out);
  google::protobuf::FileDescriptorProto proto;
  file.CopyTo(&proto);
  proto.SerializeToString(out.add_file_descriptor_proto());
}

void not_found(const std::string& what, ServerReflectionResponse& out) {
  out.mutable_error_response()->set_error_code(static_cast<int>(grpc::StatusCode::NOT_FOUND));
  out.mutable_error_response()->set_error_message(what);
}

void fill_file(const FileDescriptor* file, const std::string& name, ServerReflectionResponse& out) {
  if (file == nullptr) return not_found(quote(name) + ": not known here", out);
  std::set<std::string> seen;
  add_file(*file, seen, *out.mutable_file_descriptor_response());
}

ServerReflectionResponse answer(const ServerReflectionRequest& request, const Services& services) {
  const DescriptorPool& pool = *DescriptorPool::generated_pool();
  ServerReflectionResponse out;
  out.set_valid_host(request.host());
  *out.mutable_original_request() = request;
  switch (request.message_request_case()) {
    case ServerReflectionRequest::kFileByFilename:
      fill_file(pool.FindFileByName(request.file_by_filename()), request.file_by_filename(), out);
      break;
    case ServerReflectionRequest::kFileContainingSymbol: {
      const std::string& symbol = request.file_containing_symbol();
      fill_file(pool.FindFileContainingSymbol(symbol), symbol, out);
      break;
    }
    case ServerReflectionRequest::kFileContainingExtension: {
      const auto& asked = request.file_containing_extension();
      const Descriptor* type = pool.FindMessageTypeByName(asked.containing_type());
      const FieldDescriptor* field =
          type == nullptr ? nullptr : pool.FindExtensionByNumber(type, asked.extension_number());
      fill_file(field == nullptr ? nullptr : field->file(), asked.containing_type(), out);
      break;
    }
    case ServerReflectionRequest::kAllExtensionNumbersOfType: {
      const std::string& name = request.all_extension_numbers_of_type();
      const Descriptor* type = pool.FindMessageTypeByName(name);
      if (type == nullptr) {
        not_found(quote(name) + ": not known here", out);
        break;
      }
      std::vector<const FieldDescriptor*> extensions;
      pool.FindAllExtensions(type, &extensions);
      auto& numbers = *out.mutable_all_extension_numbers_response();
      numbers.set_base_type_name(name);
      for (const FieldDescriptor* extension : extensions) numbers.add_extension_number(extension->number());
      break;
    }
    case ServerReflectionRequest::kListServices:
      for (const std::string& service : services) {
        out.mutable_list_services_response()->add_service()->set_name(service);
      }
      break;
    case ServerReflectionRequest::MESSAGE_REQUEST_NOT_SET:
      out.mutable_error_response()->set_error_code(static_cast<int>(grpc::StatusCode::INVALID_ARGUMENT));
      out.mutable_error_response()->set_error_message("message_request: none; expected one");
      break;
  }
  return out;
}

// One call: answers each request before it reads the next.
class Reflection final : public rpc::Handler {
 public:
  Reflection(std::shared_ptr<rpc::Stream> stream, std::shared_ptr<const Services> services)
      : stream_(std::move(stream)), services_(std::move(services)) {}

  void message(grpc::ByteBuffer bytes) override {
    ServerReflectionRequest request;
    if (std::string error = parse_message(bytes, request); !error.empty()) {
      return stream_->finish({grpc::StatusCode::INVALID_ARGUMENT, shortened(error)});
    }
    stream_->write(framed(answer(request, *services_)));
  }
  void ended() override { stream_->finish(grpc::Status::OK); }
  void written(bool sent) override {
    if (sent) stream_->read();
  }

 private:
  const std::shared_ptr<rpc::Stream> stream_;
  const std::shared_ptr<const Services> services_;
};

}  // namespace

void add_reflection(rpc::Methods& methods, std::vector<std::string> services) {
  constexpr const char* kService = "grpc.reflection.v1.ServerReflection";
  services.emplace_back(kService);
  auto shared = std::make_shared<const Services>(std::move(services));
  const rpc::Method method{.streaming = true, .open = [shared](const std::shared_ptr<rpc::Stream>& stream) {
                             auto call = std::make_shared<Reflection>(stream, shared);
                             stream->read();
                             return call;
                           }};
  methods[std::string("/") + kService + "/ServerReflectionInfo"] = method;
  methods["/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"] = method;
}

}  // namespace smt::server
