// Words of messages.
#pragma once

#include <string>
#include <vector>

namespace scclip {

/// Control characters, line ends and marks that turn the writing direction become "?": files may hold anything.
std::string Printable(const std::string& text);

/// 'text', printable and shortened.
std::string Quote(const std::string& text);

/// A number in nine digits at most.
std::string Number(double value);

/// "a, b, c".
std::string Join(const std::vector<std::string>& parts, const char* separator = ", ");

/// White space collapsed, at most `length` characters (of UTF-8, never cut inside one).
std::string OneLine(const std::string& text, std::size_t length);

/// The reason in an error of ONNX Runtime's, without its files, functions and conditions, and without the host's name.
std::string OrtReason(const std::string& message);

/// The first `count` characters of UTF-8 text.
std::string First(const std::string& text, std::size_t count);

/// A name or value that fits a message: the first characters and "…" if it has more than 80.
std::string Shorten(const std::string& text);

}  // namespace scclip
