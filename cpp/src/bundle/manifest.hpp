// bundle.json as typed values: the contract of docs/bundle.md, without any file access.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <variant>
#include <vector>

namespace scclip {

using Length = std::variant<std::int64_t, std::string>;  // a number, or the name of an axis

struct TensorSpec {
    std::string name, dtype;
    std::vector<Length> shape;
    std::string ToString() const;  ///< `windows: uint8 (batch, 224, 224, 3)`
};

struct AxisSpec {
    std::int64_t min = 1;
    std::optional<std::int64_t> max;
    std::int64_t multiple_of = 1;
};

struct GridSpec {
    std::string kind;           ///< window, fixed or dynamic
    int rows = 0, columns = 0;  ///< 0 where they follow the image
    std::string ToString() const;
};

struct GraphSpec {
    std::string file;
    std::vector<TensorSpec> inputs, outputs;
    std::map<std::string, AxisSpec> axes;
    const TensorSpec* Find(bool input, const std::string& name) const;
};

struct EncoderSpec : GraphSpec {
    std::string precision;
    GridSpec grid;
    std::vector<std::string> runs_on;
    /// Whether this is the form with ONNX's Attention (docs/bundle.md: `opset23` is a part of its name).
    bool HasAttention() const { return file.find(".opset23.") != std::string::npos; }
};

/// The text encoder in one precision.
struct TextGraphs : GraphSpec {
    std::optional<GraphSpec> resumed;  ///< the same tower from known beginnings of texts; older bundles lack it
};

struct TextEncoderSpec : TextGraphs {
    std::string model_sha256;
    int context_length = 0;          ///< tokens
    std::optional<TextGraphs> int8;  ///< where the bundle has it
};

struct FileSpec {
    std::string sha256;
    std::uint64_t bytes = 0;
};

/// From logits to labels; what only format 2 has: docs/bundle.md, "Format 2".
struct DecodingSpec {
    double logit_scale = 0, prob_threshold = 0, area_threshold = 0;
    std::optional<std::int64_t> rest_class;  ///< the background of a vocabulary without one
    bool stretched = false;                  ///< `maps` is `minmax`
    bool class_weights = false;              ///< `class_weighting` is `surgery`: a class row comes before the patches'
    bool pamr = false;                       ///< `refine` is `pamr`
    std::string templates = "imagenet";
};

/// What differs on a benchmark.
struct BenchmarkSpec {
    std::optional<int> short_side, stride;
    std::optional<double> logit_scale, prob_threshold, area_threshold;
    std::optional<std::int64_t> rest_class;
    std::optional<bool> whole_image;
};

/// A benchmark's settings with a point of the dial over them.
struct PresetSpec : BenchmarkSpec {
    std::string precision;  ///< `auto` or `fast`; empty: nothing
};

struct Manifest {
    std::string name;
    int patch_size = 0, embed_dim = 0, heads = 0, width = 0;
    int short_side = 0, long_side = 0, window = 0, stride = 0;
    bool pads = false;    ///< `padding` is `patch`: the graphs pad windows to whole patches
    bool floors = false;  ///< `whole_image` is `floor`: the pixels beyond the last whole patch are left out
    std::array<float, 3> mean{}, std{};  ///< of the normalisation, in 0..255 units
    DecodingSpec decoding;
    std::map<std::string, BenchmarkSpec> benchmarks;
    std::vector<EncoderSpec> encoders;
    TextEncoderSpec text_encoder;
    std::string tokenizer;
    std::vector<std::string> vocabularies;
    std::vector<std::string> engines;  ///< sidecars, see engine_sidecar.hpp
    std::map<std::string, FileSpec> files;

    /// Every file that the manifest names outside its `files` table.
    std::vector<std::string> References() const;

    /// The text encoder in a precision, `fp32` or `int8`. Throws Error(kBackend): there is none.
    const TextGraphs& TextIn(const std::string& precision) const;

    /// The settings of a preset; of "", none. A benchmark of the bundle, or `exact`, `balanced` or `fast`, or one of
    /// each with a comma between. Throws Error(kOption): no such name, or two of a kind.
    PresetSpec Preset(const std::string& names) const;
};

/// How many values the features of a window have.
struct FeatureSizes {
    int patch = 0, embed_dim = 0;
    bool pads = false, class_row = false;

    static FeatureSizes Of(const Manifest& manifest);

    /// Patches along an axis of so many pixels.
    std::int64_t Patches(std::int64_t pixels) const { return (pads ? pixels + patch - 1 : pixels) / patch; }
    /// Rows of `features`: the patches, and a class row where the method has one.
    std::int64_t Rows(int height, int width) const { return Patches(height) * Patches(width) + (class_row ? 1 : 0); }
};

/// Check the text of a bundle.json against the format and the tensor contract. Throws Error(kBundle).
Manifest ParseManifest(const std::string& text);

}  // namespace scclip
