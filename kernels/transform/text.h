// Text from outside (names of clients, bytes of files) in messages: printable, short, valid UTF-8.
//
// Protocol buffers' strings must be UTF-8, and a receiver refuses the whole message over one that is not. So all of
// our messages, this op's and the server's, go through the functions here.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>

namespace smt::transform {

// Bytes of the valid UTF-8 sequence that starts `text`, 0 if there is none (RFC 3629: no surrogates, nothing longer
// than needed, nothing above U+10FFFF). `text` must not be empty.
size_t utf8_sequence(std::string_view text);

bool valid_utf8(std::string_view text);

// 'text' in single quotes: control characters and invalid UTF-8 escaped as \xNN, cut after 64 bytes. Names come from
// clients, so a message built from one must stay short, printable and valid UTF-8.
std::string quote(std::string_view text);

// `text` with control characters (but for tab and newline) and invalid UTF-8 escaped as \xNN. For whole messages that
// other code made, such as a library's errors, which may show raw bytes.
std::string printable(std::string_view text);

// Levenshtein distance in bytes; the work is the product of the sizes.
size_t edit_distance(std::string_view a, std::string_view b);

}  // namespace smt::transform
