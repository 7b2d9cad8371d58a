// The part of JSON Schema that bundle.schema.json and engine.schema.json use. The schemas themselves are compiled in,
// so that the exporter, Python and C++ read one file; Debian has no validator for this JSON library.
#pragma once

#include <nlohmann/json_fwd.hpp>
#include <optional>
#include <string>

namespace scclip {

struct SchemaError {
    std::string place;    ///< such as `encoders[0].precision`; empty for the document itself
    std::string message;  ///< such as `must be at least 1; got 0`
};

/// A reason to refuse a bundle.json, if there is any.
std::optional<SchemaError> CheckAgainstBundleSchema(const nlohmann::json& document);

/// The same for the sidecar of an engine.
std::optional<SchemaError> CheckAgainstEngineSchema(const nlohmann::json& document);

/// The texts of bundle.schema.json and engine.schema.json (written by CMake).
extern const char* const kBundleSchema;
extern const char* const kEngineSchema;

}  // namespace scclip
