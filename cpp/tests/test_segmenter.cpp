// The public interface, end to end, against Python on the golden cases; threads; the C interface.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdlib>
#include <filesystem>
#include <thread>

#include "decode/decode.hpp"
#include "fixtures.hpp"
#include "options.hpp"
#include "scclip/scclip.h"
#include "scclip/segmenter.hpp"
#include "vocabulary/file.hpp"

using namespace scclip;

namespace {

Segmenter Opened(const std::string& bundle, const OpenOptions& options = {}) {
    auto segmenter = Segmenter::Open(bundle, options);
    REQUIRE_MESSAGE(segmenter.ok(), segmenter.status().message());
    return std::move(segmenter).value();
}

double Agreement(const std::vector<std::uint8_t>& a, const std::vector<std::uint8_t>& b) {
    REQUIRE(a.size() == b.size());
    std::size_t same = 0;
    for (std::size_t i = 0; i < a.size(); ++i) same += a[i] == b[i];
    return static_cast<double>(same) / static_cast<double>(a.size());
}

SegmentOptions Decoding(const nlohmann::json& options) {
    SegmentOptions out;
    out.confidence = true;
    out.logit_scale = options["logit_scale"].get<double>();
    out.prob_threshold = options["prob_threshold"].get<double>();
    out.area_threshold = options["area_threshold"].get<double>();
    return out;
}

/// Python's OpenVINO backend, and this one beside ONNX Runtime: another order of the same additions.
void CheckOpenVino(const nlohmann::json& item, const ImageView& image, const Segmentation& reference,
                   const SegmentOptions& options) {
#if defined(SCCLIP_TEST_OPENVINO)
    CHECK_FALSE(item["openvino"].empty());
    for (const auto& python : item["openvino"]) {
        OpenOptions open;
        open.backend = "openvino";
        open.precision = python["precision"];
        open.threads = Fixtures()["threads"];
        open.short_side = item["short_side"];
        open.whole_image = item["whole"].get<bool>();
        Segmenter segmenter = Opened(Fixtures()["bundle"], open);
        REQUIRE(segmenter.SetVocabulary(FixturePath(item["vocabulary"])).ok());
        CHECK(segmenter.Describe().backend == "openvino");
        CHECK(segmenter.Describe().precision == open.precision);
        const auto encoded = segmenter.Encode(image);
        REQUIRE_MESSAGE(encoded.ok(), encoded.status().message());
        const float features = LargestGap(encoded->values, Array<float>(python["features"]));
        CHECK(features < 1e-5F);
        const auto result = segmenter.Decode(*encoded, options);
        REQUIRE_MESSAGE(result.ok(), result.status().message());
        const double agreement = Agreement(result->labels, Array<std::uint8_t>(python["labels"]));
        CHECK(agreement >= 0.9999);
        const double other = Agreement(result->labels, reference.labels);
        if (open.precision == "fp32") CHECK(other >= 0.999);
        MESSAGE(item["name"].get<std::string>()
                << ", OpenVINO " << open.precision << ": features " << features << ", labels equal to Python's "
                << agreement << ", to ONNX Runtime's " << other);
    }
#else
    (void)item, (void)image, (void)reference, (void)options;
#endif
}

/// A bundle of pooled colours that runs in a millisecond, and a vocabulary for it.
struct Small {
    std::string bundle = FixturePath("bundles/sound");
    std::string vocabulary = FixturePath("small.safetensors");

    Small() {
        const Vocabulary sound = LoadVocabulary(FixturePath("vocabularies/sound"));
        std::string header =
            R"({"__metadata__":{"format":"scclip-vocabulary/1","classes":"[\"a\",\"b\"]","queries":"[\"a\",\"b\",\"c\"]",)"
            R"("query_class":"[0,1,1]","background":"null","templates":"none","text_model_sha256":")" +
            std::string(64, '0') + R"("},"embeddings":{"dtype":"F32","shape":[3,8],"data_offsets":[0,96]}})";
        while (header.size() % 8 != 0) header += ' ';
        std::ofstream stream(vocabulary, std::ios::binary);
        const std::uint64_t length = header.size();
        stream.write(reinterpret_cast<const char*>(&length), 8);
        stream << header;
        stream.write(reinterpret_cast<const char*>(sound.embeddings.data()), 96);
    }
};

Segmenter OpenedSmall(const OpenOptions& options = {}) {
    const Small small;
    Segmenter segmenter = Opened(small.bundle, options);
    const Status status = segmenter.SetVocabulary(small.vocabulary);
    REQUIRE_MESSAGE(status.ok(), status.message());
    return segmenter;
}

}  // namespace

TEST_CASE("golden cases: features, logits, confidence and labels are Python's") {
    for (const auto& item : Fixtures()["golden"]) {
        CAPTURE(item["name"].get<std::string>());
        OpenOptions open;
        open.threads = Fixtures()["threads"];
        open.short_side = item["short_side"];
        open.whole_image = item["whole"].get<bool>();
        Segmenter segmenter = Opened(Fixtures()["bundle"], open);
        REQUIRE(segmenter.SetVocabulary(FixturePath(item["vocabulary"])).ok());
        const auto pixels = Array<std::uint8_t>(item["image"]);
        const ImageView image{pixels.data(), item["image"]["shape"][0], item["image"]["shape"][1], 0,
                              PixelFormat::kRgb};
        const auto encoded = segmenter.Encode(image);
        REQUIRE_MESSAGE(encoded.ok(), encoded.status().message());
        const float features = LargestGap(encoded->values, Array<float>(item["features"]));
        CHECK(features < 1e-5F);

        const Vocabulary vocabulary = LoadVocabulary(FixturePath(item["vocabulary"]));
        DecodeInput input;
        input.features = encoded->values.data();
        input.text = vocabulary.embeddings.data();
        input.embed_dim = vocabulary.embed_dim;
        input.query_class = &vocabulary.query_class;
        input.logit_scale = 1;
        const auto logits = WindowLogits(input, encoded->values.size() / vocabulary.embed_dim);
        const float logit_gap = LargestGap(logits, Array<float>(item["logits"]));
        CHECK(logit_gap < 1e-5F);

        SegmentOptions options = Decoding(item["options"]);
        if (item["refine"].get<bool>()) options.refine = Refinement::kPamr;
        const auto result = segmenter.Decode(*encoded, options);
        REQUIRE_MESSAGE(result.ok(), result.status().message());
        const double agreement = Agreement(result->labels, Array<std::uint8_t>(item["labels"]));
        CHECK(agreement >= 0.9999);
        const float confidence = LargestGap(result->confidence, Array<float>(item["confidence"]));
        CHECK(confidence < 1e-4F);
        MESSAGE(item["name"].get<std::string>() << ": features " << features << ", logits " << logit_gap
                                                << ", confidence " << confidence << ", labels equal " << agreement);
        if (options.refine == Refinement::kPamr || item["whole"].get<bool>()) {  // encoding again is most of the time
            const auto again = segmenter.Segment(image, options);
            REQUIRE(again.ok());
            CHECK(again->labels == result->labels);
        }
        CheckOpenVino(item, image, *result, options);
        if (!item.contains("official")) continue;
        const auto official = Array<std::uint8_t>(item["official"]), tied = Array<std::uint8_t>(item["tied"]);
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < official.size(); ++i) wrong += tied[i] == 0 && result->labels[i] != official[i];
        // PAMR's ten steps carry rounding from tied pixels to their neighbours, in Python as well.
        CHECK((wrong == 0 || options.refine == Refinement::kPamr));
        CHECK(Agreement(result->labels, official) >= (options.refine == Refinement::kPamr ? 0.999 : 0.9999));
    }
}

TEST_CASE("int8 files give Python's features and labels") {
    for (const auto& item : Fixtures()["int8"]) {
        const auto pixels = Array<std::uint8_t>(item["image"]);
        const ImageView image{pixels.data(), item["image"]["shape"][0], item["image"]["shape"][1], 0,
                              PixelFormat::kRgb};
        const std::string backend = item["backend"];
#if !defined(SCCLIP_TEST_OPENVINO)
        if (backend == "openvino") continue;
#endif
        CAPTURE(item.dump());
        OpenOptions open;
        open.backend = backend;
        open.precision = "int8";
        open.whole_image = item["whole_image"].get<bool>();
        open.threads = Fixtures()["threads"];
        Segmenter segmenter = Opened(item["bundle"], open);
        REQUIRE(segmenter.SetVocabulary(FixturePath(item["vocabulary"])).ok());
        CHECK(segmenter.Describe().encoder == (*open.whole_image ? "encoder.int8.dynamic.onnx" : "encoder.int8.onnx"));
        const auto encoded = segmenter.Encode(image);
        REQUIRE_MESSAGE(encoded.ok(), encoded.status().message());
        const auto labels = segmenter.Decode(*encoded)->labels;
#if defined(__x86_64__)
        CHECK(LargestGap(encoded->values, Array<float>(item["features"])) < 1e-5F);
        CHECK(Agreement(labels, Array<std::uint8_t>(item["labels"])) >= 0.9999);
#else
        // Python ran on x86-64: where the last bit of a float decides, it is rounded to another of 256 steps here.
        CHECK(Agreement(labels, Array<std::uint8_t>(item["labels"])) >= 0.999);
#endif
    }
}

namespace {

OpenOptions OptionsOf(const nlohmann::json& options) {
    OpenOptions open;
    open.stride = options.value("stride", 0);
    open.short_side = options.value("short_side", 0);
    open.threads = options.value("threads", 0);
    open.batch = options.value("batch", 0);
    open.backend = options.value("backend", "auto");
    open.device = options.value("device", "auto");
    open.precision = options.value("precision", "auto");
    open.ort_provider = options.value("ort_provider", "");
    if (options.contains("whole_image")) open.whole_image = options["whole_image"].get<bool>();
    open.preset = options.value("preset", "");
    open.max_pixels = options.value("max_pixels", open.max_pixels);
    open.max_windows = options.value("max_windows", open.max_windows);
    return open;
}

}  // namespace

TEST_CASE("a bundle of links, as a download cache keeps it, opens on every backend") {
    const std::string cache = FixturePath("cache_of_models"), root = cache + "/snapshot";
    std::filesystem::remove_all(cache);
    std::filesystem::create_directories(root);
    for (const auto& entry : std::filesystem::directory_iterator(FixturePath("bundles/sound"))) {
        const std::string name = entry.path().filename().string();
        std::filesystem::copy_file(entry.path(), cache + "/" + name + ".blob");
        std::filesystem::create_symlink("../" + name + ".blob", root + "/" + name);
    }
    std::vector<std::string> backends = {"onnxruntime"};
#if defined(SCCLIP_TEST_OPENVINO)
    backends.emplace_back("openvino");
#endif
    const auto pixels = Pattern(150 * 200 * 3, 2);
    const ImageView image{pixels.data(), 150, 200, 0, PixelFormat::kRgb};
    for (const std::string& backend : backends) {
        OpenOptions options;
        options.backend = backend;
        const Segmenter linked = Opened(root, options), plain = Opened(FixturePath("bundles/sound"), options);
        CHECK(linked.Encode(image)->values == plain.Encode(image)->values);
    }
}

TEST_CASE("images are refused by code and field") {
    for (const auto& row : Refusals()["images"]) {
        CAPTURE(row.dump());
        const Segmenter segmenter = Opened(FixturePath("bundles/sound"), OptionsOf(row["options"]));
        const int height = row["height"], width = row["width"];
        const auto pixels = Pattern(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3 + 1, 0);
        CheckRefusal(row, segmenter.Encode({pixels.data(), height, width, 0, PixelFormat::kRgb}).status());
    }
}

TEST_CASE("options are refused by code and field") {
    const auto pixels = Pattern(96 * 96 * 3, 0);
    for (const auto& row : Refusals()["options"]) {
        CAPTURE(row.dump());
        const auto& options = row["options"];
#if !defined(SCCLIP_TEST_OPENVINO)
        if (options.value("backend", "") == "openvino") continue;
#endif
        const auto segmenter = Segmenter::Open(FixturePath("bundles/sound"), OptionsOf(options));
        Status found = segmenter.status();
        if (segmenter.ok()) {  // an option of decoding
            SegmentOptions segment;
            segment.class_threshold = options.value("class_threshold", 0.0);
            for (const auto& [name, to] : {std::pair{"logit_scale", &segment.logit_scale},
                                           {"prob_threshold", &segment.prob_threshold},
                                           {"area_threshold", &segment.area_threshold}}) {
                if (options.contains(name)) *to = options[name].get<double>();
            }
            Segmenter open = Opened(FixturePath("bundles/sound"));
            REQUIRE(open.SetVocabulary(Small().vocabulary).ok());
            found = open.Segment({pixels.data(), 96, 96, 0, PixelFormat::kRgb}, segment).status();
        }
        CheckRefusal(row, found);
    }
}

TEST_CASE("numeric options are tested at the ends of their ranges") {
    for (const char* name : {"threads", "batch", "short_side", "stride", "max_pixels", "max_windows", "max_memory",
                             "logit_scale", "prob_threshold", "area_threshold", "class_threshold"}) {
        CAPTURE(name);
        const OptionRange* range = FindRange(name);
        REQUIRE(range != nullptr);
        CHECK(InRange(name, range->least) == range->least);
        CHECK(InRange(name, range->most) == range->most);
        const double step = range->whole ? 1 : 1e-3;
        for (const double value : {range->most + step, -step, -1.0, std::nan(""), HUGE_VAL, -HUGE_VAL, 1e308}) {
            CAPTURE(value);
            const Status found = StatusOf([&] { InRange(name, value); });
            CHECK(found.code() == ErrorCode::kOption);
            CHECK(found.field() == name);
        }
        if (range->whole) CHECK(StatusOf([&] { InRange(name, range->least + 0.5); }).code() == ErrorCode::kOption);
        const bool zero = range->zero_is_unset || range->least == 0;
        CHECK(StatusOf([&] { InRange(name, 0); }).ok() == zero);
    }
}

TEST_CASE("a batch gives what single images give, and one bad image spoils no other") {
    const Segmenter segmenter = OpenedSmall();
    std::vector<std::vector<std::uint8_t>> pixels;
    std::vector<ImageView> images;
    for (int i = 0; i < 9; ++i) {
        const int height = 100 + 17 * i, width = 210 - 11 * i;
        pixels.push_back(Pattern(static_cast<std::size_t>(height * width * 3), static_cast<std::uint64_t>(i)));
        images.push_back({pixels.back().data(), height, width, 0, PixelFormat::kRgb});
    }
    images.push_back({nullptr, 5, 5, 0, PixelFormat::kRgb});
    images.push_back({pixels[0].data(), 10, 10, 7, PixelFormat::kRgb});
    images.push_back(images[0]);
    const auto results = segmenter.SegmentBatch(images);
    REQUIRE(results.size() == images.size());
    for (std::size_t i = 0; i < images.size(); ++i) {
        const auto single = segmenter.Segment(images[i]);
        CHECK(results[i].ok() == single.ok());
        CHECK(results[i].status().message() == single.status().message());
        if (single) CHECK(results[i]->labels == single->labels);
    }
    CHECK(results[9].status().code() == ErrorCode::kImage);
    CHECK(results[10].status().code() == ErrorCode::kImage);
    CHECK(segmenter.SegmentBatch({}).empty());
}

TEST_CASE("whole images of several sizes in a batch") {
    OpenOptions options;
    options.whole_image = true;
    const Segmenter segmenter = OpenedSmall(options);
    const auto pixels = Pattern(200 * 300 * 3, 5);
    const std::vector<ImageView> images = {{pixels.data(), 200, 300, 0, PixelFormat::kRgb},
                                           {pixels.data(), 300, 200, 0, PixelFormat::kRgb},
                                           {pixels.data(), 300, 200, 0, PixelFormat::kBgr}};
    const auto results = segmenter.SegmentBatch(images);
    for (std::size_t i = 0; i < images.size(); ++i) {
        REQUIRE_MESSAGE(results[i].ok(), results[i].status().message());
        CHECK(results[i]->labels == segmenter.Segment(images[i])->labels);
    }
}

/// Images of each thread; sanitize.sh asks for more.
int ThreadImages() {
    const char* asked = std::getenv("SCCLIP_THREAD_IMAGES");
    return asked == nullptr ? 50 : std::atoi(asked);
}

TEST_CASE("eight threads on one segmenter give the same labels while classes change") {
    OpenOptions options;
    SUBCASE("onnxruntime") { options.backend = "onnxruntime"; }
#if defined(SCCLIP_TEST_OPENVINO)
    SUBCASE("openvino") { options.backend = "openvino"; }
#endif
    Segmenter segmenter = OpenedSmall(options);
    CHECK(segmenter.Describe().backend == options.backend);
    const auto pixels = Pattern(150 * 200 * 3, 2);
    std::vector<std::vector<std::uint8_t>> expected;
    const auto view = [&](int i) { return ImageView{pixels.data(), 100 + i % 5 * 10, 200, 0, PixelFormat::kRgb}; };
    for (int i = 0; i < 5; ++i) expected.push_back(segmenter.Segment(view(i))->labels);
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 8; ++t) {
        threads.emplace_back([&, t] {
            for (int i = 0; i < ThreadImages(); ++i) {
                const auto result = segmenter.Segment(view(i + t));
                wrong += !result || result->labels != expected[static_cast<std::size_t>((i + t) % 5)];
                if (t == 0 && i % 20 == 0) wrong += !segmenter.SetVocabulary(FixturePath("small.safetensors"));
            }
        });
    }
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
}

TEST_CASE("errors come back as a status, and leave the segmenter as it was") {
    const Small small;
    Segmenter segmenter = Opened(small.bundle);
    const auto pixels = Pattern(150 * 200 * 3, 2);
    const ImageView image{pixels.data(), 150, 200, 0, PixelFormat::kRgb};
    CHECK(segmenter.Segment(image).status().code() == ErrorCode::kVocabulary);
    CHECK(segmenter.Classes().empty());
    REQUIRE(segmenter.SetVocabulary(small.vocabulary).ok());
    CHECK(segmenter.SetVocabulary("nowhere").code() == ErrorCode::kVocabulary);
    CHECK(segmenter.Classes() == std::vector<std::string>{"a", "b"});
    CHECK(segmenter.Segment(image).ok());
    SegmentOptions options;
    options.prob_threshold = 1.5;
    CHECK(segmenter.Segment(image, options).status().field() == "prob_threshold");
    options = {};
    options.logit_scale = 0;
    CHECK(segmenter.Segment(image, options).status().field() == "logit_scale");
    auto features = *segmenter.Encode(image);
    features.values.pop_back();
    CHECK(segmenter.Decode(features).status().code() == ErrorCode::kImage);
    options.refine = Refinement::kPamr;
    features = *segmenter.Encode(image);
    options.logit_scale = 20;
    CHECK(segmenter.Decode(features, options)->labels == segmenter.Segment(image, options)->labels);
    features.resized.clear();
    CHECK(segmenter.Decode(features, options).status().code() == ErrorCode::kImage);
    CHECK(segmenter.Decode(features).ok());
    CHECK(segmenter.Describe().backend == "onnxruntime");
    CHECK(segmenter.SetVocabulary(small.vocabulary, "c").field() == "background");
    CHECK(segmenter.SetVocabulary("").code() == ErrorCode::kOption);
    REQUIRE(segmenter.SetVocabulary(small.vocabulary, "B").ok());
    options = {};
    options.prob_threshold = 1;
    CHECK(segmenter.Segment(image, options)->labels == std::vector<std::uint8_t>(150 * 200, 1));
    REQUIRE(segmenter.SetVocabulary(small.vocabulary, "none").ok());
    CHECK(segmenter.Segment(image, options)->labels == std::vector<std::uint8_t>(150 * 200, 255));
    CHECK(Segmenter::Open("nowhere").status().code() == ErrorCode::kBundle);
    Segmenter moved = std::move(segmenter);
    CHECK(moved.Segment(image).ok());
}

TEST_CASE("the C interface") {
    const Small small;
    scclip_options* options = scclip_options_new();
    CHECK(scclip_options_set(options, "threads", "2") == SCCLIP_OK);
    CHECK(scclip_options_set(options, "confidence", "1") == SCCLIP_OK);
    CHECK(scclip_options_set(options, "logit_scale", "20.5") == SCCLIP_OK);
    CHECK(scclip_options_set(options, "colour", "1") == SCCLIP_ERROR_OPTION);
    CHECK(std::string(scclip_last_error()) == "unknown option 'colour'");
    CHECK(std::string(scclip_last_error_field()) == "colour");
    CHECK(scclip_options_set(options, "refine", "sharp") == SCCLIP_ERROR_OPTION);
    CHECK(std::string(scclip_last_error_field()) == "refine");
    CHECK(scclip_options_set(options, "refine", "pamr") == SCCLIP_OK);
    CHECK(scclip_options_set(options, "threads", "-1") == SCCLIP_ERROR_OPTION);
    CHECK(scclip_options_set(options, "threads", "-4294967295") == SCCLIP_ERROR_OPTION);
    CHECK(scclip_options_set(options, "threads", "99999999999999999999") == SCCLIP_ERROR_OPTION);
    CHECK(scclip_options_set(options, "logit_scale", "1,5") == SCCLIP_ERROR_OPTION);
    CHECK(scclip_options_set(options, "logit_scale", "1e39") == SCCLIP_ERROR_OPTION);
    CHECK(scclip_options_set(options, "class_threshold", "0.1") == SCCLIP_OK);
    CHECK(scclip_options_set(options, "class_threshold", "1.5") == SCCLIP_ERROR_OPTION);
    scclip_segmenter* segmenter = nullptr;
    CHECK(scclip_open("nowhere", options, &segmenter) == SCCLIP_ERROR_BUNDLE);
    CHECK(segmenter == nullptr);
    CHECK(std::string(scclip_last_error()).find("no such bundle") != std::string::npos);
    REQUIRE(scclip_open(small.bundle.c_str(), options, &segmenter) == SCCLIP_OK);
    REQUIRE(scclip_set_vocabulary(segmenter, small.vocabulary.c_str()) == SCCLIP_OK);
    const auto pixels = Pattern(150 * 200 * 3, 2);
    scclip_result* result = nullptr;
    CHECK(scclip_segment(segmenter, nullptr, 150, 200, 0, SCCLIP_RGB, options, &result) == SCCLIP_ERROR_IMAGE);
    REQUIRE(scclip_segment(segmenter, pixels.data(), 150, 200, 0, SCCLIP_RGB, options, &result) == SCCLIP_OK);
    CHECK(scclip_result_height(result) == 150);
    CHECK(scclip_result_width(result) == 200);
    CHECK(scclip_result_wide_labels(result) == nullptr);
    CHECK(scclip_result_confidence(result) != nullptr);
    CHECK(scclip_result_unlabelled(result) == 255);
    CHECK(scclip_result_class_count(result) == 2);
    CHECK(std::string(scclip_result_class_name(result, 1)) == "b");
    CHECK(scclip_result_class_name(result, 2) == nullptr);
    SegmentOptions same;
    same.logit_scale = 20.5;
    same.refine = Refinement::kPamr;
    const Segmenter cpp = OpenedSmall();
    const auto expected = cpp.Segment({pixels.data(), 150, 200, 0, PixelFormat::kRgb}, same);
    CHECK(std::memcmp(scclip_result_labels(result), expected->labels.data(), expected->labels.size()) == 0);
    scclip_result_free(result);
    CHECK(scclip_set_vocabulary_background(segmenter, nullptr, nullptr) == SCCLIP_ERROR_OPTION);
    CHECK(scclip_set_vocabulary_background(segmenter, small.vocabulary.c_str(), "x") == SCCLIP_ERROR_VOCABULARY);
    REQUIRE(scclip_set_vocabulary_background(segmenter, small.vocabulary.c_str(), "a") == SCCLIP_OK);
    CHECK(scclip_options_set(options, "prob_threshold", "1") == SCCLIP_OK);
    REQUIRE(scclip_segment(segmenter, pixels.data(), 150, 200, 600, SCCLIP_BGR, options, &result) == SCCLIP_OK);
    CHECK(std::count(scclip_result_labels(result), scclip_result_labels(result) + 150 * 200, 0) == 150 * 200);
    scclip_result_free(result);
    scclip_free(segmenter);
    scclip_options_free(options);
    scclip_free(nullptr);
}
