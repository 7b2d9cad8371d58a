// What make_fixtures.py wrote.
#pragma once

#include <doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "errors.hpp"

inline std::string FixturePath(const std::string& name) {
    const char* folder = std::getenv("SCCLIP_FIXTURES");
    return std::string(folder == nullptr ? "." : folder) + "/" + name;
}

inline std::string ReadBytes(const std::string& path) {
    std::ifstream stream(path, std::ios::binary);
    REQUIRE_MESSAGE(stream.good(), path);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

inline const nlohmann::json& Fixtures() {
    static const nlohmann::json document = nlohmann::json::parse(ReadBytes(FixturePath("fixtures.json")));
    return document;
}

/// An array of the fixtures; T must be its dtype.
template <typename T>
std::vector<T> Array(const nlohmann::json& entry) {
    const std::string bytes = ReadBytes(FixturePath(entry["file"]));
    std::vector<T> values(bytes.size() / sizeof(T));
    std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
    return values;
}

/// The table that Python's tests read as well.
inline const nlohmann::json& Refusals() { return Fixtures()["refusals"]; }

/// Python's name of an error's kind; null for success.
inline nlohmann::json CodeName(scclip::ErrorCode code) {
    static const char* const names[] = {nullptr,        "BundleError", "ImageError", "VocabularyError",
                                        "BackendError", "OptionError", "internal"};
    const char* name = names[static_cast<int>(code)];
    return name == nullptr ? nlohmann::json() : nlohmann::json(name);
}

/// A refusal is one printable line, and has the code and the field that the table says.
inline void CheckRefusal(const nlohmann::json& row, const scclip::Status& found) {
    CAPTURE(found.message());
    CHECK(CodeName(found.code()) == row["code"]);
    CHECK((found.ok() ? nlohmann::json() : nlohmann::json(found.field())) == row["field"]);
    CHECK(found.message().find('\n') == std::string::npos);
}

/// The Status of what a function throws.
template <typename Function>
scclip::Status StatusOf(Function function) {
    try {
        function();
        return {};
    } catch (...) {
        return scclip::CurrentStatus();
    }
}

/// The largest difference of two arrays.
inline float LargestGap(const std::vector<float>& a, const std::vector<float>& b) {
    REQUIRE(a.size() == b.size());
    float gap = 0;
    for (std::size_t i = 0; i < a.size(); ++i) gap = std::max(gap, std::abs(a[i] - b[i]));
    return gap;
}

/// As make_fixtures.py's `pattern`.
inline std::vector<std::uint8_t> Pattern(std::size_t count, std::uint64_t seed) {
    std::vector<std::uint8_t> pixels(count);
    for (std::size_t i = 0; i < count; ++i) {
        pixels[i] = static_cast<std::uint8_t>(((i + seed) * 2654435761ULL & 0xFFFFFFFFULL) >> 24U);
    }
    return pixels;
}
