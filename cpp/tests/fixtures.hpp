// What make_fixtures.py wrote.
#pragma once

#include <doctest.h>

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

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

/// Reasons in brackets are the parsers' own words: JSON's, protobuf's, safetensors'. They are left out on both sides.
inline std::string WithoutParserWords(std::string message) {
    for (const char* start : {"is not JSON (", "is no ONNX file (", "not a safetensors file ("}) {
        const std::size_t at = message.find(start);
        if (at == std::string::npos) continue;
        const std::size_t from = at + std::strlen(start);
        const std::size_t to = message.rfind(")");
        if (to != std::string::npos && to > from) message.erase(from, to - from);
    }
    return message;
}

/// As make_fixtures.py's `pattern`.
inline std::vector<std::uint8_t> Pattern(std::size_t count, std::uint64_t seed) {
    std::vector<std::uint8_t> pixels(count);
    for (std::size_t i = 0; i < count; ++i) {
        pixels[i] = static_cast<std::uint8_t>(((i + seed) * 2654435761ULL & 0xFFFFFFFFULL) >> 24U);
    }
    return pixels;
}
