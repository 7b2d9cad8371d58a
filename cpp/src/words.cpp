#include "words.hpp"

#include <cstdio>
#include <cstring>
#include <utility>

namespace scclip {
namespace {

bool Starts(char byte) { return (static_cast<unsigned char>(byte) & 0xC0U) != 0x80U; }

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }

/// Bytes of the control character at `at`, 0 if there is none: C0, DEL, C1, U+200E–200F, U+2028–202E, U+2066–2069.
std::size_t ControlLength(const std::string& text, std::size_t at) {
    const auto byte = [&](std::size_t i) {
        return at + i < text.size() ? static_cast<unsigned char>(text[at + i]) : 0U;
    };
    if (byte(0) < 0x20 || byte(0) == 0x7F) return 1;
    if (byte(0) == 0xC2 && byte(1) >= 0x80 && byte(1) < 0xA0) return 2;
    if (byte(0) != 0xE2) return 0;
    const bool general =
        byte(1) == 0x80 && (byte(2) == 0x8E || byte(2) == 0x8F || (byte(2) >= 0xA8 && byte(2) <= 0xAE));
    const bool isolates = byte(1) == 0x81 && byte(2) >= 0xA6 && byte(2) <= 0xA9;
    return general || isolates ? 3 : 0;
}

}  // namespace

std::string Printable(const std::string& text) {
    std::string out;
    for (std::size_t at = 0; at < text.size();) {
        const std::size_t control = ControlLength(text, at);
        out += control > 0 ? '?' : text[at];
        at += control > 0 ? control : 1;
    }
    return out;
}

std::string Quote(const std::string& text) { return "'" + Printable(Shorten(text)) + "'"; }

std::string Number(double value) {
    char buffer[40];
    std::snprintf(buffer, sizeof buffer, "%.9g", value);
    return buffer;
}

std::string Join(const std::vector<std::string>& parts, const char* separator) {
    std::string out;
    for (std::size_t i = 0; i < parts.size(); ++i) out += (i == 0 ? "" : separator) + parts[i];
    return out;
}

std::string First(const std::string& text, std::size_t count) {
    std::size_t end = 0;
    for (std::size_t seen = 0; end < text.size(); ++end) {
        if (Starts(text[end]) && seen++ == count) break;
    }
    return text.substr(0, end);
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

std::string Shorten(const std::string& text) {
    const std::string cut = First(text, 79);
    return cut.size() == text.size() ? text : cut + "…";
}

}  // namespace scclip
