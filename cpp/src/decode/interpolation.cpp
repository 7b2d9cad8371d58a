#include "decode/interpolation.hpp"

#include <algorithm>
#include <numeric>
#include <utility>

namespace scclip {
namespace {

std::vector<int> Ranks(const std::vector<int>& starts, int padded, int before, int cells) {
    std::vector<double> centres;
    for (const int start : starts) {
        for (int i = 0; i < cells; ++i)
            centres.push_back(start - before + (i + 0.5) * (static_cast<double>(padded) / cells));
    }
    std::vector<int> order(centres.size()), rank(centres.size());
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int a, int b) {
        return centres[static_cast<std::size_t>(a)] < centres[static_cast<std::size_t>(b)];
    });
    for (std::size_t i = 0; i < order.size(); ++i) rank[static_cast<std::size_t>(order[i])] = static_cast<int>(i);
    return rank;
}

/// Few entries, sorted at the end: a map would take most of the time of a plan.
class Sums {
  public:
    void Add(int cell, double weight) {
        for (auto& entry : entries_) {
            if (entry.first == cell) {
                entry.second += weight;
                return;
            }
        }
        entries_.emplace_back(cell, weight);
    }
    const std::vector<std::pair<int, double>>& Sorted() {
        std::sort(entries_.begin(), entries_.end());
        return entries_;
    }
    void Clear() { entries_.clear(); }

  private:
    std::vector<std::pair<int, double>> entries_;
};

class Builder {
  public:
    Builder(const std::vector<int>& starts, int window, int padding, int cells, const std::vector<int>& rank)
        : starts_(starts), window_(window), padding_(padding), cells_(cells), rank_(rank) {}

    /// Add `weight` times the value of pixel `pixel` of the resized image: the mean over the windows that cover it.
    void AddPixel(int pixel, double weight, Sums* sums) const {
        // Starts ascend: the covering windows are a run.
        const auto first = std::upper_bound(starts_.begin(), starts_.end(), pixel - window_);
        const auto last = std::upper_bound(starts_.begin(), starts_.end(), pixel);
        const double share = weight / static_cast<double>(last - first);
        for (auto start = first; start != last; ++start) {
            const Sample sample = BilinearSample(pixel - *start + padding_ / 2, window_ + padding_, cells_);
            const int base = static_cast<int>(start - starts_.begin()) * cells_;
            sums->Add(Rank(base + sample.low), share * (1 - sample.fraction));
            sums->Add(Rank(base + sample.high), share * sample.fraction);
        }
    }

  private:
    const std::vector<int>& starts_;
    int window_, padding_, cells_;
    const std::vector<int>& rank_;
    int Rank(int cell) const { return rank_[static_cast<std::size_t>(cell)]; }
};

}  // namespace

Sample BilinearSample(int position, int out_length, int in_length) {
    const double scale = static_cast<double>(in_length) / out_length;
    const double source = std::max((position + 0.5) * scale - 0.5, 0.0);
    const int low = std::min(static_cast<int>(source), in_length - 1);
    return {low, std::min(low + 1, in_length - 1), source - low};
}

Axis InterpolationAxis(const std::vector<int>& starts, int window, int cells, int resized, int length, int tile,
                       int padding) {
    Axis axis;
    axis.rank = Ranks(starts, window + padding, padding / 2, cells);
    const Builder builder(starts, window, padding, cells, axis.rank);
    Sums sums;
    axis.begin.push_back(0);
    for (int start = 0; start < length; start += tile) {
        Tile part{start, std::min(start + tile, length), axis.cells(), 0};
        for (int i = part.start; i < part.stop; ++i) {
            const Sample sample = BilinearSample(i, length, resized);
            sums.Clear();
            builder.AddPixel(sample.low, 1 - sample.fraction, &sums);
            builder.AddPixel(sample.high, sample.fraction, &sums);
            for (const auto& [cell, weight] : sums.Sorted()) {
                if (weight == 0) continue;
                axis.weights.push_back({cell, static_cast<float>(weight)});
                part.first = std::min(part.first, cell);
                part.last = std::max(part.last, cell + 1);
            }
            axis.begin.push_back(axis.weights.size());
        }
        axis.tiles.push_back(part);
    }
    return axis;
}

}  // namespace scclip
