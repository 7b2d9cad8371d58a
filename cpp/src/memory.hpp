// How much memory an image takes, told before it is taken.
#pragma once

#include <cstdint>
#include <string>

#include "bundle/manifest.hpp"
#include "image/geometry.hpp"

namespace scclip {

/// The sizes of a model that memory depends on.
struct ModelSizes {
    int patch = 0, embed_dim = 0, heads = 0, width = 0;
    int batch = 1;  ///< windows at once

    static ModelSizes Of(const Manifest& manifest, int batch);
};

/// Bytes at the peak of one image of `height` × `width`, without weights: pixels, features, and what the encoder holds
/// for a batch of windows. The encoder's part follows what was measured: attention's weights for every head, six more
/// matrices of patches by patches (similarities, distances), and sixteen activations of the model's width.
double EstimatedBytes(const Tiling& tiling, std::int64_t height, std::int64_t width, const ModelSizes& model);

/// Bytes that this process may still take: what the machine has free, or a container's limit. `root` is for tests.
double FreeMemory(const std::string& root = "");

/// Refuse an image that needs more than `max_memory` bytes, or, if that is 0, than half of what is free. Throws
/// Error(kImage).
void CheckMemory(double needed, std::int64_t max_memory);

}  // namespace scclip
