// ONNX Runtime's CUDA provider behind the public interface, against the CPU on the same bundle. Skipped, with the
// rest of the program, without a GPU; and where the library linked has no such provider.
#include <doctest.h>

#include <atomic>
#include <cmath>
#include <cstdlib>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "scclip/segmenter.hpp"

using namespace scclip;

namespace {

std::string BundlePath() { return std::getenv("SCCLIP_GPU_BUNDLE"); }

OpenOptions Options(const std::string& device, const std::string& precision) {
    OpenOptions options;
    options.backend = "onnxruntime";
    options.device = device;
    options.precision = precision;
    return options;
}

/// An opened bundle with a vocabulary: the one that is named, or its own.
std::optional<Segmenter> Opened(const OpenOptions& options) {
    auto opened = Segmenter::Open(BundlePath(), options);
    const std::string message = opened.status().message();
    if (message.find("here has no 'cuda' provider") != std::string::npos ||
        message.find("has no encoder") != std::string::npos) {
        MESSAGE("left out: " << message);
        return std::nullopt;
    }
    REQUIRE_MESSAGE(opened.ok(), message);
    const char* named = std::getenv("SCCLIP_GPU_VOCABULARY");
    if (named != nullptr && *named != 0) {
        const Status set = opened->SetVocabulary(named);
        REQUIRE_MESSAGE(set.ok(), set.message());
    }
    if (opened->Classes().empty()) {
        MESSAGE("left out: the bundle has no vocabulary; name one in SCCLIP_GPU_VOCABULARY");
        return std::nullopt;
    }
    return std::move(opened).value();
}

/// Sky, a lawn with stripes and a round thing on it.
std::vector<std::uint8_t> Scene(int height, int width) {
    std::vector<std::uint8_t> pixels;
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            const int dx = x - width / 3, dy = y - height * 2 / 3;
            const bool round = dx * dx + dy * dy < height * height / 25, sky = y < height / 2;
            const int shade = (x * 7 + y * 13) % 32;
            const int color[3] = {round ? 200 : (sky ? 120 : 60), round ? 90 : (sky ? 170 : 140), sky ? 230 : 50};
            for (const int channel : color) pixels.push_back(static_cast<std::uint8_t>(channel + shade / 2));
        }
    }
    return pixels;
}

double Agreement(const Segmentation& a, const Segmentation& b) {
    REQUIRE(a.labels.size() == b.labels.size());
    std::size_t same = 0;
    for (std::size_t i = 0; i < a.labels.size(); ++i) same += a.labels[i] == b.labels[i];
    return static_cast<double>(same) / static_cast<double>(a.labels.size());
}

}  // namespace

TEST_CASE("ONNX Runtime's CUDA provider gives the CPU's features and labels") {
    const auto pixels = Scene(375, 500);
    const ImageView image{pixels.data(), 375, 500};
    const auto cpu = Opened(Options("cpu", "fp32"));
    if (!cpu) return;
    const auto wanted = cpu->Encode(image);
    const auto labels = cpu->Segment(image);
    REQUIRE(wanted.ok());
    REQUIRE(labels.ok());
    for (const std::string precision : {"fp32", "fp16"}) {
        const auto cuda = Opened(Options("cuda:0", precision));
        if (!cuda) continue;
        CHECK(cuda->Describe().provider == "CUDAExecutionProvider");
        CHECK(cuda->Describe().device == "cuda:0");
        CHECK(cuda->Describe().precision == precision);
        const auto found = cuda->Encode(image);
        REQUIRE_MESSAGE(found.ok(), found.status().message());
        REQUIRE(found->values.size() == wanted->values.size());
        double worst = 1;  // cosine between a patch's feature here and there
        const auto embed = static_cast<std::size_t>(wanted->embed_dim);
        for (std::size_t at = 0; at < wanted->values.size(); at += embed) {
            double cosine = 0;
            for (std::size_t e = 0; e < embed; ++e) {
                cosine += static_cast<double>(found->values[at + e]) * static_cast<double>(wanted->values[at + e]);
            }
            worst = std::min(worst, cosine);
        }
        const auto result = cuda->Segment(image);
        REQUIRE_MESSAGE(result.ok(), result.status().message());
        const double agreement = Agreement(*result, *labels);
        CHECK(worst >= (precision == "fp32" ? 0.9999 : 0.99));
        CHECK(agreement >= (precision == "fp32" ? 0.9995 : 0.99));
        MESSAGE(cuda->Describe().encoder << ": least cosine " << worst << ", labels equal to the CPU's " << agreement
                                         << "; " << cuda->Describe().reason);
    }
}

TEST_CASE("threads on one CUDA session, and batches of images, give each image's labels") {
    const auto cuda = Opened(Options("cuda:0", "fp32"));
    if (!cuda) return;
    const auto small = Scene(120, 160), large = Scene(375, 500);
    const std::vector<ImageView> images = {{small.data(), 120, 160}, {large.data(), 375, 500}};
    std::vector<Segmentation> alone;
    for (const ImageView& image : images) {
        auto result = cuda->Segment(image);
        REQUIRE_MESSAGE(result.ok(), result.status().message());
        alone.push_back(std::move(result).value());
    }
    const auto together = cuda->SegmentBatch(images);
    for (std::size_t i = 0; i < images.size(); ++i) {
        REQUIRE(together[i].ok());
        CHECK(Agreement(*together[i], alone[i]) >= 0.999);
    }
    std::atomic<int> wrong{0};
    std::vector<std::thread> threads;
    for (int t = 0; t < 4; ++t) {
        threads.emplace_back([&] {
            for (int i = 0; i < 8; ++i) {
                const std::size_t which = static_cast<std::size_t>(i) % 2;
                const auto result = cuda->Segment(images[which]);
                wrong += !result.ok() || result->labels != alone[which].labels;
            }
        });
    }
    for (auto& thread : threads) thread.join();
    CHECK(wrong == 0);
}

TEST_CASE("a GPU that ONNX Runtime does not see is refused in one line") {
    if (!Opened(Options("cuda:0", "fp32"))) return;
    const auto opened = Segmenter::Open(BundlePath(), Options("cuda:63", "fp32"));
    REQUIRE_FALSE(opened.ok());
    CHECK(opened.status().code() == ErrorCode::kBackend);
    const std::string &message = opened.status().message(), start = "ONNX Runtime ";
    CHECK_MESSAGE(message.compare(0, start.size(), start) == 0, message);
    CHECK_MESSAGE(message.find(" can't use its provider cuda on cuda:63 (") != std::string::npos, message);
    CHECK_MESSAGE(message.find("onnxruntime_src") == std::string::npos, message);
}
