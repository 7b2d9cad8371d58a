#include "image/resize.hpp"

#include <algorithm>
#include <cmath>
#include <cstddef>

namespace scclip {
namespace {

struct Tap {
    std::ptrdiff_t low, high;  // pixels, clamped
    int low_weight, high_weight;
};

std::vector<Tap> Taps(int out, int in, bool horizontal) {
    const double scale = 1.0 / (static_cast<double>(out) / in);
    std::vector<Tap> taps(static_cast<std::size_t>(out));
    for (int i = 0; i < out; ++i) {
        const auto at = static_cast<float>((i + 0.5) * scale - 0.5);
        int k = static_cast<int>(std::floor(at));
        float f = at - static_cast<float>(k);
        if (horizontal && k < 0) k = 0, f = 0;
        if (horizontal && k >= in - 1) k = in - 1, f = 0;
        taps[static_cast<std::size_t>(i)] = {std::clamp(k, 0, in - 1), std::clamp(k + 1, 0, in - 1),
                                             static_cast<int>(std::nearbyint((1.0F - f) * 2048.0F)),
                                             static_cast<int>(std::nearbyint(f * 2048.0F))};
    }
    return taps;
}

/// Where a pixel's red, green and blue lie, whatever the format.
class Source {
  public:
    explicit Source(const ImageView& image)
        : data_(image.data), step_(BytesPerPixel(image.format)), stride_(image.stride) {
        if (stride_ == 0) stride_ = step_ * image.width;
        if (image.format == PixelFormat::kBgr || image.format == PixelFormat::kBgra) offset_[0] = 2, offset_[2] = 0;
        if (image.format == PixelFormat::kGray) offset_[1] = offset_[2] = 0;
    }
    const std::uint8_t* Row(std::ptrdiff_t row) const { return data_ + row * stride_; }
    std::ptrdiff_t step() const { return step_; }
    std::ptrdiff_t offset(int channel) const { return offset_[channel]; }

  private:
    const std::uint8_t* data_;
    std::ptrdiff_t step_, stride_;
    std::ptrdiff_t offset_[3] = {0, 1, 2};
};

void Copy(const Source& source, int height, int width, std::uint8_t* out) {
    for (int y = 0; y < height; ++y) {
        const std::uint8_t* row = source.Row(y);
        for (int x = 0; x < width; ++x, row += source.step()) {
            for (int c = 0; c < 3; ++c) *out++ = row[source.offset(c)];
        }
    }
}

void Halve(const Source& source, int height, int width, std::uint8_t* out) {
    for (int y = 0; y < height; ++y) {
        const std::uint8_t *top = source.Row(2 * y), *bottom = source.Row(2 * y + 1);
        for (int x = 0; x < width; ++x) {
            for (int c = 0; c < 3; ++c) {
                const std::ptrdiff_t left = 2 * x * source.step() + source.offset(c), right = left + source.step();
                *out++ = static_cast<std::uint8_t>((top[left] + top[right] + bottom[left] + bottom[right] + 2) >> 2);
            }
        }
    }
}

/// A source row resized horizontally, already shifted by 4: (width, 3).
void ResizeRow(const Source& source, std::ptrdiff_t row, const std::vector<Tap>& taps, std::int32_t* out) {
    const std::uint8_t* pixels = source.Row(row);
    for (const Tap& tap : taps) {
        const std::uint8_t *low = pixels + tap.low * source.step(), *high = pixels + tap.high * source.step();
        for (int c = 0; c < 3; ++c) {
            *out++ = (low[source.offset(c)] * tap.low_weight + high[source.offset(c)] * tap.high_weight) >> 4;
        }
    }
}

void JoinRows(const std::int32_t* low, const std::int32_t* high, const Tap& tap, std::size_t count, std::uint8_t* out) {
    for (std::size_t i = 0; i < count; ++i) {
        const std::int32_t sum = ((tap.low_weight * low[i]) >> 16) + ((tap.high_weight * high[i]) >> 16);
        out[i] = static_cast<std::uint8_t>((sum + 2) >> 2);
    }
}

/// NV12 to RGB in OpenCV's arithmetic: BT.601 in whole numbers of 2⁻²⁰, rounded by an added half.
std::vector<std::uint8_t> Nv12ToRgb(const ImageView& image) {
    const std::ptrdiff_t stride = image.stride == 0 ? image.width : image.stride;
    const std::uint8_t* chroma = image.uv == nullptr ? image.data + stride * image.height : image.uv;
    const auto clamped = [](int value) { return static_cast<std::uint8_t>(std::clamp(value >> 20, 0, 255)); };
    std::vector<std::uint8_t> rgb(static_cast<std::size_t>(image.height) * static_cast<std::size_t>(image.width) * 3);
    std::uint8_t* out = rgb.data();
    for (int y = 0; y < image.height; ++y) {
        const std::uint8_t *light = image.data + y * stride, *pairs = chroma + y / 2 * stride;
        for (int x = 0; x < image.width; ++x) {
            constexpr int kHalf = 1 << 19;
            const int base = std::max(light[x] - 16, 0) * 1220542;
            const int u = pairs[x / 2 * 2] - 128, v = pairs[x / 2 * 2 + 1] - 128;
            *out++ = clamped(base + kHalf + 1673527 * v);
            *out++ = clamped(base + kHalf - 852492 * v - 409993 * u);
            *out++ = clamped(base + kHalf + 2116026 * u);
        }
    }
    return rgb;
}

}  // namespace

int BytesPerPixel(PixelFormat format) {
    if (format == PixelFormat::kGray || format == PixelFormat::kNv12) return 1;
    return format == PixelFormat::kBgra || format == PixelFormat::kRgba ? 4 : 3;
}

std::vector<std::uint8_t> Resize(const ImageView& image, int height, int width) {
    if (image.format == PixelFormat::kNv12) {
        const std::vector<std::uint8_t> rgb = Nv12ToRgb(image);
        return Resize({rgb.data(), image.height, image.width, 0, PixelFormat::kRgb}, height, width);
    }
    const std::size_t count = static_cast<std::size_t>(width) * 3;
    std::vector<std::uint8_t> out(static_cast<std::size_t>(height) * count);
    const Source source(image);
    if (image.height == height && image.width == width) {
        Copy(source, height, width, out.data());
        return out;
    }
    if (image.height == 2 * static_cast<std::int64_t>(height) && image.width == 2 * static_cast<std::int64_t>(width)) {
        Halve(source, height, width, out.data());
        return out;
    }
    const std::vector<Tap> columns = Taps(width, image.width, true), rows = Taps(height, image.height, false);
    // Two rows are kept: going down, the lower one of the last pair is often the upper one of the next.
    std::vector<std::int32_t> buffers[2] = {std::vector<std::int32_t>(count), std::vector<std::int32_t>(count)};
    std::ptrdiff_t held[2] = {-1, -1};
    const auto fetch = [&](std::ptrdiff_t row, std::ptrdiff_t keep) {
        for (int i = 0; i < 2; ++i) {
            if (held[i] == row) return i;
        }
        const int slot = held[0] == keep ? 1 : 0;
        ResizeRow(source, row, columns, buffers[slot].data());
        held[slot] = row;
        return slot;
    };
    for (std::size_t y = 0; y < rows.size(); ++y) {
        const int low = fetch(rows[y].low, rows[y].high), high = fetch(rows[y].high, rows[y].low);
        JoinRows(buffers[low].data(), buffers[high].data(), rows[y], count, out.data() + y * count);
    }
    return out;
}

}  // namespace scclip
