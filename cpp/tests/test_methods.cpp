// Bundles of every method, by the public interface, against Python; what only format 2 has.
#include <algorithm>
#include <cmath>

#include "bundle/bundle.hpp"
#include "bundle/manifest.hpp"
#include "features.hpp"
#include "fixtures.hpp"
#include "scclip/segmenter.hpp"

using namespace scclip;

namespace {

std::size_t Differences(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
    REQUIRE(a.size() == b.size());
    std::size_t different = 0;
    for (std::size_t i = 0; i < a.size(); ++i) different += a[i] != b[i];
    return different;
}

OpenOptions OptionsOf(const nlohmann::json& options) {
    OpenOptions open;
    open.threads = Fixtures()["threads"];
    open.backend = options.value("backend", "auto");
    open.precision = options.value("precision", "auto");
    open.preset = options.value("preset", "");
    if (options.contains("whole_image")) open.whole_image = options["whole_image"].get<bool>();
    return open;
}

Segmenter Opened(const nlohmann::json& item, const OpenOptions& options) {
    auto segmenter = Segmenter::Open(item["bundle"], options);
    REQUIRE_MESSAGE(segmenter.ok(), segmenter.status().message());
    const Status set = segmenter->SetVocabulary(FixturePath(item["vocabulary"]));
    REQUIRE_MESSAGE(set.ok(), set.message());
    return std::move(segmenter).value();
}

const nlohmann::json& Case(const std::string& method) {
    for (const auto& item : Fixtures()["methods"]) {
        if (item["method"] == method && item["options"].empty()) return item;
    }
    FAIL("no case of " << method);
    return Fixtures();
}

std::vector<std::uint8_t> Pixels(const nlohmann::json& item) { return Array<std::uint8_t>(item["images"][0]); }

ImageView View(const std::vector<std::uint8_t>& pixels, const nlohmann::json& array) {
    return {pixels.data(), array["shape"][0], array["shape"][1], 0, PixelFormat::kRgb};
}

}  // namespace

TEST_CASE("every method's features, confidence and labels are Python's, alone and in a batch") {
    for (const auto& item : Fixtures()["methods"]) {
        const std::string name = item["method"].get<std::string>() + " " + item["options"].dump();
        CAPTURE(name);
#if !defined(SCCLIP_TEST_OPENVINO)
        if (item["options"].value("backend", "") == "openvino") continue;
#endif
        const Segmenter segmenter = Opened(item, OptionsOf(item["options"]));
        std::vector<std::vector<std::uint8_t>> pixels;
        std::vector<ImageView> images;
        for (const auto& array : item["images"]) pixels.push_back(Array<std::uint8_t>(array));
        for (std::size_t i = 0; i < pixels.size(); ++i) images.push_back(View(pixels[i], item["images"][i]));

        const auto encoded = segmenter.Encode(images[0]);
        REQUIRE_MESSAGE(encoded.ok(), encoded.status().message());
        const float features = LargestGap(encoded->values, Array<float>(item["features"]));
        CHECK(features < 1e-5F);
        CHECK(encoded->class_values.empty() == !item.contains("class_features"));
        if (item.contains("class_features")) {
            CHECK(LargestGap(encoded->class_values, Array<float>(item["class_features"])) < 1e-5F);
        }
        SegmentOptions with_confidence;
        with_confidence.confidence = true;
        const auto decoded = segmenter.Decode(*encoded, with_confidence);
        REQUIRE_MESSAGE(decoded.ok(), decoded.status().message());
        const float confidence = LargestGap(decoded->confidence, Array<float>(item["confidence"]));
        CHECK(confidence < 1e-4F);

        std::size_t different = 0, all = 0;
        images.push_back(images[0]);
        const auto batch = segmenter.SegmentBatch(images);
        for (std::size_t i = 0; i < images.size(); ++i) {
            const auto expected = Array<std::uint8_t>(item["labels"][i % pixels.size()]);
            const auto single = segmenter.Segment(images[i]);
            REQUIRE_MESSAGE(single.ok(), single.status().message());
            REQUIRE_MESSAGE(batch[i].ok(), batch[i].status().message());
            const std::size_t most =
                std::max(Differences(single->labels, expected), Differences(batch[i]->labels, expected));
            CHECK(static_cast<double>(most) <= 1e-4 * static_cast<double>(expected.size()));
            different += most;
            all += expected.size();
        }
        MESSAGE(name << ": features " << features << ", confidence " << confidence << ", " << different << " of " << all
                     << " labels differ");
    }
    CHECK(Fixtures()["methods"].size() > 2 * 11);
}

TEST_CASE("a preset gives way to what is said") {
    const auto& item = Case("naclip");  // its settings for voc21: whole images, probability 0.1, and PAMR in general
    OpenOptions options;
    options.preset = "voc21";
    CHECK(Opened(item, options).Describe().grid == "dynamic");
    options.whole_image = false;
    const Segmenter segmenter = Opened(item, options), plain = Opened(item, {});
    CHECK(segmenter.Describe().grid == "window 14×14");
    const auto pixels = Pixels(item);
    const ImageView image = View(pixels, item["images"][0]);
    SegmentOptions segment;
    segment.refine = Refinement::kNone;
    const auto rough = plain.Segment(image, segment);
    CHECK(Differences(rough->labels, plain.Segment(image)->labels) > 0);
    segment.prob_threshold = 0.0;
    CHECK(segmenter.Segment(image, segment)->labels == rough->labels);
    segment.prob_threshold = 0.1;
    const auto cut = plain.Segment(image, segment);
    segment.prob_threshold.reset();
    CHECK(segmenter.Segment(image, segment)->labels == cut->labels);
    for (const std::string none : {"nowhere", "fast,exact", "voc21,voc20", "fast,", ",", " "}) {
        CAPTURE(none);
        options.preset = none;
        const Status status = Segmenter::Open(item["bundle"], options).status();
        CHECK(status.field() == "preset");
        CHECK(status.message().find("exact, balanced") != std::string::npos);
    }
}

TEST_CASE("a point of the dial goes over a benchmark's settings") {
    const Manifest manifest = Bundle::Open(Case("naclip")["bundle"].get<std::string>(), false).manifest();
    CHECK(manifest.Preset("").precision.empty());
    CHECK_FALSE(manifest.Preset("").stride.has_value());
    CHECK(manifest.Preset("exact").precision == "auto");
    CHECK_FALSE(manifest.Preset("balanced").stride.has_value());
    const PresetSpec fast = manifest.Preset(" voc21 , fast ");
    CHECK(fast.precision == "fast");
    CHECK(fast.stride == manifest.window);
    CHECK(fast.prob_threshold == manifest.Preset("voc21").prob_threshold);
    OpenOptions options;
    options.precision = "fp32";
    options.preset = "fast";
    CHECK(Opened(Case("naclip"), options).Describe().precision == "fp32");
}

TEST_CASE("class names get the bundle's templates unless others are named") {
    const auto& item = Case("gem");
    Segmenter segmenter = Opened(item, {});
    const auto pixels = Pixels(item);
    std::vector<std::vector<std::uint8_t>> labels;
    for (const char* templates : {"", "photo", "none"}) {
        EmbedOptions options;
        options.templates = templates;
        REQUIRE(segmenter.SetClasses("sky; grass, lawn; dog", options).ok());
        labels.push_back(segmenter.Segment(View(pixels, item["images"][0]))->labels);
    }
    CHECK(labels[0] == labels[1]);
    CHECK(Differences(labels[0], labels[2]) > 0);
}

TEST_CASE("Surgery compares a single class with the empty text, without weights") {
    const auto& item = Fixtures()["alone"];
    Segmenter segmenter = Opened(item, {});
    const auto pixels = Pixels(item), expected = Array<std::uint8_t>(item["labels"]);
    const ImageView image = View(pixels, item["images"][0]);
    CHECK(Differences(segmenter.Segment(image)->labels, expected) == 0);
    REQUIRE(segmenter.SetClasses(item["classes"].get<std::string>()).ok());
    CHECK(segmenter.Classes() == std::vector<std::string>{"sky", "background"});
    CHECK(Differences(segmenter.Segment(image)->labels, expected) * 10000 <= expected.size());
    CHECK(std::count(expected.begin(), expected.end(), 0) > 0);
    CHECK(std::count(expected.begin(), expected.end(), 1) > 0);
    EmbedOptions options;
    options.background = "none";
    REQUIRE(segmenter.SetClasses(item["classes"].get<std::string>(), options).ok());
    CHECK(segmenter.Classes() == std::vector<std::string>{"sky"});
}

TEST_CASE("stretched maps are not refined") {
    const auto& item = Case("gem");
    const auto pixels = Pixels(item);
    SegmentOptions options;
    options.refine = Refinement::kPamr;
    const Status status = Opened(item, {}).Segment(View(pixels, item["images"][0]), options).status();
    CHECK(status.code() == ErrorCode::kOption);
    CHECK(status.field() == "refine");
}

TEST_CASE("features that were kept fit their bundle, or are refused") {
    for (const char* method : {"surgery", "clearclip"}) {
        const auto& item = Case(method);
        const Segmenter segmenter = Opened(item, {});
        const auto pixels = Pixels(item);
        const auto sound = segmenter.Encode(View(pixels, item["images"][0]));
        REQUIRE(sound.ok());
        CHECK(segmenter.Decode(*sound)->labels == segmenter.Segment(View(pixels, item["images"][0]))->labels);
        WindowFeatures changed = *sound;
        changed.class_values.assign(changed.class_values.empty() ? 1 : 0, 0.0F);
        CHECK(segmenter.Decode(changed).status().code() == ErrorCode::kImage);
        changed = *sound;
        std::swap(changed.rows, changed.windows);
        CHECK(segmenter.Decode(changed).status().code() == ErrorCode::kImage);
        if (sound->class_values.empty()) continue;
        changed = *sound;
        changed.class_values[3] = std::nanf("");
        CHECK(segmenter.Decode(changed).status().code() == ErrorCode::kBackend);
    }
}

TEST_CASE("weights of classes follow the class token and have mean 1") {
    WindowFeatures features;
    features.embed_dim = 2;
    features.class_values = {1, 0, 0, 1};  // their mean, made a unit vector, is (√½, √½)
    const std::vector<float> weights = ClassWeights(features, {1, 0, 0, 1, -1, 0});
    REQUIRE(weights.size() == 3);
    CHECK(weights[0] == doctest::Approx(weights[1]));
    CHECK(weights[0] / weights[2] == doctest::Approx(std::exp(4 * std::sqrt(0.5))));
    CHECK(weights[0] + weights[1] + weights[2] == doctest::Approx(3));
}

TEST_CASE("a window has the patches that its encoder makes of it") {
    const FeatureSizes plain{16, 64, false, false}, padded{16, 64, true, true};
    CHECK(plain.Rows(224, 230) == 14 * 14);
    CHECK(padded.Rows(224, 230) == 14 * 15 + 1);
    CHECK(padded.Rows(2, 16) == 2);
}
