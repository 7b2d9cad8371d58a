// From window features to a label map (METHOD §4), without a (queries, height, width) tensor.
//
// Everything between the patches' logits and the map in original size is linear and separable, so the map of query q is
// rows · L_q · columnsᵀ with two small, sparse matrices that depend on sizes only. The map is computed a row of a tile
// at a time and reduced at once; queries go in chunks, with a running maximum and a running sum of exponentials per
// pixel.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "decode/interpolation.hpp"
#include "decode/pamr.hpp"
#include "decode/simd.hpp"

namespace scclip {

/// Where an image's patches are, and the size of its map.
struct DecodePlan {
    int window_rows, window_columns;  ///< windows
    int grid_rows, grid_columns;      ///< patches of a window
    Axis rows, columns;
};

struct DecodeInput {
    const float* features = nullptr;  ///< (windows, grid rows · grid columns, embed_dim), not always unit rows
    const float* text = nullptr;      ///< (queries, embed_dim), unit rows
    std::uint64_t text_id = 0;        ///< another for other rows: what keeps a copy of them knows it by this
    std::size_t embed_dim = 0;
    const std::vector<std::int64_t>* query_class = nullptr;
    std::int64_t num_classes = 0;
    double logit_scale = 40, prob_threshold = 0, area_threshold = 0, class_threshold = 0;
    std::optional<std::int64_t> background;
    bool confidence = false;
    const std::vector<float>* query_weight = nullptr;  ///< a factor for each query's cosines, if not null
    bool stretched = false;                            ///< each query's map from 0 to 1 over the image
    const PixelWeights* refine = nullptr;              ///< PAMR on the resized logits, if not null
    int threads = 0;
    const Simd* simd = nullptr;            ///< null: the best
    std::size_t logit_bytes = 64U << 20U;  ///< most memory for the patches' logits of one chunk of queries
};

struct Decoded {
    std::vector<std::uint8_t> labels;        ///< up to 254 classes
    std::vector<std::uint16_t> wide_labels;  ///< more
    std::uint16_t unlabelled = 255;
    std::vector<float> confidence;
};

/// Label every pixel. Throws Error(kBackend) if the features hold NaN or infinity, Error(kOption) above 65,534 classes.
Decoded Decode(const DecodeInput& input, const DecodePlan& plan);

/// (windows, patches, queries) cosines · logit_scale, as the decode uses them: for tests.
std::vector<float> WindowLogits(const DecodeInput& input, std::size_t rows);

}  // namespace scclip
