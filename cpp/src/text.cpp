#include "text.hpp"

#include <charconv>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <nlohmann/json.hpp>
#include <utility>

namespace scclip {
namespace {

bool Starts(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; }

std::string Digits(double value, const char* format) {
    char buffer[400];
    std::snprintf(buffer, sizeof buffer, format, value);
    return buffer;
}

void Group(std::string* digits) {
    for (std::size_t end = digits->find('.') == std::string::npos ? digits->size() : digits->find('.'); end > 3;
         end -= 3) {
        digits->insert(end - 3, ",");
    }
}

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

}  // namespace

std::string Quote(const std::string& text) {
    const bool single = text.find('\'') != std::string::npos && text.find('"') == std::string::npos;
    const char quote = single ? '"' : '\'';
    std::string out(1, quote);
    for (const char c : text) {
        const auto byte = static_cast<unsigned char>(c);
        if (c == quote || c == '\\') {
            out += '\\';
            out += c;
        } else if (c == '\n') {
            out += "\\n";
        } else if (c == '\r') {
            out += "\\r";
        } else if (c == '\t') {
            out += "\\t";
        } else if (byte < 0x20 || byte == 0x7F) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\x%02x", static_cast<unsigned>(byte));
            out += escaped;
        } else {
            out += c;
        }
    }
    return out + quote;
}

std::string FloatRepr(double value) {
    if (std::isnan(value)) return "nan";
    if (std::isinf(value)) return value > 0 ? "inf" : "-inf";
    char buffer[64];
    const auto written = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::scientific);
    std::string text(buffer, written.ptr);
    const std::size_t mark = text.find('e');
    const int exponent = std::stoi(text.substr(mark + 1));
    if (exponent < -4 || exponent >= 16) return text;
    const auto end = std::to_chars(buffer, buffer + sizeof buffer, value, std::chars_format::fixed).ptr;
    text.assign(buffer, end);
    return text.find('.') == std::string::npos ? text + ".0" : text;
}

std::string Repr(const nlohmann::json& value) {
    if (value.is_null()) return "None";
    if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
    if (value.is_string()) return Quote(value.get_ref<const std::string&>());
    if (value.is_number_float()) return FloatRepr(value.get<double>());
    if (value.is_number()) return value.dump();
    std::string out;
    if (value.is_array()) {
        for (const auto& item : value) out += (out.empty() ? "" : ", ") + Repr(item);
        return "[" + out + "]";
    }
    for (const auto& item : value.items()) {
        out += (out.empty() ? "" : ", ") + Quote(item.key()) + ": " + Repr(item.value());
    }
    return "{" + out + "}";
}

std::string Thousands(std::uint64_t value) {
    std::string digits = std::to_string(value);
    Group(&digits);
    return digits;
}

std::string Millions(double value) {
    std::string digits = Digits(value / 1e6, "%.1f");
    Group(&digits);
    return digits;
}

std::string Join(const std::vector<std::string>& parts, const char* separator) {
    std::string out;
    for (std::size_t i = 0; i < parts.size(); ++i) out += (i == 0 ? "" : separator) + parts[i];
    return out;
}

std::size_t Characters(const std::string& text) {
    std::size_t count = 0;
    for (const char c : text) count += Starts(c) ? 1 : 0;
    return count;
}

std::string First(const std::string& text, std::size_t count) {
    std::size_t end = 0;
    for (std::size_t seen = 0; end < text.size(); ++end) {
        if (Starts(text[end]) && seen++ == count) break;
    }
    return text.substr(0, end);
}

std::string Last(const std::string& text, std::size_t count) {
    const std::size_t all = Characters(text);
    return all <= count ? text : text.substr(First(text, all - count).size());
}

std::string OneLine(const std::string& text, std::size_t length) {
    std::string out;
    bool gap = false;
    for (const char c : text) {
        if (IsSpace(c)) {
            gap = !out.empty();
            continue;
        }
        if (gap) out += ' ';
        gap = false;
        out += c;
    }
    return First(out, length);
}

std::string OrtReason(const std::string& message) {
    // "FILE:LINE FUNCTION [ONNXRuntimeError] : 1 : FAIL : " before
    //     Failed to load library PATH with error: REASON
    //     FILE:LINE Parse Failed to parse provider option "device_id": [FILE:LINE FUNCTION] REASON
    // or "FILE:LINE FUNCTION CONDITION was false. REASON"; CUDA's reasons end in "; GPU=0 ; hostname=... ; file=...".
    static const std::pair<const char*, bool> marks[] = {{"Invalid device ID", true},
                                                         {" with error: ", false},
                                                         {"option \"device_id\": ", false},
                                                         {" was false. ", false}};
    for (const auto& [mark, kept] : marks) {
        const std::size_t at = message.rfind(mark);
        if (at == std::string::npos) continue;
        const std::string reason = message.substr(kept ? at : at + std::strlen(mark));
        return reason.substr(0, reason.find(" ; GPU="));
    }
    return message;
}

std::string Shorten(const std::string& name) {
    if (Characters(name) <= 40) return name;
    std::string cut = First(name, 39);
    while (!cut.empty() && IsSpace(cut.back())) cut.pop_back();
    return cut + "…";
}

}  // namespace scclip
