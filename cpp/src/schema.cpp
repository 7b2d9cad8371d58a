#include "schema.hpp"

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <regex>
#include <tuple>
#include <utility>
#include <variant>
#include <vector>

#include "text.hpp"

namespace scclip {
namespace {

using Json = nlohmann::json;
using Schema = nlohmann::ordered_json;  // keywords are tried in the order in which they are written
using Step = std::variant<std::string, std::size_t>;
using Path = std::vector<Step>;

struct Violation {
    Path path;  // relative to where validation began, as the choice among alternatives wants it
    std::string keyword;
    std::string message;
    bool type_matches = false;
    std::vector<Violation> context;  // of oneOf: what each alternative found
};

// Best is the shallowest; then the later sibling; then no alternatives; then a wrong type.
using Key = std::tuple<long, Path, bool, bool>;
Key Relevance(const Violation& v) {
    return {-static_cast<long>(v.path.size()), v.path, v.keyword != "oneOf", !v.type_matches};
}

bool IsInteger(const Json& value) {
    if (value.is_number_integer()) return true;
    return value.is_number_float() && std::floor(value.get<double>()) == value.get<double>();
}

bool IsType(const Json& value, const std::string& type) {
    if (type == "object") return value.is_object();
    if (type == "array") return value.is_array();
    if (type == "string") return value.is_string();
    if (type == "boolean") return value.is_boolean();
    if (type == "null") return value.is_null();
    if (type == "integer") return IsInteger(value);
    return value.is_number();
}

bool Matches(const std::string& text, const std::string& pattern) {
    // The library's regular expressions recurse with the text's length; no hash, version or path is that long.
    constexpr std::size_t kLongest = 4096;
    thread_local std::map<std::string, std::regex> expressions;
    const auto expression = expressions.try_emplace(pattern, pattern).first;
    return text.size() <= kLongest && std::regex_search(text, expression->second);
}

class Validator {
  public:
    explicit Validator(const char* schema) : root_(Schema::parse(schema)) {}

    std::vector<Violation> Run(const Json& document) const {
        std::vector<Violation> found;
        Check(root_, document, {}, &found);
        return found;
    }

  private:
    Schema root_;

    void Check(const Schema& schema, const Json& value, const Path& path, std::vector<Violation>* out) const {
        for (const auto& item : schema.items()) {
            const std::string& keyword = item.key();
            if (keyword == "$ref") {
                const auto target = item.value().get<std::string>().substr(1);  // "#/$defs/name"
                Check(root_.at(Schema::json_pointer(target)), value, path, out);
            } else if (keyword == "properties" && value.is_object()) {
                for (const auto& property : item.value().items()) {
                    const auto member = value.find(property.key());
                    if (member != value.end()) Check(property.value(), *member, With(path, property.key()), out);
                }
            } else if (keyword == "items" && value.is_array()) {
                for (std::size_t i = 0; i < value.size(); ++i) Check(item.value(), value[i], With(path, i), out);
            } else if (keyword == "additionalProperties" && value.is_object()) {
                CheckExtras(schema, item.value(), value, path, out);
            } else if (keyword == "oneOf") {
                CheckOneOf(schema, item.value(), value, path, out);
            } else if (keyword == "required" && value.is_object()) {
                for (const auto& name : item.value()) {
                    if (!value.contains(name.get<std::string>())) {
                        Add(schema, keyword, Quote(name) + " is a required property", value, path, out);
                    }
                }
            } else if (const std::string message = Violates(keyword, item.value(), value); !message.empty()) {
                Add(schema, keyword, message, value, path, out);
            }
        }
    }

    static Path With(Path path, Step step) {
        path.push_back(std::move(step));
        return path;
    }

    static void Add(const Schema& schema, const std::string& keyword, std::string message, const Json& value,
                    const Path& path, std::vector<Violation>* out) {
        Violation violation{path, keyword, std::move(message), false, {}};
        const auto type = schema.find("type");
        if (type != schema.end()) violation.type_matches = MatchesType(*type, value);
        out->push_back(std::move(violation));
    }

    static bool MatchesType(const Schema& type, const Json& value) {
        if (type.is_string()) return IsType(value, type.get<std::string>());
        return std::any_of(type.begin(), type.end(),
                           [&](const Schema& one) { return IsType(value, one.get<std::string>()); });
    }

    void CheckExtras(const Schema& schema, const Schema& rule, const Json& value, const Path& path,
                     std::vector<Violation>* out) const {
        std::vector<std::string> extras;
        const auto known = schema.find("properties");
        for (const auto& member : value.items()) {
            if (known != schema.end() && known->contains(member.key())) continue;
            if (rule.is_object()) {
                Check(rule, member.value(), With(path, member.key()), out);
            } else {
                extras.push_back(Quote(member.key()));
            }
        }
        if (extras.empty()) return;
        const std::string verb = extras.size() == 1 ? " was" : " were";
        Add(schema, "additionalProperties",
            "Additional properties are not allowed (" + Join(extras) + verb + " unexpected)", value, path, out);
    }

    void CheckOneOf(const Schema& schema, const Schema& choices, const Json& value, const Path& path,
                    std::vector<Violation>* out) const {
        std::vector<Violation> all;
        for (const auto& choice : choices) {
            std::vector<Violation> found;
            Check(choice, value, {}, &found);
            if (found.empty()) return;
            std::move(found.begin(), found.end(), std::back_inserter(all));
        }
        Add(schema, "oneOf", Repr(value) + " is not valid under any of the given schemas", value, path, out);
        out->back().context = std::move(all);
    }

    static std::string Violates(const std::string& keyword, const Schema& rule, const Json& value) {
        if (keyword == "type") return MatchesType(rule, value) ? "" : NotOfType(rule, value);
        if (keyword == "const") return value == Json(rule) ? "" : Repr(Json(rule)) + " was expected";
        if (keyword == "enum") {
            const Json choices(rule);
            const bool known = std::find(choices.begin(), choices.end(), value) != choices.end();
            return known ? "" : Repr(value) + " is not one of " + Repr(choices);
        }
        if (value.is_number()) return OutOfRange(keyword, rule, value);
        if (value.is_array()) return WrongLength(keyword, "Items", rule, value, value.size());
        if (!value.is_string()) return "";
        const auto& text = value.get_ref<const std::string&>();
        if (keyword == "pattern" && !Matches(text, rule.get<std::string>()))
            return Repr(value) + " does not match " + Repr(Json(rule));
        return WrongLength(keyword, "Length", rule, value, Characters(text));
    }

    static std::string NotOfType(const Schema& rule, const Json& value) {
        std::vector<std::string> types;
        if (rule.is_string()) {
            types.push_back(Quote(rule.get<std::string>()));
        } else {
            for (const auto& type : rule) types.push_back(Quote(type.get<std::string>()));
        }
        return Repr(value) + " is not of type " + Join(types);
    }

    static std::string OutOfRange(const std::string& keyword, const Schema& rule, const Json& value) {
        if (!rule.is_number()) return "";
        const double number = value.get<double>(), bound = rule.get<double>();
        const std::string limit = Repr(Json(rule));
        if (keyword == "minimum" && number < bound) return Repr(value) + " is less than the minimum of " + limit;
        if (keyword == "maximum" && number > bound) return Repr(value) + " is greater than the maximum of " + limit;
        if (keyword == "exclusiveMinimum" && number <= bound) {
            return Repr(value) + " is less than or equal to the minimum of " + limit;
        }
        if (keyword == "exclusiveMaximum" && number >= bound) {
            return Repr(value) + " is greater than or equal to the maximum of " + limit;
        }
        return "";
    }

    static std::string WrongLength(const std::string& keyword, const std::string& what, const Schema& rule,
                                   const Json& value, std::size_t length) {
        if (keyword == "min" + what && length < rule.get<std::size_t>()) {
            return Repr(value) + (rule == 1 ? " should be non-empty" : " is too short");
        }
        if (keyword == "max" + what && length > rule.get<std::size_t>()) return Repr(value) + " is too long";
        return "";
    }
};

bool PlainName(const std::string& name) {
    const auto letter = [](char c) { return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z'); };
    const auto other = [&](char c) { return letter(c) || (c >= '0' && c <= '9') || c == '_'; };
    return !name.empty() && letter(name[0]) && std::all_of(name.begin(), name.end(), other);
}

std::string Place(const Path& path) {
    std::string place;
    for (const Step& step : path) {
        if (const auto* index = std::get_if<std::size_t>(&step)) {
            place += "[" + std::to_string(*index) + "]";
        } else if (const auto& name = std::get<std::string>(step); PlainName(name)) {
            place += "." + name;
        } else {
            place += "['";
            for (const char c : name) place += (c == '\\' || c == '\'') ? std::string("\\") + c : std::string(1, c);
            place += "']";
        }
    }
    if (place.empty()) return "the document";
    return place[0] == '.' ? place.substr(1) : place;
}

std::optional<SchemaError> CheckAgainst(const Validator& validator, const Json& document) {
    const std::vector<Violation> found = validator.Run(document);
    const auto less = [](const Violation& a, const Violation& b) { return Relevance(a) < Relevance(b); };
    const auto top = std::max_element(found.begin(), found.end(), less);
    if (top == found.end()) return std::nullopt;
    const Violation* best = &*top;
    Path path = best->path;
    // Among alternatives the deepest is the most telling, unless two are equally deep.
    while (!best->context.empty()) {
        std::vector<const Violation*> order;
        for (const Violation& inner : best->context) order.push_back(&inner);
        std::stable_sort(order.begin(), order.end(),
                         [&](const Violation* a, const Violation* b) { return less(*a, *b); });
        if (order.size() > 1 && Relevance(*order[0]) == Relevance(*order[1])) break;
        best = order[0];
        path.insert(path.end(), best->path.begin(), best->path.end());
    }
    return SchemaError{Place(path), best->message};
}

}  // namespace

std::optional<SchemaError> CheckAgainstBundleSchema(const Json& document) {
    static const Validator validator(kBundleSchema);
    return CheckAgainst(validator, document);
}

std::optional<SchemaError> CheckAgainstEngineSchema(const Json& document) {
    static const Validator validator(kEngineSchema);
    return CheckAgainst(validator, document);
}

}  // namespace scclip
