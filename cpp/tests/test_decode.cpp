// The decode against Python's, with every instruction set that this processor has.
#include <cmath>

#include "decode/decode.hpp"
#include "errors.hpp"
#include "fixtures.hpp"
#include "image/geometry.hpp"

using namespace scclip;

namespace {

struct Case {
    std::vector<float> features, text;
    std::vector<std::int64_t> query_class;
    DecodeInput input;
    DecodePlan plan;

    explicit Case(const nlohmann::json& item)
        : features(Array<float>(item["features"])),
          text(Array<float>(item["text"])),
          query_class(item["query_class"].get<std::vector<std::int64_t>>()) {
        const auto& options = item["options"];
        const int grid = item["grid"], window = item["window"], stride = item["stride"];
        const auto rows = WindowStarts(item["resized"][0], window, stride);
        const auto columns = WindowStarts(item["resized"][1], window, stride);
        plan = {static_cast<int>(rows.size()),
                static_cast<int>(columns.size()),
                grid,
                grid,
                InterpolationAxis(rows, window, grid, item["resized"][0], item["shape"][0], 32),
                InterpolationAxis(columns, window, grid, item["resized"][1], item["shape"][1], 64)};
        input.features = features.data();
        input.text = text.data();
        input.embed_dim = item["text"]["shape"][1];
        input.query_class = &query_class;
        input.num_classes = item["classes"];
        input.logit_scale = options.value("logit_scale", 40.0);
        input.prob_threshold = options.value("prob_threshold", 0.0);
        input.area_threshold = options.value("area_threshold", 0.0);
        input.class_threshold = options.value("class_threshold", 0.0);
        input.stretched = options.value("maps", "cosine") == std::string("minmax");
        if (options.contains("background")) input.background = options["background"].get<std::int64_t>();
        input.confidence = options.value("with_confidence", false);
        input.threads = 2;
    }
    Case(const Case&) = delete;
};

/// Differing pixels; the results of another order of additions may differ where classes tie.
std::size_t Differences(const Decoded& found, const nlohmann::json& labels) {
    std::size_t different = 0;
    if (labels["dtype"] == "uint8") {
        const auto expected = Array<std::uint8_t>(labels);
        REQUIRE(found.labels.size() == expected.size());
        for (std::size_t i = 0; i < expected.size(); ++i) different += found.labels[i] != expected[i];
    } else {
        const auto expected = Array<std::uint16_t>(labels);
        REQUIRE(found.wide_labels.size() == expected.size());
        for (std::size_t i = 0; i < expected.size(); ++i) different += found.wide_labels[i] != expected[i];
    }
    return different;
}

/// How many may differ. Stretched maps are close at the image's edges, where a run of pixels has one value: of Python's
/// own labels 25 change when the text moves by a float's last bit.
double Allowed(const Case& test, const Decoded& found) {
    const auto size = static_cast<double>(found.labels.size() + found.wide_labels.size());
    return (test.input.stretched ? 4e-4 : 1e-4) * size + 1;
}

}  // namespace

TEST_CASE("labels and confidence are Python's") {
    for (const Simd* const* simd = AllSimd(); *simd != nullptr; ++simd) {
        std::size_t pixels = 0, different = 0;
        float gap = 0;
        for (const auto& item : Fixtures()["decode"]) {
            Case test(item);
            test.input.simd = *simd;
            const Decoded found = Decode(test.input, test.plan);
            const std::size_t wrong = Differences(found, item["labels"]);
            const std::size_t size = found.labels.size() + found.wide_labels.size();
            CHECK_MESSAGE(static_cast<double>(wrong) <= Allowed(test, found), item["options"].dump());
            if (!test.input.stretched) {
                pixels += size;
                different += wrong;
            }
            if (item.contains("confidence")) {
                gap = std::max(gap, LargestGap(found.confidence, Array<float>(item["confidence"])));
            }
        }
        MESSAGE(std::string((*simd)->name)
                << ": " << different << " of " << pixels << " labels differ, confidence by " << gap);
        CHECK(static_cast<double>(different) <= 1e-5 * static_cast<double>(pixels));
        CHECK(gap < 2e-5F);
    }
}

TEST_CASE("refined labels, confidence and PAMR's weights are Python's") {
    for (const Simd* const* simd = AllSimd(); *simd != nullptr; ++simd) {
        for (const auto& item : Fixtures()["refine"]) {
            Case test(item);
            const auto pixels = Array<std::uint8_t>(item["image"]);
            const NormalizedImage image{pixels.data(), item["resized"][0], item["resized"][1], item["mean"],
                                        item["std"]};
            const int height = item["shape"][0], width = item["shape"][1];
            const PixelWeights pixel_weights = PamrWeights(image, height, width, 2, **simd);
            const auto expected = Array<float>(item["weights"]);
            float gap = 0;
            for (int y = 0; y < height; ++y) {
                for (std::size_t tap = 0; tap < kTaps; ++tap) {
                    for (int x = 0; x < width; ++x) {
                        const auto row = static_cast<std::size_t>(y), column = static_cast<std::size_t>(x);
                        const float found = pixel_weights.weights[(row * kTaps + tap) * pixel_weights.stride + column];
                        const std::size_t pixel = row * static_cast<std::size_t>(width) + column;
                        gap = std::max(gap, std::abs(found - expected[tap * expected.size() / kTaps + pixel]));
                    }
                }
            }
            CHECK(gap < 1e-5F);
            test.input.refine = &pixel_weights;
            test.input.simd = *simd;
            for (const std::size_t bytes : {test.input.logit_bytes, std::size_t{1}}) {  // and a query at a time
                test.input.logit_bytes = bytes;
                const Decoded found = Decode(test.input, test.plan);
                CHECK(static_cast<double>(Differences(found, item["labels"])) <=
                      1e-4 * static_cast<double>(found.labels.size()));
                if (item.contains("confidence")) {
                    CHECK(LargestGap(found.confidence, Array<float>(item["confidence"])) < 2e-5F);
                }
            }
        }
    }
}

TEST_CASE("images too large to refine are refused") {
    const NormalizedImage image{nullptr, 1, 1, {}, {1, 1, 1}};
    CHECK(StatusOf([&] { PamrWeights(image, 6000, 6000, 1, BestSimd()); }).code() == ErrorCode::kImage);
}

TEST_CASE("chunks of queries and threads change nothing but rounding") {
    for (const auto& item : Fixtures()["decode"]) {
        Case test(item);
        const auto cells =
            static_cast<std::size_t>(test.plan.rows.cells()) * static_cast<std::size_t>(test.plan.columns.cells());
        for (const int threads : {1, 3}) {
            test.input.threads = threads;
            test.input.logit_bytes = 4 * cells * (test.query_class.size() / 3 + 1);
            const Decoded found = Decode(test.input, test.plan);
            CHECK(static_cast<double>(Differences(found, item["labels"])) <= Allowed(test, found));
            if (item.contains("confidence")) {
                CHECK(LargestGap(found.confidence, Array<float>(item["confidence"])) < 2e-5F);
            }
        }
    }
}

TEST_CASE("features that are not numbers are refused") {
    Case test(Fixtures()["decode"][0]);
    for (const float value : {std::nanf(""), INFINITY, -INFINITY}) {
        test.features[test.features.size() / 2] = value;
        CHECK_THROWS_WITH_AS(Decode(test.input, test.plan), doctest::Contains("the encoder returned NaN or infinity"),
                             Error);
    }
}

TEST_CASE("more classes than labels can name are refused") {
    Case test(Fixtures()["decode"][0]);
    test.input.num_classes = 65535;
    CHECK(StatusOf([&] { Decode(test.input, test.plan); }).field() == "classes");
}
