// scclip::Segmenter: a bundle and a vocabulary, ready to turn images into label maps.
//
//     auto segmenter = scclip::Segmenter::Open("vitb16.scclip");
//     if (!segmenter) return fail(segmenter.status().message());
//     if (auto set = segmenter->SetVocabulary("classes.safetensors"); !set) return fail(set.message());
//     auto result = segmenter->Segment({pixels, height, width, width * 3, scclip::PixelFormat::kRgb});
//     if (result) use(result->labels);
//
// Threads: every const method may be called from any number of threads at a time on one Segmenter;
// SetVocabulary too (calls that have begun keep the vocabulary they began with). Moving and destroying need the
// object alone. Errors come back as Status; no function throws.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "scclip/status.hpp"

namespace scclip {

/// 8 bits a channel. kBgra and kRgba: the fourth channel is not looked at. kNv12: a plane of Y, and one of U and V for
/// every 2×2 pixels (BT.601, Y from 16 to 235), as cameras and video decoders give it; converted as OpenCV does.
enum class PixelFormat { kRgb, kBgr, kGray, kBgra, kRgba, kNv12 };

/// Pixels that the caller owns and keeps until the call returns; nothing is kept after it.
/// scclip/opencv.hpp makes one from a cv::Mat.
struct ImageView {
    const std::uint8_t* data = nullptr;  ///< first byte of the top row
    int height = 0;                      ///< rows; even for kNv12
    int width = 0;                       ///< pixels of a row; even for kNv12
    std::ptrdiff_t stride = 0;           ///< bytes from one row to the next; 0: rows follow each other
    PixelFormat format = PixelFormat::kRgb;
    const std::uint8_t* uv = nullptr;  ///< kNv12: first byte of U and V, rows of `stride`; null: right after Y
};

/// What a bundle is opened with. The defaults are the Python runtime's.
struct OpenOptions {
    std::string backend = "auto";    ///< `auto`, or `onnxruntime`, `openvino`, `tensorrt` where compiled in
    std::string device = "auto";     ///< `auto`, `cpu`, `cuda` or `cuda:N`
    std::string precision = "auto";  ///< `auto`, `fp32`, `fp16`, …: whichever the bundle holds
    std::string ort_provider;        ///< ONNX Runtime's `cpu`, `cuda` or `tensorrt`; empty follows `device`
    int threads = 0;                 ///< CPU threads of one call; 0: the cores this process may use
    int batch = 0;                   ///< most windows encoded at once; 0: the backend's own number
    int short_side = 0;              ///< pixels; 0: the bundle's
    int stride = 0;                  ///< pixels between windows; 0: the bundle's. Not with whole images
    /// One pass over the whole image, with an encoder exported for that; not given: as the preset says, else windows.
    std::optional<bool> whole_image;
    /// A benchmark of the bundle, or `exact`, `balanced` or `fast`, or one of each ("voc21,fast"); their settings hold
    /// where none are given. Empty: none.
    std::string preset;
    std::string text_precision = "fp32";  ///< `fp32`, or `int8` where the bundle has it: what embeds class names
    bool keep_text = true;  ///< hold the text encoder, once a name has needed it (some 250 MB for a ViT-B/16)
    std::int64_t max_pixels = 128000000;  ///< largest image taken
    std::int64_t max_windows = 1024;      ///< most windows of an image
    std::int64_t max_memory = 0;          ///< most bytes that one image may take; 0: half of what is free
    void* cuda_stream = nullptr;  ///< backend `tensorrt`: the CUstream to queue on, kept by the caller; null: its own
    bool remember_hashes = true;  ///< keep hashes in the cache folder that the Python runtime uses as well
};

/// How class names are embedded.
struct EmbedOptions {
    std::optional<std::string> background;  ///< as in SetVocabulary; not given, the class called "background", if any
    std::string templates;                  ///< prompts around a name: `imagenet` (80), `surgery` (86), `photo` (1) or
                                            ///< `none`; empty: the bundle's
};

/// What follows the image's edges more closely, at some cost.
enum class Refinement { kNone, kPamr };

/// From cosines to labels; what is not given is the bundle's.
struct SegmentOptions {
    bool confidence = false;               ///< also give each pixel's probability
    std::optional<double> logit_scale;     ///< factor on cosines before the softmax, above 0
    std::optional<double> prob_threshold;  ///< 0..1: below it a pixel becomes background, or unlabelled
    std::optional<double> area_threshold;  ///< 0..1: share of labelled pixels up to which a class is dropped
    double class_threshold = 0;  ///< 0..1: probability that a class's best pixel needs, else it is dropped; 0: off
    std::optional<Refinement> refine;  ///< of the maps before the best class is taken
};

/// Milliseconds of one image. Where all of it runs on a GPU, `encode` is the whole of that.
struct Timings {
    double prepare = 0, encode = 0, decode = 0;
};

/// A label map, owned by the caller.
struct Segmentation {
    int height = 0;
    int width = 0;
    /// (height, width) row by row, up to 254 classes; empty above.
    std::vector<std::uint8_t> labels;
    /// The same for more than 254 classes; empty otherwise.
    std::vector<std::uint16_t> wide_labels;
    /// The label of pixels without a class: 255 in `labels`, 65535 in `wide_labels`.
    std::uint16_t unlabelled = 255;
    /// (height, width) probability of the best class before `prob_threshold` cuts; empty unless asked for.
    std::vector<float> confidence;
    /// First name of each class: the label is the index.
    std::shared_ptr<const std::vector<std::string>> classes;
    Timings timings;

    /// The label of one pixel, whichever width labels have. No bounds are checked.
    std::uint16_t at(int row, int column) const {
        const auto index =
            static_cast<std::size_t>(row) * static_cast<std::size_t>(width) + static_cast<std::size_t>(column);
        return labels.empty() ? wide_labels[index] : labels[index];
    }
};

/// Dense features of one image: all that a change of vocabulary needs.
struct WindowFeatures {
    /// (windows, rows · columns, embed_dim) float32, of most methods unit rows; windows and patches row by row.
    std::vector<float> values;
    int windows = 0;
    int rows = 0;     ///< patches of a window from top to bottom
    int columns = 0;  ///< patches of a window from left to right
    int embed_dim = 0;
    int window_height = 0, window_width = 0;     ///< pixels
    int resized_height = 0, resized_width = 0;   ///< what the starts refer to, pixels
    std::vector<int> row_starts, column_starts;  ///< window i · column_starts.size() + j is at [i], [j]
    int height = 0, width = 0;                   ///< of the image, pixels
    /// (resized_height, resized_width, 3) RGB: what windows were cut from. Needed by Refinement::kPamr alone.
    std::vector<std::uint8_t> resized;
    Timings timings;
    /// (windows, embed_dim) unit rows, the class token's, where the bundle's method weighs classes by them; else empty.
    std::vector<float> class_values;
};

/// What runs where.
struct BackendInfo {
    std::string backend, version, provider, device, precision, grid, encoder;
    int threads = 0;
    int batch = 0;                ///< most windows encoded at once
    std::string reason;           ///< why this backend and precision run
    std::string decode = "host";  ///< where labels are decoded: `device`, or `host` and why
};

class SCCLIP_API Segmenter {
  public:
    /// Check a bundle, load its image encoder and, if the bundle carries one, its ready vocabulary.
    ///
    /// `bundle` is a directory. Errors: kBundle, kBackend, kOption, kVocabulary.
    static Result<Segmenter> Open(const std::string& bundle, const OpenOptions& options = {});

    Segmenter(Segmenter&&) noexcept;
    Segmenter& operator=(Segmenter&&) noexcept;
    ~Segmenter();

    /// Take the classes of a file that `scclip embed` wrote, for all calls that start from now on; "" is the bundle's
    /// own vocabulary. `background` is the first name of the class that takes what no class claims, or `none`; not
    /// given, the file says which. On an error (kVocabulary, kOption) the vocabulary in use stays.
    Status SetVocabulary(const std::string& file, const std::optional<std::string>& background = std::nullopt);

    /// The same for class names, embedded with the bundle's text encoder in ONNX Runtime: mostly 80 prompts a name, so
    /// that long lists take a while. `classes` is a list such as "sky; grass, lawn": classes between semicolons or line
    /// ends, their names between commas. It is always names, never a file. Errors: kVocabulary, kBackend, kBundle.
    Status SetClasses(const std::string& classes, const EmbedOptions& options = {});

    /// For each class its names; the first is what Classes() tells.
    Status SetClasses(const std::vector<std::vector<std::string>>& classes, const EmbedOptions& options = {});

    /// Label every pixel of an image. Errors: kImage, kVocabulary (none set), kOption, kBackend.
    Result<Segmentation> Segment(const ImageView& image, const SegmentOptions& options = {}) const;

    /// Label several images, with encoder batches filled across them; results in order, each with its own
    /// status. The labels are those that Segment gives.
    std::vector<Result<Segmentation>> SegmentBatch(const std::vector<ImageView>& images,
                                                   const SegmentOptions& options = {}) const;

    /// Features of an image's windows, for Decode with any number of vocabularies, or for other uses.
    /// Errors: kImage, kBackend.
    Result<WindowFeatures> Encode(const ImageView& image) const;

    /// Label an image from its features, with the vocabulary in use. Errors: kVocabulary, kOption, kBackend (NaN
    /// among the features), kImage (sizes that don't fit each other).
    Result<Segmentation> Decode(const WindowFeatures& features, const SegmentOptions& options = {}) const;

    /// First names of the classes in use; empty if none are.
    std::vector<std::string> Classes() const;

    /// What runs where.
    BackendInfo Describe() const;

  private:
    struct Impl;
    explicit Segmenter(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

/// Version of the library, for example "0.1.0".
SCCLIP_API const char* Version();

}  // namespace scclip
