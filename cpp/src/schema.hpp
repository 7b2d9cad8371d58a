// The part of JSON Schema that bundle.schema.json and engine.schema.json use. The schemas themselves are compiled in,
// so that the exporter, Python and C++ read one file.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace scclip {

/// The best match among the violations, worded and chosen as the Python runtime's validator does.
struct SchemaError {
    std::string place;    ///< such as `encoders[0].precision`, or `the document`
    std::string message;  ///< such as `0 is less than the minimum of 1`
};

/// The first reason to refuse a bundle.json, if there is any.
std::optional<SchemaError> CheckAgainstBundleSchema(const nlohmann::json& document);

/// The same for the sidecar of an engine.
std::optional<SchemaError> CheckAgainstEngineSchema(const nlohmann::json& document);

/// The texts of bundle.schema.json and engine.schema.json (written by CMake).
extern const char* const kBundleSchema;
extern const char* const kEngineSchema;

}  // namespace scclip
