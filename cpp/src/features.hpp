// The sizes of an image's features: filled in, and checked where they come back from the caller.
#pragma once

#include "image/preparation.hpp"
#include "scclip/segmenter.hpp"

namespace scclip {

/// Features of a prepared image without their values.
WindowFeatures SizesOf(const PreparedImage& image, const FeatureSizes& sizes);

/// Take the class row of each window out of what an encoder gave, (windows, 1 + rows · columns, embed_dim), into
/// `class_values`.
void TakeClassRows(WindowFeatures* features);

/// CLIP Surgery's weight per query: softmax over queries of 2 c·t, divided by its mean; c is the mean of the class
/// token over windows, made a unit vector. text: (queries, embed_dim).
std::vector<float> ClassWeights(const WindowFeatures& features, const std::vector<float>& text);

/// The parts may have been stored and read again: none is trusted. `with_pixels`: they are needed. Throws
/// Error(kImage).
void CheckFeatureSizes(const WindowFeatures& features, const FeatureSizes& sizes, bool with_pixels);

}  // namespace scclip
