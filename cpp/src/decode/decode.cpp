#include "decode/decode.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>
#include <type_traits>

#include "decode/best.hpp"
#include "decode/threads.hpp"
#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

constexpr std::size_t kMaxChunk = 512;

using Queries = std::vector<std::uint32_t>;

void CheckFinite(const float* values, std::size_t count) {
    // Infinity and NaN alone stay NaN times zero; a sum lets the compiler use vectors.
    float sum = 0;
    for (std::size_t i = 0; i < count; ++i) sum += values[i] * 0.0F;
    if (sum == 0) return;
    ThrowBackend(
        "the encoder returned NaN or infinity; the model file or the precision is unsound. Check the bundle with "
        "'scclip inspect', or use --precision fp32.");
}

/// For each feature row where its logits go: patches of neighbouring windows interleave.
std::vector<std::size_t> Places(const DecodePlan& plan) {
    std::vector<std::size_t> places;
    const auto width = static_cast<std::size_t>(plan.columns.cells());
    for (int wy = 0; wy < plan.window_rows; ++wy) {
        for (int wx = 0; wx < plan.window_columns; ++wx) {
            for (int gy = 0; gy < plan.grid_rows; ++gy) {
                for (int gx = 0; gx < plan.grid_columns; ++gx) {
                    const auto row = static_cast<std::size_t>(wy * plan.grid_rows + gy);
                    const auto column = static_cast<std::size_t>(wx * plan.grid_columns + gx);
                    places.push_back(static_cast<std::size_t>(plan.rows.rank[row]) * width +
                                     static_cast<std::size_t>(plan.columns.rank[column]));
                }
            }
        }
    }
    return places;
}

/// The logit maps of one image, asked for the best query per pixel.
template <typename Label>
class LogitField {
  public:
    LogitField(const DecodeInput& input, const DecodePlan& plan)
        : input_(input),
          plan_(plan),
          places_(Places(plan)),
          scales_(Scales(input)),
          simd_(input.simd != nullptr ? *input.simd : BestSimd()),
          threads_(WorkerThreads(input.threads)) {}

    std::size_t cells() const { return places_.size(); }

    /// Make each query's map reach from 0 to the scale over the image. A pixel's weights add up to 1, so that scaling
    /// and shifting the patches' logits does the same to the map.
    void Stretch(const Queries& all) {
        std::vector<float> lowest(all.size()), length(all.size());
        for (const Queries& queries : Chunks(all)) {
            const std::vector<float> range = Range(MakeChunk(queries));
            for (std::size_t q = 0; q < queries.size(); ++q) {
                lowest[queries[q]] = range[q];
                length[queries[q]] = range[Padded(queries.size()) + q] - range[q] + 1e-12F;
            }
        }
        scales_.lowest = std::move(lowest);
        scales_.length = std::move(length);
        scales_.scale = static_cast<float>(input_.logit_scale);
    }

    /// The best of `queries` at every pixel; only in tiles with a pixel of a class in `removed`, if given.
    Best<Label> Find(const Queries& queries, bool soft, bool keep_best, const Best<Label>* before = nullptr,
                     const std::vector<char>* removed = nullptr) const {
        const std::vector<Queries> chunks = Chunks(queries);
        Best<Label> state;
        const bool keep_logit = soft || keep_best || chunks.size() > 1 || input_.refine != nullptr;
        state.Reset(plan_.rows.length(), plan_.columns.length(), keep_logit, soft);
        const std::vector<std::pair<Tile, Tile>> pieces = Pieces(before, removed);
        for (const Queries& part : chunks) {
            const Chunk<Label> chunk = MakeChunk(part);
            if (input_.refine != nullptr) {
                RefineChunk(chunk, plan_.rows, plan_.columns, *input_.refine, threads_, simd_, &state);
                continue;
            }
            Parallel(pieces.size(), threads_, [&](std::size_t piece) {
                TileReducer<Label> reducer(chunk, plan_.rows, plan_.columns, simd_);
                reducer.Reduce(pieces[piece].first, pieces[piece].second, &state);
            });
        }
        return state;
    }

  private:
    const DecodeInput& input_;
    const DecodePlan& plan_;
    std::vector<std::size_t> places_;
    QueryScales scales_;
    const Simd& simd_;
    int threads_;

    static QueryScales Scales(const DecodeInput& input) {
        // Of maps that are stretched afterwards the scale comes with that.
        const auto scale = input.stretched ? 1.0F : static_cast<float>(input.logit_scale);
        QueryScales scales{std::vector<float>(input.query_class->size(), scale), {}, {}};
        for (std::size_t q = 0; input.query_weight != nullptr && q < scales.factor.size(); ++q) {
            scales.factor[q] *= (*input.query_weight)[q];
        }
        return scales;
    }

    /// Queries cut so that the patches' logits of a chunk stay within `logit_bytes`.
    std::vector<Queries> Chunks(const Queries& queries) const {
        const std::size_t size = std::clamp<std::size_t>(input_.logit_bytes / (4 * cells()), 1, kMaxChunk);
        const std::size_t count = (queries.size() + size - 1) / size;
        const auto at = [&](std::size_t i) {
            return queries.begin() + static_cast<std::ptrdiff_t>(i * queries.size() / count);
        };
        std::vector<Queries> chunks;
        for (std::size_t i = 0; i < count; ++i) chunks.emplace_back(at(i), at(i + 1));
        return chunks;
    }

    /// The least value of each query's map over the image, then the greatest; (2, padded queries).
    std::vector<float> Range(const Chunk<Label>& chunk) const {
        constexpr float kInfinity = std::numeric_limits<float>::infinity();
        const std::size_t padded = Padded(chunk.classes.size());
        std::vector<float> range(padded, kInfinity);
        range.resize(2 * padded, -kInfinity);
        const std::vector<std::pair<Tile, Tile>> pieces = Pieces(nullptr, nullptr);
        std::mutex mutex;  // of `range`
        Parallel(pieces.size(), threads_, [&](std::size_t piece) {
            std::vector<float> own(padded, kInfinity);
            own.resize(2 * padded, -kInfinity);
            TileReducer<Label>(chunk, plan_.rows, plan_.columns, simd_)
                .Range(pieces[piece].first, pieces[piece].second, own.data(), own.data() + padded);
            const std::lock_guard<std::mutex> lock(mutex);
            for (std::size_t q = 0; q < padded; ++q) {
                range[q] = std::min(range[q], own[q]);
                range[padded + q] = std::max(range[padded + q], own[padded + q]);
            }
        });
        return range;
    }

    Chunk<Label> MakeChunk(const Queries& queries) const {
        Chunk<Label> chunk;
        for (const std::uint32_t query : queries)
            chunk.classes.push_back(static_cast<Label>((*input_.query_class)[query]));
        chunk.columns = static_cast<std::size_t>(plan_.columns.cells());
        MultiplyText(input_.features, cells(), input_.embed_dim, input_.text, scales_, queries, places_, threads_,
                     simd_, &chunk.logits);
        return chunk;
    }

    std::vector<std::pair<Tile, Tile>> Pieces(const Best<Label>* before, const std::vector<char>* removed) const {
        std::vector<std::pair<Tile, Tile>> pieces;
        for (const Tile& tall : plan_.rows.tiles) {
            for (const Tile& wide : plan_.columns.tiles) {
                if (removed == nullptr || Affected(tall, wide, *before, *removed)) pieces.emplace_back(tall, wide);
            }
        }
        return pieces;
    }

    static bool Affected(const Tile& tall, const Tile& wide, const Best<Label>& before,
                         const std::vector<char>& removed) {
        for (int y = tall.start; y < tall.stop; ++y) {
            const Label* row = before.labels.data() + static_cast<std::ptrdiff_t>(y) * before.width;
            if (std::any_of(row + wide.start, row + wide.stop, [&](Label label) { return removed[label] != 0; })) {
                return true;
            }
        }
        return false;
    }
};

/// Mark the classes with at most `area_threshold` of all foreground pixels.
template <typename Label>
void MarkSmall(const std::vector<Label>& labels, const DecodeInput& input, std::vector<char>* removed) {
    std::vector<std::int64_t> counts(static_cast<std::size_t>(input.num_classes));
    for (const Label label : labels) ++counts[label];
    if (input.background) counts[static_cast<std::size_t>(*input.background)] = 0;
    std::int64_t all = 0;
    for (const std::int64_t count : counts) all += count;
    for (std::size_t i = 0; i < counts.size(); ++i) {
        if (static_cast<double>(counts[i]) <= input.area_threshold * static_cast<double>(all)) (*removed)[i] = 1;
    }
}

/// Mark the classes that no pixel has with the probability `class_threshold`.
template <typename Label>
void MarkFaint(const Best<Label>& best, const DecodeInput& input, std::vector<char>* removed) {
    std::vector<float> highest(removed->size());
    for (std::size_t i = 0; i < best.labels.size(); ++i) {
        float& own = highest[best.labels[i]];
        own = std::max(own, 1.0F / best.total[i]);
    }
    for (std::size_t i = 0; i < highest.size(); ++i) {
        if (highest[i] < static_cast<float>(input.class_threshold)) (*removed)[i] = 1;
    }
}

/// Give the pixels of removed classes to the best class that remains. Probabilities stay those over all queries, as in
/// the reference: `total` grows by what the second best is below the best.
template <typename Label>
void Reassign(const LogitField<Label>& field, const DecodeInput& input, const std::vector<char>& removed,
              Label unlabelled, Best<Label>* best) {
    Queries kept;
    for (std::uint32_t query = 0; query < input.query_class->size(); ++query) {
        if (removed[static_cast<std::size_t>((*input.query_class)[query])] == 0) kept.push_back(query);
    }
    if (kept.empty()) {
        std::fill(best->labels.begin(), best->labels.end(), unlabelled);
        std::fill(best->total.begin(), best->total.end(), std::numeric_limits<float>::infinity());
        return;
    }
    const bool soft = !best->total.empty();
    const Best<Label> second = field.Find(kept, false, soft, best, &removed);
    for (std::size_t i = 0; i < best->labels.size(); ++i) {
        if (removed[best->labels[i]] == 0) continue;
        best->labels[i] = second.labels[i];
        if (soft) best->total[i] /= std::exp(second.logit[i] - best->logit[i]);
    }
}

template <typename Label>
Decoded DecodeAs(const DecodeInput& input, const DecodePlan& plan) {
    constexpr bool kWide = std::is_same<Label, std::uint16_t>::value;
    const Label unlabelled = std::numeric_limits<Label>::max();
    LogitField<Label> field(input, plan);
    CheckFinite(input.features, field.cells() * input.embed_dim);
    Queries all;
    for (std::uint32_t query = 0; query < input.query_class->size(); ++query) all.push_back(query);
    if (input.stretched) field.Stretch(all);
    const bool area = input.area_threshold > 0, faint = input.class_threshold > 0;
    const bool soft = input.confidence || input.prob_threshold > 0 || faint;
    Best<Label> best = field.Find(all, soft, soft && (area || faint));
    if (area || faint) {
        std::vector<char> removed(static_cast<std::size_t>(input.num_classes));
        if (area) MarkSmall(best.labels, input, &removed);
        if (faint) MarkFaint(best, input, &removed);
        if (input.background) removed[static_cast<std::size_t>(*input.background)] = 0;
        const bool any = std::find(removed.begin(), removed.end(), 1) != removed.end();
        if (any) Reassign(field, input, removed, unlabelled, &best);
    }
    const auto threshold = static_cast<float>(input.prob_threshold);
    const Label cut = input.background ? static_cast<Label>(*input.background) : unlabelled;
    for (std::size_t i = 0; i < best.total.size(); ++i) {
        best.total[i] = 1.0F / best.total[i];
        if (best.total[i] < threshold) best.labels[i] = cut;
    }
    Decoded decoded;
    decoded.unlabelled = unlabelled;
    if constexpr (kWide)
        decoded.wide_labels = std::move(best.labels);
    else
        decoded.labels = std::move(best.labels);
    if (input.confidence) decoded.confidence = std::move(best.total);
    return decoded;
}

}  // namespace

Decoded Decode(const DecodeInput& input, const DecodePlan& plan) {
    if (input.num_classes <= 254) return DecodeAs<std::uint8_t>(input, plan);
    if (input.num_classes <= 65534) return DecodeAs<std::uint16_t>(input, plan);
    ThrowOption("classes", "must be 65534 at most, for what a label holds; got " + std::to_string(input.num_classes));
}

std::vector<float> WindowLogits(const DecodeInput& input, std::size_t rows) {
    Queries all;
    std::vector<std::size_t> places;
    for (std::uint32_t query = 0; query < input.query_class->size(); ++query) all.push_back(query);
    for (std::size_t row = 0; row < rows; ++row) places.push_back(row);
    std::vector<float> padded, out;
    const QueryScales scales{std::vector<float>(all.size(), static_cast<float>(input.logit_scale)), {}, {}};
    MultiplyText(input.features, rows, input.embed_dim, input.text, scales, all, places, 1,
                 input.simd != nullptr ? *input.simd : BestSimd(), &padded);
    for (std::size_t row = 0; row < rows; ++row) {
        const auto from = padded.begin() + static_cast<std::ptrdiff_t>(row * Padded(all.size()));
        out.insert(out.end(), from, from + static_cast<std::ptrdiff_t>(all.size()));
    }
    return out;
}

}  // namespace scclip
