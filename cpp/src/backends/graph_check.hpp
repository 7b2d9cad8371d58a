// What a backend checks about a loaded graph, and about what comes out of it.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "bundle/manifest.hpp"

namespace scclip {

/// Compare a loaded graph's inputs and outputs with the manifest, in name, dtype and shape; axis names are free. Throws
/// Error(kBundle): the first difference.
void CheckGraph(const GraphSpec& spec, const std::vector<TensorSpec>& inputs, const std::vector<TensorSpec>& outputs);

/// Refuse features that hold NaN or infinity. Throws Error(kBackend).
void CheckFeatures(const float* values, std::size_t count, const std::string& file);

/// The error for an encoder's output that holds NaN or infinity. Throws Error(kBackend).
[[noreturn]] void ThrowNotFinite(const std::string& what, const std::string& file);

/// One line for a library's failure while it ran `file`; out of memory comes with what to lower.
struct RunShapes {
    int count, height, width, embed_dim;
};
[[noreturn]] void ThrowInference(const std::string& library, const std::string& file, const RunShapes& shapes,
                                 const std::string& reason);

}  // namespace scclip
