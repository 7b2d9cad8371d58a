#include "bundle/schema.hpp"

#include <algorithm>
#include <cstdint>
#include <map>
#include <nlohmann/json.hpp>
#include <regex>
#include <stdexcept>

#include "words.hpp"

namespace scclip {
namespace {

using Json = nlohmann::json;

/// 224.0 is none, with which Python would compute as a float, and neither is what float64 and JavaScript don't hold.
bool IsInteger(const Json& value) {
    constexpr std::int64_t kExact = 1LL << 53U;
    if (value.is_number_unsigned()) return value.get<std::uint64_t>() <= static_cast<std::uint64_t>(kExact);
    return value.is_number_integer() && value.get<std::int64_t>() >= -kExact;
}

bool IsType(const Json& value, const std::string& type) {
    if (type == "integer") return IsInteger(value);
    if (type == "number") return value.is_number_float() || IsInteger(value);
    if (type == "null") return value.is_null();
    return type == value.type_name();  // object, array, string, boolean
}

std::size_t Length(const Json& value) {
    if (!value.is_string()) return value.size();
    const auto& text = value.get_ref<const std::string&>();
    return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; }));
}

bool Matches(const std::string& text, const std::string& pattern) {
    // The library's regular expressions recurse with the text's length; no hash, version or path is that long.
    constexpr std::size_t kLongest = 4096;
    thread_local std::map<std::string, std::regex> expressions;
    const auto expression = expressions.try_emplace(pattern, pattern).first;
    return text.size() <= kLongest && std::regex_search(text, expression->second);
}

std::string Shown(const Json& value) {
    return Printable(Shorten(value.dump(-1, ' ', false, Json::error_handler_t::replace)));
}

/// Why a value breaks one keyword that looks at nothing below it; empty if it does not.
std::string Violates(const std::string& keyword, const Json& rule, const Json& value) {
    const auto got = [&] { return "; got " + Shown(value); };
    if (keyword == "type") {
        const Json types = rule.is_array() ? rule : Json::array({rule});
        const bool fits =
            std::any_of(types.begin(), types.end(), [&](const Json& type) { return IsType(value, type); });
        return fits ? "" : "must be of type " + Shown(rule) + got();
    }
    if (keyword == "const") return value == rule ? "" : "must be " + Shown(rule) + got();
    if (keyword == "enum") {
        return std::find(rule.begin(), rule.end(), value) != rule.end() ? "" : "must be one of " + rule.dump() + got();
    }
    if (keyword == "required" && value.is_object()) {
        for (const Json& name : rule) {
            if (!value.contains(name.get<std::string>())) return "lacks " + Quote(name);
        }
    }
    if (keyword == "pattern" && value.is_string()) {
        return Matches(value.get_ref<const std::string&>(), rule) ? "" : "must match " + Shown(rule) + got();
    }
    const bool sized = value.is_string() ? keyword == "minLength"
                                         : value.is_array() && (keyword == "minItems" || keyword == "maxItems");
    if (sized) {
        const bool fits = keyword == "maxItems" ? Length(value) <= rule : Length(value) >= rule;
        return fits ? ""
                    : "must have a length of at " + std::string(keyword == "maxItems" ? "most " : "least ") +
                          rule.dump() + got();
    }
    if (!value.is_number()) return "";
    const double number = value, bound = rule.is_number() ? rule.get<double>() : 0;
    if (keyword == "minimum") return number >= bound ? "" : "must be at least " + rule.dump() + got();
    if (keyword == "maximum") return number <= bound ? "" : "must be at most " + rule.dump() + got();
    if (keyword == "exclusiveMinimum") return number > bound ? "" : "must be above " + rule.dump() + got();
    if (keyword == "exclusiveMaximum") return number < bound ? "" : "must be below " + rule.dump() + got();
    return "";
}

/// A member's name as JSON paths write it: b, and ['b.c'] for what is no plain name.
std::string Step(const std::string& name) {
    static const std::regex plain("[A-Za-z][A-Za-z0-9_]*");
    return name.size() <= 80 && std::regex_match(name, plain) ? name : "['" + name + "']";
}

/// A violation below a member or an item, seen from above.
SchemaError Below(const std::string& step, SchemaError error) {
    const bool joined = error.place.empty() || error.place[0] == '[';
    error.place = step + (joined ? "" : ".") + error.place;
    return error;
}

class Validator {
  public:
    explicit Validator(const char* schema) : root_(Json::parse(schema)) {}

    std::optional<SchemaError> Check(const Json& document) const { return Check(root_, document); }

  private:
    Json root_;

    std::optional<SchemaError> Check(const Json& schema, const Json& value) const {
        for (const auto& [keyword, rule] : schema.items()) {
            if (std::string message = Violates(keyword, rule, value); !message.empty()) {
                return SchemaError{"", std::move(message)};
            }
        }
        if (const auto target = schema.find("$ref"); target != schema.end()) {  // "#/$defs/name"
            const Json::json_pointer pointer(target->get<std::string>().substr(1));
            if (auto error = Check(root_.at(pointer), value)) return error;
        }
        if (const auto choices = schema.find("oneOf"); choices != schema.end()) {
            std::optional<SchemaError> error;
            for (const Json& choice : *choices) {
                if (!(error = Check(choice, value))) return std::nullopt;
            }
            return SchemaError{"", "has none of the known forms; got " + Shown(value)};
        }
        return CheckParts(schema, value);
    }

    std::optional<SchemaError> CheckParts(const Json& schema, const Json& value) const {
        if (value.is_array() && schema.contains("items")) {
            for (std::size_t i = 0; i < value.size(); ++i) {
                if (auto error = Check(schema["items"], value[i])) {
                    return Below("[" + std::to_string(i) + "]", std::move(*error));
                }
            }
        }
        if (!value.is_object()) return std::nullopt;
        const auto known = schema.find("properties"), others = schema.find("additionalProperties");
        for (const auto& [name, member] : value.items()) {
            const Json* rule = others != schema.end() ? &*others : nullptr;
            if (known != schema.end() && known->contains(name)) rule = &known->at(name);
            if (rule == nullptr) continue;
            if (*rule == false) return SchemaError{"", "must not have " + Quote(name)};
            if (auto error = Check(*rule, member)) return Below(Step(name), std::move(*error));
        }
        return std::nullopt;
    }
};

}  // namespace

std::optional<SchemaError> CheckAgainstBundleSchema(const Json& document) {
    static const Validator validator(kBundleSchema);
    return validator.Check(document);
}

std::optional<SchemaError> CheckAgainstEngineSchema(const Json& document) {
    static const Validator validator(kEngineSchema);
    return validator.Check(document);
}

}  // namespace scclip
