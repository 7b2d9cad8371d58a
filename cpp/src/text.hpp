// Words of messages, formatted as the Python runtime formats them.
#pragma once

#include <cstdint>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

namespace scclip {

/// Python's repr of a string: single quotes unless it holds some; control characters escaped.
std::string Quote(const std::string& text);

/// Python's repr of a JSON value: True, None, 'text', [1, 2.0], {'key': 1}.
std::string Repr(const nlohmann::json& value);

/// Python's repr of a float: the shortest digits that round trip, always with a point or an exponent.
std::string FloatRepr(double value);

/// 1234567 → "1,234,567".
std::string Thousands(std::uint64_t value);

/// Millions with one digit: 12345678 → "12.3", 1.2e9 → "1,200.0".
std::string Millions(double value);

/// "a, b, c".
std::string Join(const std::vector<std::string>& parts, const char* separator = ", ");

/// White space collapsed, at most `length` characters (of UTF-8, never cut inside one).
std::string OneLine(const std::string& text, std::size_t length);

/// The reason in an error of ONNX Runtime's, without its files, functions and conditions, and without the host's name.
std::string OrtReason(const std::string& message);

/// A name that fits a message: the first characters and "…" if it has more than 40.
std::string Shorten(const std::string& name);

/// The first `count` characters of UTF-8 text, or the last ones.
std::string First(const std::string& text, std::size_t count);
std::string Last(const std::string& text, std::size_t count);
std::size_t Characters(const std::string& text);

}  // namespace scclip
