#include "decode/pamr.hpp"

#include <algorithm>

#include "decode/threads.hpp"
#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

constexpr int kDilations[] = {8, 16};
constexpr int kPad = 16;                           // the largest of them
constexpr std::int64_t kMaxPixels = 34000000;      // an 8K frame: the weights take 64 bytes a pixel
constexpr int kStrip = 32;                         // rows per piece of work
constexpr std::size_t kScratchBytes = 32U << 20U;  // of a thread's maps, where more than one is worth it

struct Offset {
    int dy, dx;
};

std::array<Offset, kTaps> Offsets() {
    std::array<Offset, kTaps> offsets{};
    std::size_t count = 0;
    for (const int dilation : kDilations) {
        for (int dy = -1; dy <= 1; ++dy) {
            for (int dx = -1; dx <= 1; ++dx) {
                if (dy != 0 || dx != 0) offsets[count++] = {dy * dilation, dx * dilation};
            }
        }
    }
    return offsets;
}

/// Rows of floats with room for the neighbours of the first and the last pixel; rows beyond the first and the last are
/// those again, by number.
class Plane {
  public:
    Plane(int height, int width)
        : height_(height), width_(width), length_(Padded(static_cast<std::size_t>(width)) + 2 * kPad) {
        values_.resize(static_cast<std::size_t>(height) * length_);
    }
    float* Row(int y) { return values_.data() + At(y); }
    const float* Row(int y) const { return values_.data() + At(y); }

    void ReplicateBorders() {
        for (int y = 0; y < height_; ++y) {
            float *first = Row(y), *last = first + width_ - 1;
            std::fill(first - kPad, first, *first);
            std::fill(last + 1, first - kPad + length_, *last);
        }
    }

  private:
    int height_, width_;
    std::size_t length_;
    std::vector<float> values_;

    std::size_t At(int y) const { return static_cast<std::size_t>(std::clamp(y, 0, height_ - 1)) * length_ + kPad; }
};

/// The normalised image's channels at the size of the maps.
std::vector<Plane> ResizedChannels(const NormalizedImage& image, int height, int width, int threads) {
    std::vector<Plane> planes(3, Plane(height, width));
    std::vector<Sample> rows, columns;
    for (int y = 0; y < height; ++y) rows.push_back(BilinearSample(y, height, image.height));
    for (int x = 0; x < width; ++x) columns.push_back(BilinearSample(x, width, image.width));
    const std::size_t count = static_cast<std::size_t>(image.width) * 3;
    Parallel(static_cast<std::size_t>((height + kStrip - 1) / kStrip), threads, [&](std::size_t strip) {
        std::vector<float> joined(count);
        const int top = static_cast<int>(strip) * kStrip;
        for (int y = top; y < std::min(top + kStrip, height); ++y) {
            const Sample& at = rows[static_cast<std::size_t>(y)];
            const std::uint8_t* low = image.pixels + static_cast<std::size_t>(at.low) * count;
            const std::uint8_t* high = image.pixels + static_cast<std::size_t>(at.high) * count;
            const auto part = static_cast<float>(at.fraction);
            for (std::size_t i = 0; i < count; ++i) {
                const float mean = image.mean[i % 3], std = image.std[i % 3];
                const float a = (static_cast<float>(low[i]) - mean) / std,
                            b = (static_cast<float>(high[i]) - mean) / std;
                joined[i] = a + (b - a) * part;
            }
            for (std::size_t c = 0; c < 3; ++c) {
                float* out = planes[c].Row(y);
                for (const Sample& x : columns) {
                    const float a = joined[static_cast<std::size_t>(x.low) * 3 + c];
                    const float b = joined[static_cast<std::size_t>(x.high) * 3 + c];
                    *out++ = a + (b - a) * static_cast<float>(x.fraction);
                }
            }
        }
    });
    for (Plane& plane : planes) plane.ReplicateBorders();
    return planes;
}

/// One thread's maps, refined together.
class Refiner {
  public:
    Refiner(const PixelWeights& pixel_weights, const Simd& simd, std::size_t maps)
        : pixel_weights_(pixel_weights),
          simd_(simd),
          length_(pixel_weights.stride + 2 * kPad),
          gap_(length_ * static_cast<std::size_t>(pixel_weights.height)),
          front_(gap_ * maps),
          back_(gap_ * maps) {}

    /// The map of one query, (height, width); its rows are `length()` apart.
    float* Map(std::size_t map) { return front_.data() + map * gap_ + kPad; }
    std::size_t length() const { return length_; }

    void Run(std::size_t maps) {
        for (int step = 0; step < pixel_weights_.steps; ++step) {
            for (std::size_t row = 0; row < maps * static_cast<std::size_t>(pixel_weights_.height); ++row)
                ReplicateBorder(row);
            for (int y = 0; y < pixel_weights_.height; ++y) Step(y, maps);
            front_.swap(back_);
        }
    }

  private:
    const PixelWeights& pixel_weights_;
    const Simd& simd_;
    std::size_t length_, gap_;  // floats of a row with its borders, and of a map
    std::vector<float> front_, back_;

    void ReplicateBorder(std::size_t row) {
        float *first = front_.data() + row * length_ + kPad, *last = first + pixel_weights_.width - 1;
        std::fill(first - kPad, first, *first);
        std::fill(last + 1, first - kPad + length_, *last);
    }

    void Step(int y, std::size_t maps) {
        static const std::array<Offset, kTaps> offsets = Offsets();
        const float* sources[kTaps];
        for (std::size_t t = 0; t < kTaps; ++t) {
            const int row = std::clamp(y + offsets[t].dy, 0, pixel_weights_.height - 1);
            sources[t] = front_.data() + static_cast<std::size_t>(row) * length_ + kPad + offsets[t].dx;
        }
        const std::size_t at = static_cast<std::size_t>(y);
        simd_.refine(pixel_weights_.weights.data() + at * kTaps * pixel_weights_.stride, pixel_weights_.stride, sources,
                     gap_, maps, pixel_weights_.stride, back_.data() + at * length_ + kPad);
    }
};

/// One query's logits at the cells to its map: along the rows first, which are few, then down the columns.
template <typename Label>
class Interpolator {
  public:
    Interpolator(const Chunk<Label>& chunk, const Axis& rows, const Axis& columns, const Simd& simd)
        : chunk_(chunk),
          rows_(rows),
          columns_(columns),
          simd_(simd),
          length_(Padded(static_cast<std::size_t>(columns.length()))),
          wide_(static_cast<std::size_t>(rows.cells()) * length_) {}

    void Fill(std::size_t query, float* map, std::size_t length) {
        const std::size_t step = Padded(chunk_.classes.size());
        for (std::size_t row = 0; row < static_cast<std::size_t>(rows_.cells()); ++row) {
            const float* cells = chunk_.logits.data() + row * chunk_.columns * step + query;
            float* out = wide_.data() + row * length_;
            for (std::size_t x = 0; x + 1 < columns_.begin.size(); ++x) {
                float sum = 0;
                for (std::size_t t = columns_.begin[x]; t < columns_.begin[x + 1]; ++t) {
                    const CellWeight& tap = columns_.weights[t];
                    sum += tap.weight * cells[static_cast<std::size_t>(tap.cell) * step];
                }
                out[x] = sum;
            }
        }
        for (std::size_t y = 0; y + 1 < rows_.begin.size(); ++y) {
            sources_.clear(), weights_.clear();
            for (std::size_t t = rows_.begin[y]; t < rows_.begin[y + 1]; ++t) {
                sources_.push_back(wide_.data() + static_cast<std::size_t>(rows_.weights[t].cell) * length_);
                weights_.push_back(rows_.weights[t].weight);
            }
            simd_.combine(sources_.data(), weights_.data(), sources_.size(), length_, map + y * length);
        }
    }

  private:
    const Chunk<Label>& chunk_;
    const Axis &rows_, &columns_;
    const Simd& simd_;
    std::size_t length_;
    std::vector<float> wide_, weights_;  // (cell rows, padded width)
    std::vector<const float*> sources_;
};

std::size_t MapsAtOnce(const PixelWeights& pixel_weights) {
    const std::size_t bytes = 2 * sizeof(float) * static_cast<std::size_t>(pixel_weights.height) * pixel_weights.stride;
    return std::clamp<std::size_t>(kScratchBytes / bytes, 1, kMaxMaps);
}

}  // namespace

PixelWeights PamrWeights(const NormalizedImage& image, int height, int width, int threads, const Simd& simd) {
    if (static_cast<std::int64_t>(height) * width > kMaxPixels) {
        ThrowImage("PAMR holds 64 bytes a pixel and takes images of up to 34 million pixels; this one is " +
                   std::to_string(width) + "×" + std::to_string(height) + ". Shrink it, or segment without --refine.");
    }
    const int workers = WorkerThreads(threads);
    const std::vector<Plane> planes = ResizedChannels(image, height, width, workers);
    const std::array<Offset, kTaps> offsets = Offsets();
    PixelWeights pixel_weights;
    pixel_weights.height = height;
    pixel_weights.width = width;
    pixel_weights.stride = Padded(static_cast<std::size_t>(width));
    pixel_weights.weights.resize(static_cast<std::size_t>(height) * kTaps * pixel_weights.stride);
    Parallel(static_cast<std::size_t>((height + kStrip - 1) / kStrip), workers, [&](std::size_t strip) {
        const int top = static_cast<int>(strip) * kStrip;
        for (int y = top; y < std::min(top + kStrip, height); ++y) {
            const float* sources[3 * (kTaps + 1)];
            const float** next = sources;
            for (const Plane& plane : planes) {
                *next++ = plane.Row(y);
                for (const Offset& offset : offsets) *next++ = plane.Row(y + offset.dy) + offset.dx;
            }
            simd.pixel_weights(
                sources, pixel_weights.stride,
                pixel_weights.weights.data() + static_cast<std::size_t>(y) * kTaps * pixel_weights.stride);
        }
    });
    return pixel_weights;
}

template <typename Label>
void RefineChunk(const Chunk<Label>& chunk, const Axis& rows, const Axis& columns, const PixelWeights& pixel_weights,
                 int threads, const Simd& simd, Best<Label>* best) {
    const std::size_t count = chunk.classes.size(), most = MapsAtOnce(pixel_weights);
    const std::size_t groups = (count + most - 1) / most;
    const std::size_t runs = std::min(groups, static_cast<std::size_t>(std::max(threads, 1)));
    std::vector<Best<Label>> states(runs);
    Parallel(runs, threads, [&](std::size_t run) {
        Best<Label>& state = states[run];
        state.Reset(rows.length(), columns.length(), true, !best->total.empty());
        Refiner refiner(pixel_weights, simd, most);
        Interpolator<Label> interpolator(chunk, rows, columns, simd);
        for (std::size_t group = run * groups / runs; group < (run + 1) * groups / runs; ++group) {
            const std::size_t first = group * most, maps = std::min(most, count - first);
            for (std::size_t i = 0; i < maps; ++i) interpolator.Fill(first + i, refiner.Map(i), refiner.length());
            refiner.Run(maps);
            for (std::size_t i = 0; i < maps; ++i) {
                state.MergeMap(chunk.classes[first + i], refiner.Map(i), refiner.length());
            }
        }
    });
    for (const Best<Label>& state : states) best->MergeState(state);
}

template void RefineChunk(const Chunk<std::uint8_t>&, const Axis&, const Axis&, const PixelWeights&, int, const Simd&,
                          Best<std::uint8_t>*);
template void RefineChunk(const Chunk<std::uint16_t>&, const Axis&, const Axis&, const PixelWeights&, int, const Simd&,
                          Best<std::uint16_t>*);

}  // namespace scclip
