#include "features.hpp"

#include <algorithm>

#include "errors.hpp"

namespace scclip {
namespace {

bool SoundStarts(const std::vector<int>& starts, int window, int length) {
    return !starts.empty() && window > 0 && starts.front() == 0 && starts.back() == length - window &&
           std::is_sorted(starts.begin(), starts.end()) &&
           std::adjacent_find(starts.begin(), starts.end(), [&](int a, int b) { return b - a > window; }) ==
               starts.end();
}

}  // namespace

WindowFeatures SizesOf(const PreparedImage& image, int patch, int embed_dim) {
    WindowFeatures features;
    const Tiling& tiling = image.tiling;
    features.windows = tiling.size();
    features.rows = tiling.window_height / patch;
    features.columns = tiling.window_width / patch;
    features.embed_dim = embed_dim;
    features.window_height = tiling.window_height;
    features.window_width = tiling.window_width;
    features.resized_height = tiling.height;
    features.resized_width = tiling.width;
    features.row_starts = tiling.rows;
    features.column_starts = tiling.columns;
    features.height = image.height;
    features.width = image.width;
    features.resized = image.resized;
    features.timings.prepare = image.milliseconds;
    return features;
}

void CheckFeatureSizes(const WindowFeatures& f, int embed_dim, Refinement refine) {
    const bool sound = SoundStarts(f.row_starts, f.window_height, f.resized_height) &&
                       SoundStarts(f.column_starts, f.window_width, f.resized_width) && f.rows > 0 && f.columns > 0 &&
                       f.height > 0 && f.width > 0 && f.embed_dim == embed_dim &&
                       static_cast<std::size_t>(f.windows) == f.row_starts.size() * f.column_starts.size() &&
                       f.values.size() == static_cast<std::size_t>(f.windows) * static_cast<std::size_t>(f.rows) *
                                              static_cast<std::size_t>(f.columns) * static_cast<std::size_t>(embed_dim);
    const bool pixels =
        refine == Refinement::kNone ||
        f.resized.size() == static_cast<std::size_t>(f.resized_height) * static_cast<std::size_t>(f.resized_width) * 3;
    if (!sound || !pixels)
        ThrowImage("the features' sizes don't fit each other or this bundle; make them again with Encode");
}

}  // namespace scclip
