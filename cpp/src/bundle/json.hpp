// JSON from files that nobody vouches for.
#pragma once

#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>

namespace scclip {

struct JsonError : std::runtime_error {
    using std::runtime_error::runtime_error;
};

/// Parse JSON, nested at most 200 deep: every level costs some 100 bytes, so that 16 MB of brackets would take
/// gigabytes. Throws JsonError, in one line.
inline nlohmann::json ParseJson(const std::string& text) {
    const auto shallow = [](int depth, nlohmann::json::parse_event_t, nlohmann::json&) {
        if (depth > 200) throw JsonError("nested too deeply");
        return true;
    };
    try {
        return nlohmann::json::parse(text, shallow);
    } catch (const nlohmann::json::exception& error) {
        std::string reason = error.what();  // "[json.exception.parse_error.101] parse error at line 1, …"
        const std::size_t mark = reason.find("] ");
        if (mark != std::string::npos) reason = reason.substr(mark + 2);
        throw JsonError(reason.substr(0, reason.find(" - ")));
    }
}

}  // namespace scclip
