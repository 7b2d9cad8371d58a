#include "features.hpp"

#include <algorithm>
#include <cmath>

#include "errors.hpp"

namespace scclip {
namespace {

bool SoundStarts(const std::vector<int>& starts, int window, int length) {
    return !starts.empty() && window > 0 && starts.front() == 0 && starts.back() == length - window &&
           std::is_sorted(starts.begin(), starts.end()) &&
           std::adjacent_find(starts.begin(), starts.end(), [&](int a, int b) { return b - a > window; }) ==
               starts.end();
}

/// Whether so many patches are those of a window's side: none is left out or added where the encoder pads.
bool SoundPatches(int patches, int window, const FeatureSizes& sizes) {
    return patches > 0 && (!sizes.pads || patches == sizes.Patches(window));
}

}  // namespace

WindowFeatures SizesOf(const PreparedImage& image, const FeatureSizes& sizes) {
    WindowFeatures features;
    const Tiling& tiling = image.tiling;
    features.windows = tiling.size();
    features.rows = static_cast<int>(sizes.Patches(tiling.input_height));
    features.columns = static_cast<int>(sizes.Patches(tiling.input_width));
    features.embed_dim = sizes.embed_dim;
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

void TakeClassRows(WindowFeatures* features) {
    const auto embed = static_cast<std::size_t>(features->embed_dim);
    const std::size_t rows = features->values.size() / static_cast<std::size_t>(features->windows) / embed;
    std::vector<float> patches;
    patches.reserve(features->values.size());
    for (auto window = features->values.cbegin(); window != features->values.cend();) {
        const auto first = window + static_cast<std::ptrdiff_t>(embed);
        features->class_values.insert(features->class_values.end(), window, first);
        window += static_cast<std::ptrdiff_t>(rows * embed);
        patches.insert(patches.end(), first, window);
    }
    features->values = std::move(patches);
}

std::vector<float> ClassWeights(const WindowFeatures& features, const std::vector<float>& text) {
    const auto embed = static_cast<std::size_t>(features.embed_dim);
    std::vector<double> mean(embed);
    for (std::size_t i = 0; i < features.class_values.size(); ++i) mean[i % embed] += features.class_values[i];
    double length = 0;
    for (const double value : mean) length += value * value;
    length = std::max(std::sqrt(length), 1e-12);
    std::vector<double> weights(text.size() / embed);
    for (std::size_t i = 0; i < text.size(); ++i) weights[i / embed] += 2 * text[i] * mean[i % embed] / length;
    const double most = *std::max_element(weights.begin(), weights.end());
    double total = 0;
    for (double& weight : weights) {
        weight = std::exp(weight - most);
        total += weight;
    }
    if (!std::isfinite(total)) ThrowBackend("the class token's features hold NaN or infinity");
    std::vector<float> out;
    for (const double weight : weights)
        out.push_back(static_cast<float>(weight * static_cast<double>(weights.size()) / total));
    return out;
}

void CheckFeatureSizes(const WindowFeatures& f, const FeatureSizes& sizes, bool with_pixels) {
    const auto embed = static_cast<std::size_t>(sizes.embed_dim);
    const bool sound = SoundStarts(f.row_starts, f.window_height, f.resized_height) &&
                       SoundStarts(f.column_starts, f.window_width, f.resized_width) &&
                       SoundPatches(f.rows, f.window_height, sizes) && SoundPatches(f.columns, f.window_width, sizes) &&
                       f.height > 0 && f.width > 0 && f.embed_dim == sizes.embed_dim &&
                       static_cast<std::size_t>(f.windows) == f.row_starts.size() * f.column_starts.size() &&
                       f.values.size() == static_cast<std::size_t>(f.windows) * static_cast<std::size_t>(f.rows) *
                                              static_cast<std::size_t>(f.columns) * embed &&
                       f.class_values.size() == (sizes.class_row ? static_cast<std::size_t>(f.windows) * embed : 0);
    const bool pixels = !with_pixels || f.resized.size() == static_cast<std::size_t>(f.resized_height) *
                                                                static_cast<std::size_t>(f.resized_width) * 3;
    if (!sound || !pixels)
        ThrowImage("the features' sizes don't fit each other or this bundle; make them again with Encode");
}

}  // namespace scclip
