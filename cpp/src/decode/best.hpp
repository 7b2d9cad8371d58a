// The best query of every pixel, found tile by tile without keeping a map per query.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "decode/interpolation.hpp"
#include "decode/logits.hpp"

namespace scclip {

/// The best query of every pixel so far.
template <typename Label>
struct Best {
    int width = 0;
    std::vector<Label> labels;  ///< (height, width), its class
    std::vector<float> logit;   ///< its scaled logit; empty where nobody asks
    std::vector<float> total;   ///< the soft-max denominator relative to it: its probability is 1 / total; or empty

    void Reset(int height, int columns, bool keep_logit, bool soft) {
        const std::size_t pixels = static_cast<std::size_t>(height) * static_cast<std::size_t>(columns);
        width = columns;
        labels.assign(pixels, 0);
        if (keep_logit) logit.assign(pixels, -std::numeric_limits<float>::infinity());
        if (soft) total.assign(pixels, 0);
    }

    /// Bring in the best of further queries at a pixel; of equal ones the earlier stays.
    void Merge(std::size_t pixel, Label label, float value, float sum) {
        if (logit.empty()) {
            labels[pixel] = label;
            return;
        }
        const float running = logit[pixel];
        const bool better = value > running;
        if (!total.empty()) {
            // One of the two factors is 1: the sums are relative to whichever maximum is the larger.
            const float shrink = std::exp(-std::abs(value - running));
            total[pixel] = better ? total[pixel] * shrink + sum : total[pixel] + sum * shrink;
        }
        if (!better) return;
        labels[pixel] = label;
        logit[pixel] = value;
    }

    /// Bring in one query's map, whose rows are `length` apart.
    void MergeMap(Label label, const float* map, std::size_t length) {
        const auto columns = static_cast<std::size_t>(width);
        for (std::size_t row = 0; row < labels.size() / columns; ++row) {
            for (std::size_t x = 0; x < columns; ++x) Merge(row * columns + x, label, map[row * length + x], 1);
        }
    }

    /// Bring in the best of later queries, of the whole image.
    void MergeState(const Best& later) {
        for (std::size_t i = 0; i < labels.size(); ++i) {
            Merge(i, later.labels[i], later.logit[i], later.total.empty() ? 0 : later.total[i]);
        }
    }
};

/// One chunk of queries at the cells.
template <typename Label>
struct Chunk {
    std::vector<float> logits;   ///< (cell rows, cell columns, padded queries)
    std::vector<Label> classes;  ///< of each query
    std::size_t columns = 0;     ///< cell columns
};

/// What a thread needs to reduce a tile; made once per tile.
template <typename Label>
class TileReducer {
  public:
    TileReducer(const Chunk<Label>& chunk, const Axis& rows, const Axis& columns, const Simd& simd)
        : chunk_(chunk), rows_(rows), columns_(columns), simd_(simd) {}

    /// Bring the chunk into the running best of one tile, which no other thread touches.
    void Reduce(const Tile& tall, const Tile& wide, Best<Label>* state) {
        Gather(tall, wide, *state);
        if (classes_.empty()) return;
        const auto cells = static_cast<std::size_t>(wide.last - wide.first);
        part_.resize(cells * padded_);
        scratch_.resize(padded_);
        for (int y = tall.start; y < tall.stop; ++y) {
            std::size_t taps = Sources(rows_, y, tall.first, cells_.data(), cells * padded_);
            simd_.combine(sources_.data(), weights_.data(), taps, part_.size(), part_.data());
            for (int x = wide.start; x < wide.stop; ++x) {
                taps = Sources(columns_, x, wide.first, part_.data(), padded_);
                Pixel(
                    taps,
                    static_cast<std::size_t>(y) * static_cast<std::size_t>(state->width) + static_cast<std::size_t>(x),
                    state);
            }
        }
    }

    /// Bring the least and greatest value of each query's map over one tile into `low` and `high` (padded queries).
    void Range(const Tile& tall, const Tile& wide, float* low, float* high) {
        padded_ = Padded(chunk_.classes.size());
        CopyCells(tall, wide);
        const auto cells = static_cast<std::size_t>(wide.last - wide.first);
        const auto pixels = static_cast<std::size_t>(wide.stop - wide.start);
        part_.resize(cells * padded_);
        low_.resize(padded_), high_.resize(padded_);
        std::vector<float> row(pixels * padded_);
        for (int y = tall.start; y < tall.stop; ++y) {
            std::size_t taps = Sources(rows_, y, tall.first, cells_.data(), cells * padded_);
            simd_.combine(sources_.data(), weights_.data(), taps, part_.size(), part_.data());
            for (std::size_t x = 0; x < pixels; ++x) {
                taps = Sources(columns_, wide.start + static_cast<int>(x), wide.first, part_.data(), padded_);
                simd_.combine(sources_.data(), weights_.data(), taps, padded_, row.data() + x * padded_);
            }
            simd_.range(row.data(), pixels, padded_, low_.data(), high_.data());
            for (std::size_t q = 0; q < padded_; ++q) {
                low[q] = std::min(low[q], low_[q]);
                high[q] = std::max(high[q], high_[q]);
            }
        }
    }

  private:
    const Chunk<Label>& chunk_;
    const Axis &rows_, &columns_;
    const Simd& simd_;
    std::vector<float> cells_, part_, scratch_, low_, high_, weights_;
    std::vector<const float*> sources_;
    std::vector<Label> classes_;
    std::size_t padded_ = 0;

    void Pixel(std::size_t taps, std::size_t pixel, Best<Label>* state) {
        std::uint32_t index = 0;
        float sum = 0;
        const float value = state->total.empty() ? simd_.best(sources_.data(), weights_.data(), taps, padded_, &index)
                                                 : simd_.best_soft(sources_.data(), weights_.data(), taps, padded_,
                                                                   &index, &sum, scratch_.data());
        state->Merge(pixel, classes_[index], value, sum);
    }

    std::size_t Sources(const Axis& axis, int pixel, int first, const float* base, std::size_t step) {
        const std::size_t begin = axis.begin[static_cast<std::size_t>(pixel)];
        const std::size_t taps = axis.begin[static_cast<std::size_t>(pixel) + 1] - begin;
        if (sources_.size() < taps) sources_.resize(taps), weights_.resize(taps);
        for (std::size_t t = 0; t < taps; ++t) {
            const CellWeight& tap = axis.weights[begin + t];
            sources_[t] = base + static_cast<std::size_t>(tap.cell - first) * step;
            weights_[t] = tap.weight;
        }
        return taps;
    }

    /// Copy the tile's cells, with only the queries that can matter in it: a pixel is a weighted mean of cells, so it
    /// lies within their range. Those whose highest cell is below what another query has everywhere never win. For
    /// the soft-max they are left out only where all of them together would change the sum by less than 1e-7 of it.
    void Gather(const Tile& tall, const Tile& wide, const Best<Label>& state) {
        const std::size_t all = Padded(chunk_.classes.size()), count = CopyCells(tall, wide);
        const std::vector<std::size_t> kept = Possible(count, all, tall, wide, state);
        classes_.clear();
        for (const std::size_t query : kept) classes_.push_back(chunk_.classes[query]);
        padded_ = Padded(kept.size());
        if (padded_ == all || kept.empty()) {
            classes_ = kept.empty() ? classes_ : chunk_.classes;
            return;
        }
        float* to = cells_.data();  // in place: never ahead of what is read
        for (std::size_t cell = 0; cell < count; ++cell) {
            const float* from = cells_.data() + cell * all;
            for (const std::size_t query : kept) *to++ = from[query];
            for (std::size_t i = kept.size(); i < padded_; ++i) *to++ = kPadding;
        }
    }

    /// The tile's cells with all queries, into `cells_`; returns how many there are.
    std::size_t CopyCells(const Tile& tall, const Tile& wide) {
        const std::size_t all = Padded(chunk_.classes.size());
        const auto height = static_cast<std::size_t>(tall.last - tall.first);
        const auto width = static_cast<std::size_t>(wide.last - wide.first);
        cells_.resize(height * width * all);
        for (std::size_t row = 0; row < height; ++row) {
            const std::size_t cell =
                (static_cast<std::size_t>(tall.first) + row) * chunk_.columns + static_cast<std::size_t>(wide.first);
            const auto from = chunk_.logits.begin() + static_cast<std::ptrdiff_t>(cell * all);
            std::copy(from, from + static_cast<std::ptrdiff_t>(width * all),
                      cells_.begin() + static_cast<std::ptrdiff_t>(row * width * all));
        }
        return height * width;
    }

    std::vector<std::size_t> Possible(std::size_t count, std::size_t all, const Tile& tall, const Tile& wide,
                                      const Best<Label>& state) {
        low_.resize(all), high_.resize(all);
        simd_.range(cells_.data(), count, all, low_.data(), high_.data());
        float surely = *std::max_element(low_.begin(), low_.end());
        if (!state.logit.empty()) surely = std::max(surely, LeastRunning(tall, wide, state));
        const double rounding = 1e-5 * std::max(1.0, static_cast<double>(std::abs(surely)));
        const double margin = state.total.empty() ? 0.0 : std::log(1e6 / 1e-7);  // at most a million queries
        std::vector<std::size_t> kept;
        for (std::size_t query = 0; query < chunk_.classes.size(); ++query) {
            if (high_[query] >= surely - margin - rounding) kept.push_back(query);
        }
        return kept;
    }

    static float LeastRunning(const Tile& tall, const Tile& wide, const Best<Label>& state) {
        float least = std::numeric_limits<float>::infinity();
        for (int y = tall.start; y < tall.stop; ++y) {
            const float* row = state.logit.data() + static_cast<std::ptrdiff_t>(y) * state.width;
            least = std::min(least, *std::min_element(row + wide.start, row + wide.stop));
        }
        return least;
    }
};

}  // namespace scclip
