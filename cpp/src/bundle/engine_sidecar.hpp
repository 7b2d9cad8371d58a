// The sidecar of a TensorRT engine (docs/bundle.md): what it says, read and checked against the bundle. Nothing here
// needs TensorRT or a GPU.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"

namespace scclip {

/// One serialised engine, what it was built from, and what can load it.
struct Engine {
    std::string sidecar, file, sha256, source, source_sha256;
    std::string library, library_version;           ///< `tensorrt` or `tensorrt-rtx`
    std::vector<std::string> compute_capabilities;  ///< `8.9` (that one) or `8.0+` (that one and later)
    std::string precision;
    GridSpec grid;
    std::map<std::string, std::array<std::int64_t, 3>> profile;  ///< min, opt, max of `batch`, `queries`, …
    bool version_compatible = false;
    std::optional<std::string> device;  ///< the GPU that it was tuned for

    std::string ToString() const;
};

/// A sidecar and its engine, or the reason why it can't be used.
struct ReadEngine {
    std::string sidecar;
    std::optional<Engine> engine;
    std::string reason;
};

/// What a sidecar says by itself.
ReadEngine ParseSidecar(const std::string& sidecar, const std::string& text);

/// Read every sidecar that bundle.json names; one that can't be used says why instead of throwing.
std::vector<ReadEngine> ReadEngines(const Bundle& bundle);

/// The hash that ties an engine to its ONNX file and that file's weights: SHA-256 of one line `SHA256 NAME` for each,
/// by name. Throws Error(kBundle): one of them is not listed.
std::string SourceSha256(const Bundle& bundle, const std::string& source);

/// A bundle's message without its path, and without the advice to export everything again.
std::string WithoutBundle(const Bundle& bundle, const std::string& message);

}  // namespace scclip
