// From the caller's pixels to the windows an encoder takes (METHOD §1 and §7).
#pragma once

#include <cstdint>
#include <vector>

#include "bundle/manifest.hpp"
#include "image/geometry.hpp"
#include "memory.hpp"
#include "scclip/segmenter.hpp"

namespace scclip {

struct PreparedImage {
    int height = 0, width = 0;  ///< of the image
    Tiling tiling;
    std::vector<std::uint8_t> resized;  ///< (tiling height, tiling width, 3)
    std::vector<std::uint8_t> windows;  ///< (windows, window height, window width, 3)
    double milliseconds = 0;
};

/// How images become windows for one encoder: lengths in pixels.
struct Preparation {
    GridSpec grid;
    FeatureSizes features;
    bool floors = false;  ///< of whole images the pixels beyond the last whole patch are left out
    int short_side = 0, long_side = 0, window = 0, stride = 0;
    std::int64_t max_pixels = 0, max_windows = 0, max_memory = 0;
    ModelSizes model;

    /// The bundle's rule with the options over it; `batch` windows are encoded at once. Throws Error(kOption).
    static Preparation Over(const Manifest& manifest, const GridSpec& grid, const OpenOptions& options, int batch);

    /// Check, resize and cut. Throws Error(kImage).
    PreparedImage operator()(const ImageView& image) const;

    Tiling TilingOf(std::int64_t height, std::int64_t width) const;
};

}  // namespace scclip
