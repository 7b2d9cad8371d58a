// A task for a GPU's encoder, and a stand-in for an engine that computes it on the host: features of a patch from its
// mean colour. Shared by the tests on the driver that works on host memory and those on a real GPU.
#pragma once

#include <doctest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "backends/cuda/encoder.hpp"
#include "fixtures.hpp"

namespace device_task {

constexpr int kPatch = 16, kEmbed = 8;

/// Unit features of a window's patches from the mean colour, some of them made up.
inline std::vector<float> PatchFeatures(const std::uint8_t* window, int height, int width) {
    std::vector<float> features;
    for (int top = 0; top < height; top += kPatch) {
        for (int left = 0; left < width; left += kPatch) {
            double sums[3] = {}, length = 0, values[kEmbed];
            for (int i = 0; i < kPatch * kPatch * 3; ++i) {
                const int y = top + i / (kPatch * 3), x = left * 3 + i % (kPatch * 3);
                sums[i % 3] += window[y * width * 3 + x];
            }
            for (int e = 0; e < kEmbed; ++e) {
                values[e] = std::sin(sums[e % 3] / 3000 + e);
                length += values[e] * values[e];
            }
            for (const double value : values) features.push_back(static_cast<float>(value / std::sqrt(length)));
        }
    }
    return features;
}

/// What an engine is asked to do, on host memory.
struct HostGraph {
    int batch, height, width, queries;
    bool broken = false;  ///< cosines that are not numbers
    const std::uint8_t* windows = nullptr;
    const float* text = nullptr;
    float *features = nullptr, *cosines = nullptr;

    void Compute() const {
        const std::size_t window = static_cast<std::size_t>(height * width * 3);
        float *feature = features, *cosine = cosines;
        for (int w = 0; w < batch; ++w) {
            const auto values = PatchFeatures(windows + static_cast<std::size_t>(w) * window, height, width);
            feature = std::copy(values.begin(), values.end(), feature);
            for (std::size_t patch = 0; patch < values.size(); patch += kEmbed) {
                for (int q = 0; q < queries; ++q) {
                    float sum = broken ? std::nanf("") : 0;
                    for (int e = 0; e < kEmbed; ++e)
                        sum += values[patch + static_cast<std::size_t>(e)] * text[q * kEmbed + e];
                    *cosine++ = sum;
                }
            }
        }
    }
};

/// An image with its windows, a vocabulary, and what the decode on the host makes of them.
struct Task {
    scclip::PreparedImage image;
    std::vector<float> text;
    std::vector<std::int64_t> query_class;
    scclip::DecodeInput input;
    std::vector<float> features;

    Task(int height, int width, int queries, int classes, std::uint64_t id = 1) {
        scclip::Preparation prepare{{"window", 6, 6},    {kPatch, kEmbed}, false, 128, 512, 96, 48, 1000000, 100, 0,
                                    {kPatch, 8, 1, 8, 1}};
        const auto pixels = Pattern(static_cast<std::size_t>(height * width * 3), id);
        std::vector<std::uint8_t> smooth(pixels);
        for (std::size_t i = 0; i < smooth.size(); ++i)
            smooth[i] = static_cast<std::uint8_t>(i / 977 * 41 + pixels[i] / 8);
        image = prepare({smooth.data(), height, width, 0, scclip::PixelFormat::kRgb});
        for (int q = 0; q < queries; ++q) {
            query_class.push_back(q % classes);
            double length = 0, values[kEmbed];
            for (int e = 0; e < kEmbed; ++e) {
                values[e] = std::sin(q * 7.1 * (e + 1) + e * 1.3);
                length += values[e] * values[e];
            }
            for (const double value : values) text.push_back(static_cast<float>(value / std::sqrt(length)));
        }
        const std::size_t window = 96 * 96 * 3;
        for (int w = 0; w < image.tiling.size(); ++w) {
            const auto part = PatchFeatures(image.windows.data() + static_cast<std::size_t>(w) * window, 96, 96);
            features.insert(features.end(), part.begin(), part.end());
        }
        input.features = features.data();
        input.text = text.data();
        input.text_id = id;
        input.embed_dim = kEmbed;
        input.query_class = &query_class;
        input.num_classes = classes;
        input.threads = 1;
    }
    Task(const Task&) = delete;

    scclip::DecodePlan Plan() const {
        const scclip::Tiling& t = image.tiling;
        return {static_cast<int>(t.rows.size()),
                static_cast<int>(t.columns.size()),
                6,
                6,
                scclip::InterpolationAxis(t.rows, 96, 6, t.height, image.height, 32),
                scclip::InterpolationAxis(t.columns, 96, 6, t.width, image.width, 64)};
    }

    scclip::Decoded Segment(const scclip::DeviceEncoder& encoder) const {
        return encoder.Segment(image, input, [&] { return Plan(); });
    }

    /// The highest logit of a class at a pixel, in double precision; minus infinity for no class.
    double Logit(const scclip::DecodePlan& plan, std::size_t pixel, int label) const {
        const auto place = [](const scclip::Axis& axis, int rank) {
            return static_cast<int>(std::find(axis.rank.begin(), axis.rank.end(), rank) - axis.rank.begin());
        };
        const auto width = static_cast<std::size_t>(plan.columns.length());
        const std::size_t y = pixel / width, x = pixel % width;
        double best = -std::numeric_limits<double>::infinity();
        for (std::size_t q = 0; q < query_class.size(); ++q) {
            if (query_class[q] != label) continue;
            double value = 0;
            for (std::size_t i = plan.rows.begin[y]; i < plan.rows.begin[y + 1]; ++i) {
                for (std::size_t j = plan.columns.begin[x]; j < plan.columns.begin[x + 1]; ++j) {
                    const int row = place(plan.rows, plan.rows.weights[i].cell);
                    const int column = place(plan.columns, plan.columns.weights[j].cell);
                    const int window = row / plan.grid_rows * plan.window_columns + column / plan.grid_columns;
                    const int patch = (window * plan.grid_rows + row % plan.grid_rows) * plan.grid_columns +
                                      column % plan.grid_columns;
                    double cosine = 0;
                    for (std::size_t e = 0; e < kEmbed; ++e) {
                        cosine += static_cast<double>(features[static_cast<std::size_t>(patch) * kEmbed + e]) *
                                  static_cast<double>(text[q * kEmbed + e]);
                    }
                    value += static_cast<double>(plan.rows.weights[i].weight) *
                             static_cast<double>(plan.columns.weights[j].weight) * cosine;
                }
            }
            best = std::max(best, value * input.logit_scale);
        }
        return best;
    }

    /// How many labels differ where the two classes do not tie: float32 rounds cosines by some 1e-7.
    template <typename Label>
    std::size_t Wrong(const std::vector<Label>& found, const std::vector<Label>& expected) const {
        const scclip::DecodePlan plan = Plan();
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < found.size(); ++i) {
            if (found[i] == expected[i]) continue;
            const double gap = std::abs(Logit(plan, i, found[i]) - Logit(plan, i, expected[i]));
            wrong += !(gap < 1e-6 * input.logit_scale);
        }
        return wrong;
    }

    void Check(const scclip::DeviceEncoder& encoder) const {
        const scclip::Decoded expected = scclip::Decode(input, Plan());
        REQUIRE(encoder.CanSegment(input));
        for (int run = 0; run < 3; ++run) {  // call by call, captured, replayed
            const scclip::Decoded found = Segment(encoder);
            REQUIRE(found.labels.size() == expected.labels.size());
            REQUIRE(found.wide_labels.size() == expected.wide_labels.size());
            REQUIRE(found.confidence.size() == expected.confidence.size());
            CHECK(found.unlabelled == expected.unlabelled);
            const std::size_t wrong =
                Wrong(found.labels, expected.labels) + Wrong(found.wide_labels, expected.wide_labels);
            // A probability may tie with its threshold too.
            CHECK(wrong <= (expected.labels.size() + expected.wide_labels.size()) / 1000);
            float gap = 0;
            for (std::size_t i = 0; i < found.confidence.size(); ++i) {
                gap = std::max(gap, std::abs(found.confidence[i] - expected.confidence[i]));
            }
            CHECK(gap < 1e-4F);
        }
    }
};

}  // namespace device_task
