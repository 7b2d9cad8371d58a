#include "image/preparation.hpp"

#include <algorithm>

#include "errors.hpp"
#include "image/resize.hpp"

namespace scclip {
namespace {

// Most patches of an image encoded whole: the memory of attention grows with their square (3 GiB here).
constexpr std::int64_t kMaxWholePatches = 8192;

constexpr int kLeastSide = 2;  // of a window that the encoder pads, docs/bundle.md
constexpr int kMinPatches = 6;

/// One window that is the whole image, of which the encoder gets `input`.
Tiling Whole(const Shape& shape, const Shape& input) {
    const int height = static_cast<int>(shape.height), width = static_cast<int>(shape.width);
    return {height, width, {0}, {0}, height, width, static_cast<int>(input.height), static_cast<int>(input.width)};
}

/// The size of an image that is encoded whole (docs/bundle.md, "Whole images").
Shape WholeShape(const Preparation& prepare, std::int64_t height, std::int64_t width) {
    const int patch = prepare.features.patch, short_side = prepare.short_side, long_side = prepare.long_side;
    if (prepare.features.pads) return ResizeShape(height, width, short_side, long_side, kLeastSide);
    if (prepare.floors) return ResizeShape(height, width, short_side, long_side, kMinPatches * patch);
    return WholeImageShape(height, width, patch, short_side, long_side);
}

void CheckView(const ImageView& image) {
    if (image.data == nullptr) ThrowImage("the image has no pixels: its data is null");
    if (image.format < PixelFormat::kRgb || image.format > PixelFormat::kNv12)
        ThrowImage("the pixel format is unknown");
    const std::int64_t row = static_cast<std::int64_t>(image.width) * BytesPerPixel(image.format);
    if (image.stride != 0 && image.stride < row) {
        ThrowImage("the image's stride is " + std::to_string(image.stride) + " bytes; a row of " +
                   std::to_string(image.width) + " pixels has " + std::to_string(row));
    }
    if (image.format == PixelFormat::kNv12 && (image.width % 2 != 0 || image.height % 2 != 0)) {
        ThrowImage("an NV12 image has even sides; this one is " + std::to_string(image.width) + "×" +
                   std::to_string(image.height));
    }
}

void CutWindows(const std::vector<std::uint8_t>& resized, const Tiling& tiling, std::vector<std::uint8_t>* out) {
    const std::size_t row = static_cast<std::size_t>(tiling.input_width) * 3;
    out->resize(static_cast<std::size_t>(tiling.size()) * static_cast<std::size_t>(tiling.input_height) * row);
    std::uint8_t* to = out->data();
    for (const int top : tiling.rows) {
        for (const int left : tiling.columns) {
            for (int y = 0; y < tiling.input_height; ++y, to += row) {
                const std::size_t at = static_cast<std::size_t>(top + y) * static_cast<std::size_t>(tiling.width) +
                                       static_cast<std::size_t>(left);
                std::copy_n(resized.data() + at * 3, row, to);
            }
        }
    }
}

}  // namespace

Preparation Preparation::Over(const Manifest& manifest, const GridSpec& grid, const OpenOptions& options, int batch) {
    Preparation prepare{grid,
                        FeatureSizes::Of(manifest),
                        manifest.floors,
                        manifest.short_side,
                        manifest.long_side,
                        manifest.window,
                        manifest.stride,
                        options.max_pixels,
                        options.max_windows,
                        options.max_memory,
                        ModelSizes::Of(manifest, batch)};
    if (options.short_side != 0) prepare.short_side = options.short_side;
    if (options.stride != 0) prepare.stride = options.stride;
    if (prepare.short_side > prepare.long_side) {
        const std::string most = std::to_string(prepare.long_side);
        ThrowOption("short_side", "of " + std::to_string(prepare.short_side) + " is above " + most +
                                      ", to which the bundle limits the long side; use " + most + " or less");
    }
    if (prepare.stride > prepare.window) {
        ThrowOption("stride", "of " + std::to_string(prepare.stride) + " leaves gaps between windows of " +
                                  std::to_string(prepare.window) + " pixels; use " + std::to_string(prepare.window) +
                                  " or less");
    }
    return prepare;
}

Tiling Preparation::TilingOf(std::int64_t height, std::int64_t width) const {
    if (grid.kind == "window") {
        const Shape shape = ResizeShape(height, width, short_side, long_side, features.pads ? kLeastSide : window);
        CheckWindows(shape, window, stride, max_windows);
        const int rows = static_cast<int>(shape.height), columns = static_cast<int>(shape.width);
        const int high = std::min(rows, window), wide = std::min(columns, window);
        return {rows, columns, WindowStarts(rows, high, stride), WindowStarts(columns, wide, stride), high, wide,
                high, wide};
    }
    if (grid.rows > 0) {
        const Shape shape{static_cast<std::int64_t>(grid.rows) * features.patch,
                          static_cast<std::int64_t>(grid.columns) * features.patch};
        return Whole(shape, shape);
    }
    const Shape shape = WholeShape(*this, height, width);
    const auto rows = features.Patches(shape.height), columns = features.Patches(shape.width);
    const std::int64_t patches = rows * columns;
    if (patches > kMaxWholePatches) {
        ThrowImage("the image would be " + std::to_string(patches) + " patches at " + std::to_string(shape.width) +
                       "×" + std::to_string(shape.height) +
                       ", encoded whole; the limit is 8192: lower short_side, or use windows",
                   "short_side");
    }
    if (features.pads) return Whole(shape, shape);
    return Whole(shape, {rows * features.patch, columns * features.patch});
}

PreparedImage Preparation::operator()(const ImageView& image) const {
    CheckPixels(image.height, image.width, max_pixels);
    CheckView(image);
    PreparedImage prepared;
    prepared.height = image.height;
    prepared.width = image.width;
    prepared.tiling = TilingOf(image.height, image.width);
    CheckMemory(EstimatedBytes(prepared.tiling, image.height, image.width, model), max_memory);
    prepared.resized = Resize(image, prepared.tiling.height, prepared.tiling.width);
    CutWindows(prepared.resized, prepared.tiling, &prepared.windows);
    return prepared;
}

}  // namespace scclip
