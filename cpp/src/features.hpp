// The sizes of an image's features: filled in, and checked where they come back from the caller.
#pragma once

#include "image/preparation.hpp"
#include "scclip/segmenter.hpp"

namespace scclip {

/// Features of a prepared image without their values.
WindowFeatures SizesOf(const PreparedImage& image, int patch, int embed_dim);

/// The parts may have been stored and read again: none is trusted. Throws Error(kImage).
void CheckFeatureSizes(const WindowFeatures& features, int embed_dim, Refinement refine);

}  // namespace scclip
