#include "image/geometry.hpp"

#include <algorithm>

#include "errors.hpp"

namespace scclip {
namespace {

constexpr std::int64_t kMinPatches = 6;

std::int64_t HalfUp(double value) { return static_cast<std::int64_t>(value + 0.5); }

std::int64_t Count(std::int64_t length, int window, int stride) {
    return std::max<std::int64_t>(length - window + stride - 1, 0) / stride + 1;
}

std::string Size(const Shape& shape) { return std::to_string(shape.width) + "×" + std::to_string(shape.height); }

}  // namespace

Shape ResizeShape(std::int64_t height, std::int64_t width, int short_side, int long_side, int min_side) {
    const auto longest = static_cast<double>(std::max(height, width));
    const auto shortest = static_cast<double>(std::min(height, width));
    double scale = std::min(long_side / longest, short_side / shortest);
    scale = std::max(scale, min_side / shortest);
    return {HalfUp(static_cast<double>(height) * scale), HalfUp(static_cast<double>(width) * scale)};
}

Shape WholeImageShape(std::int64_t height, std::int64_t width, int patch, int short_side, int long_side) {
    const Shape shape = ResizeShape(height, width, short_side, long_side, 0);
    const auto side = [&](std::int64_t pixels) {
        return std::max(HalfUp(static_cast<double>(pixels) / patch), kMinPatches) * patch;
    };
    return {side(shape.height), side(shape.width)};
}

std::vector<int> WindowStarts(int length, int window, int stride) {
    std::vector<int> starts;
    const std::int64_t count = Count(length, window, stride);
    for (std::int64_t i = 0; i < count; ++i) {
        starts.push_back(static_cast<int>(std::min<std::int64_t>(stride * i + window, length)) - window);
    }
    return starts;
}

void CheckPixels(std::int64_t height, std::int64_t width, std::int64_t max_pixels) {
    if (height < 1 || width < 1) ThrowImage("the image has no pixels: its size is " + Size({height, width}));
    if (height * width > max_pixels) {
        ThrowImage("the image is " + Size({height, width}) + ", more than " + std::to_string(max_pixels) +
                       " pixels: shrink it, or raise max_pixels",
                   "max_pixels");
    }
}

void CheckWindows(const Shape& shape, int window, int stride, std::int64_t max_windows) {
    const std::int64_t count = Count(shape.height, window, stride) * Count(shape.width, window, stride);
    if (count <= max_windows) return;
    ThrowImage("the image needs " + std::to_string(count) + " windows at " + Size(shape) + ", more than " +
                   std::to_string(max_windows) + ": crop it, lower short_side, or raise max_windows",
               "max_windows");
}

}  // namespace scclip
