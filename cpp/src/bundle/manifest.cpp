#include "bundle/manifest.hpp"

#include <algorithm>
#include <cmath>
#include <iterator>
#include <nlohmann/json.hpp>
#include <sstream>

#include "bundle/json.hpp"
#include "bundle/schema.hpp"
#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

using Json = nlohmann::json;

// Lengths beyond this are no image model's, and products of two still fit 64 bits.
constexpr std::int64_t kMaxLength = 1 << 20;

std::string ShapeText(const std::vector<Length>& shape) {
    std::vector<std::string> parts;
    for (const Length& length : shape) {
        const auto* number = std::get_if<std::int64_t>(&length);
        parts.push_back(number != nullptr ? std::to_string(*number) : std::get<std::string>(length));
    }
    return "(" + Join(parts) + ")";
}

/// A whole number of the manifest, kept within `kMaxLength`: the schema has no upper bounds.
int Whole(const Json& value, const char* place) {
    const double number = value.get<double>();
    if (!(number >= 0 && number <= static_cast<double>(kMaxLength))) {
        ThrowBundle("bundle.json, " + std::string(place) + ": " + value.dump() +
                        " is larger than any model's; copy or export the bundle again",
                    place);
    }
    return static_cast<int>(number);
}

std::int64_t Wide(const Json& value) {
    if (value.is_number_unsigned()) {
        const auto number = value.get<std::uint64_t>();
        return number > INT64_MAX ? INT64_MAX : static_cast<std::int64_t>(number);
    }
    if (value.is_number_integer()) return value.get<std::int64_t>();
    const double number = value.get<double>();
    return std::abs(number) < 9e18 ? static_cast<std::int64_t>(number) : INT64_MAX;
}

void CheckVersion(const Json& document) {
    if (!document.is_object() || !document.contains("format_version")) return;
    const Json& version = document["format_version"];
    if (version.is_null() || (version.is_number_integer() && (version == 1 || version == 2))) return;
    ThrowBundle("bundle.json has format version " + Quote(version.dump()) +
                    "; this library reads 1 and 2: take a newer one, or export the bundle again",
                "format_version");
}

void CheckSchema(const Json& document) {
    if (const auto error = CheckAgainstBundleSchema(document)) {
        const std::string place = error->place.empty() ? "bundle.json" : error->place;
        ThrowBundle(place + " " + error->message + "; copy or export the bundle again", place);
    }
}

/// Version 1 has nothing of version 2: an older runtime would pass over it and give other labels.
void CheckMembers(const Json& document) {
    if (document["format_version"] != 1) return;
    const std::pair<std::string, Json> later[] = {
        {"preprocessing.padding", "none"},  {"preprocessing.whole_image", "nearest"}, {"decoding.rest_class", nullptr},
        {"decoding.maps", "cosine"},        {"decoding.class_weighting", "none"},     {"decoding.refine", nullptr},
        {"decoding.templates", "imagenet"},
    };
    std::vector<std::string> used;
    for (const auto& [name, meaning] : later) {
        const std::size_t dot = name.find('.');
        const Json& section = document[name.substr(0, dot)];
        if (section.value(name.substr(dot + 1), meaning) != meaning) used.push_back(name);
    }
    if (document.contains("benchmarks") && !document["benchmarks"].empty()) used.emplace_back("benchmarks");
    const Json& calibration = document["calibration"];
    const std::string method = calibration["method"];
    const bool known = method == "scclip" || method == "maskclip" || method == "none";
    if (!known || calibration.contains("residual")) used.emplace_back("calibration");
    if (used.empty()) return;
    ThrowBundle("bundle.json has " + Join(used) + ", which format version 1 doesn't know; export the bundle again",
                used.front());
}

std::vector<TensorSpec> Tensors(const Json& items) {
    std::vector<TensorSpec> tensors;
    for (const Json& item : items) {
        TensorSpec tensor{item["name"], item["dtype"], {}};
        for (const Json& length : item["shape"]) {
            if (length.is_string()) {
                tensor.shape.emplace_back(length.get<std::string>());
            } else {
                tensor.shape.emplace_back(Wide(length));
            }
        }
        tensors.push_back(std::move(tensor));
    }
    return tensors;
}

void FillGraph(const Json& item, GraphSpec* graph) {
    graph->file = item["file"];
    graph->inputs = Tensors(item["inputs"]);
    graph->outputs = Tensors(item["outputs"]);
    for (const auto& axis : item["axes"].items()) {
        AxisSpec spec{Wide(axis.value()["min"]), std::nullopt, 1};
        if (!axis.value()["max"].is_null()) spec.max = Wide(axis.value()["max"]);
        if (axis.value().contains("multiple_of")) spec.multiple_of = Wide(axis.value()["multiple_of"]);
        graph->axes[axis.key()] = spec;
    }
}

void FillTextGraphs(const Json& item, TextGraphs* graphs) {
    FillGraph(item, graphs);
    if (item.contains("resumed")) FillGraph(item["resumed"], &graphs->resumed.emplace());
}

EncoderSpec Encoder(const Json& item) {
    EncoderSpec encoder;
    FillGraph(item, &encoder);
    encoder.precision = item["precision"];
    const Json& grid = item["grid"];
    encoder.grid.kind = grid["kind"];
    if (grid.contains("rows")) {
        encoder.grid.rows = Whole(grid["rows"], "encoders");
        encoder.grid.columns = Whole(grid["columns"], "encoders");
    }
    encoder.runs_on = item["runs_on"].get<std::vector<std::string>>();
    return encoder;
}

void FillSizes(const Json& document, Manifest* manifest) {
    const Json &model = document["model"], &images = document["preprocessing"];
    manifest->patch_size = Whole(model["patch_size"], "model.patch_size");
    manifest->embed_dim = Whole(model["embed_dim"], "model.embed_dim");
    manifest->heads = Whole(model["heads"], "model.heads");
    manifest->width = Whole(model["width"], "model.width");
    manifest->short_side = Whole(images["short_side"], "preprocessing.short_side");
    manifest->long_side = Whole(images["long_side"], "preprocessing.long_side");
    manifest->window = Whole(images["window"], "preprocessing.window");
    manifest->stride = Whole(images["stride"], "preprocessing.stride");
    for (std::size_t c = 0; c < 3; ++c) {
        manifest->mean[c] = images["mean"][c];
        manifest->std[c] = images["std"][c];
    }
    manifest->pads = images.value("padding", "none") == "patch";
    manifest->floors = images.value("whole_image", "nearest") == "floor";
}

/// A member that may be missing or null.
template <typename T>
void FillOptional(const Json& item, const char* name, std::optional<T>* to) {
    const auto member = item.find(name);
    if (member != item.end() && !member->is_null()) *to = member->get<T>();
}

void FillDecoding(const Json& decoding, DecodingSpec* spec) {
    spec->logit_scale = decoding["logit_scale"];
    spec->prob_threshold = decoding["prob_threshold"];
    const Json& area = decoding["area_threshold"];
    spec->area_threshold = area.is_null() ? 0.0 : area.get<double>();
    FillOptional(decoding, "rest_class", &spec->rest_class);
    spec->stretched = decoding.value("maps", "cosine") == "minmax";
    spec->class_weights = decoding.value("class_weighting", "none") == "surgery";
    spec->pamr = decoding.contains("refine") && decoding["refine"] == "pamr";
    spec->templates = decoding.value("templates", spec->templates);
}

BenchmarkSpec Benchmark(const std::string& name, const Json& item) {
    BenchmarkSpec spec;
    const std::string place = "benchmarks." + name;
    if (item.contains("short_side")) spec.short_side = Whole(item["short_side"], (place + ".short_side").c_str());
    if (item.contains("stride")) spec.stride = Whole(item["stride"], (place + ".stride").c_str());
    FillOptional(item, "logit_scale", &spec.logit_scale);
    FillOptional(item, "prob_threshold", &spec.prob_threshold);
    FillOptional(item, "area_threshold", &spec.area_threshold);
    FillOptional(item, "rest_class", &spec.rest_class);
    FillOptional(item, "whole_image", &spec.whole_image);
    return spec;
}

Manifest Fill(const Json& document) {
    Manifest manifest;
    manifest.name = document["name"];
    FillSizes(document, &manifest);
    FillDecoding(document["decoding"], &manifest.decoding);
    if (document.contains("benchmarks")) {
        for (const auto& item : document["benchmarks"].items())
            manifest.benchmarks[item.key()] = Benchmark(item.key(), item.value());
    }
    for (const Json& item : document["encoders"]) manifest.encoders.push_back(Encoder(item));
    FillTextGraphs(document["text_encoder"], &manifest.text_encoder);
    if (document["text_encoder"].contains("int8")) {
        FillTextGraphs(document["text_encoder"]["int8"], &manifest.text_encoder.int8.emplace());
    }
    manifest.text_encoder.model_sha256 = document["text_encoder"]["model_sha256"];
    manifest.text_encoder.context_length =
        Whole(document["text_encoder"]["context_length"], "text_encoder.context_length");
    manifest.tokenizer = document["tokenizer"];
    manifest.vocabularies = document["vocabularies"].get<std::vector<std::string>>();
    if (document.contains("engines")) manifest.engines = document["engines"].get<std::vector<std::string>>();
    for (const auto& file : document["files"].items()) {
        manifest.files[file.key()] = {file.value()["sha256"], static_cast<std::uint64_t>(Wide(file.value()["bytes"]))};
    }
    return manifest;
}

const TensorSpec& Tensor(const GraphSpec& graph, bool input, const std::string& name, const std::string& dtype) {
    const TensorSpec* found = graph.Find(input, name);
    if (found == nullptr) {
        std::vector<std::string> names;
        for (const TensorSpec& spec : input ? graph.inputs : graph.outputs) names.push_back(spec.name);
        ThrowBundle(graph.file + ": bundle.json lists " + (input ? "inputs " : "outputs ") + Join(names) + "; " +
                        Quote(name) + " is missing. Export the bundle again",
                    graph.file);
    }
    if (found->dtype != dtype) {
        ThrowBundle(
            graph.file + ": tensor " + Quote(name) + " is " + found->dtype + " in bundle.json; must be " + dtype,
            graph.file);
    }
    return *found;
}

constexpr std::int64_t kAny = -1;  // an axis that may be named

void CheckShape(const GraphSpec& graph, const TensorSpec& spec, const std::vector<std::int64_t>& expected) {
    bool agrees = spec.shape.size() == expected.size();
    for (std::size_t i = 0; agrees && i < expected.size(); ++i) {
        const auto* number = std::get_if<std::int64_t>(&spec.shape[i]);
        agrees = expected[i] == kAny || (number != nullptr && *number == expected[i]);
    }
    if (agrees) return;
    std::vector<std::string> wanted;
    for (const std::int64_t length : expected) wanted.push_back(length == kAny ? "*" : std::to_string(length));
    ThrowBundle(graph.file + ": bundle.json gives " + spec.ToString() + "; the model's sizes need (" + Join(wanted) +
                    "). Export the bundle again",
                graph.file);
}

void CheckEncoder(const EncoderSpec& encoder, const Manifest& manifest) {
    const GridSpec& grid = encoder.grid;
    std::int64_t height = kAny, width = kAny, patches = kAny;
    if (grid.rows > 0) {
        height = static_cast<std::int64_t>(grid.rows) * manifest.patch_size;
        width = static_cast<std::int64_t>(grid.columns) * manifest.patch_size;
        patches = static_cast<std::int64_t>(grid.rows) * grid.columns + (manifest.decoding.class_weights ? 1 : 0);
    }
    if (grid.kind == "window" && manifest.pads) {
        const std::int64_t patch = manifest.patch_size, padded = (manifest.window + patch - 1) / patch * patch;
        if (height == padded) height = manifest.window;
        if (width == padded) width = manifest.window;
    }
    if (grid.kind == "window" && (height != manifest.window || width != manifest.window)) {
        ThrowBundle(encoder.file + ": a grid of " + std::to_string(grid.rows) + "×" + std::to_string(grid.columns) +
                        " patches of " + std::to_string(manifest.patch_size) + " pixels is not the window of " +
                        std::to_string(manifest.window) + " pixels that bundle.json names. Export the bundle again",
                    encoder.file);
    }
    CheckShape(encoder, Tensor(encoder, true, "windows", "uint8"), {kAny, height, width, 3});
    CheckShape(encoder, Tensor(encoder, true, "text", "float32"), {kAny, manifest.embed_dim});
    CheckShape(encoder, Tensor(encoder, false, "features", "float32"), {kAny, patches, manifest.embed_dim});
    CheckShape(encoder, Tensor(encoder, false, "logits", "float32"), {kAny, patches, kAny});
}

/// The text encoder that goes on from known beginnings: what it takes is shaped as what it gives.
void CheckResumed(const GraphSpec& graph, std::int64_t embed_dim) {
    const TensorSpec& past = Tensor(graph, true, "past", "float32");
    const auto size = [&](std::size_t axis) {
        const auto* number = axis < past.shape.size() ? std::get_if<std::int64_t>(&past.shape[axis]) : nullptr;
        return number == nullptr ? 0 : *number;
    };
    const std::int64_t layers = size(0), heads = size(3), width = size(5);
    CheckShape(graph, past, {layers, 2, kAny, heads, kAny, width});
    for (std::int64_t layer = 0; layer < layers; ++layer) {
        for (const char* part : {"key", "value"}) {
            const std::string name = "present." + std::to_string(layer) + "." + part;
            CheckShape(graph, Tensor(graph, false, name, "float32"), {kAny, heads, kAny, width});
        }
    }
    CheckShape(graph, Tensor(graph, true, "tokens", "int64"), {kAny, kAny});
    CheckShape(graph, Tensor(graph, true, "past_lengths", "int64"), {kAny});
    CheckShape(graph, Tensor(graph, true, "beginnings", "int64"), {kAny});
    CheckShape(graph, Tensor(graph, false, "embeddings", "float32"), {kAny, embed_dim});
}

void CheckTextGraphs(const TextGraphs& text, std::int64_t embed_dim) {
    CheckShape(text, Tensor(text, true, "tokens", "int64"), {kAny, kAny});
    CheckShape(text, Tensor(text, false, "embeddings", "float32"), {kAny, embed_dim});
    if (text.resumed) CheckResumed(*text.resumed, embed_dim);
}

}  // namespace

std::string TensorSpec::ToString() const { return name + ": " + dtype + " " + ShapeText(shape); }

std::string GridSpec::ToString() const {
    return rows == 0 ? kind : kind + " " + std::to_string(rows) + "×" + std::to_string(columns);
}

const TensorSpec* GraphSpec::Find(bool input, const std::string& name) const {
    for (const TensorSpec& spec : input ? inputs : outputs) {
        if (spec.name == name) return &spec;
    }
    return nullptr;
}

std::vector<std::string> Manifest::References() const {
    std::vector<std::string> names;
    for (const EncoderSpec& encoder : encoders) names.push_back(encoder.file);
    const auto add = [&names](const TextGraphs& text) {
        names.push_back(text.file);
        if (text.resumed) names.push_back(text.resumed->file);
    };
    add(text_encoder);
    if (text_encoder.int8) add(*text_encoder.int8);
    names.push_back(tokenizer);
    names.insert(names.end(), vocabularies.begin(), vocabularies.end());
    names.insert(names.end(), engines.begin(), engines.end());
    return names;
}

const TextGraphs& Manifest::TextIn(const std::string& precision) const {
    if (precision == "fp32") return text_encoder;
    if (precision == "int8" && text_encoder.int8) return *text_encoder.int8;
    ThrowBackend("no text encoder in precision " + Quote(precision) + "; the bundle has: fp32" +
                     (text_encoder.int8 ? ", int8" : "") +
                     ". Choose one as text_precision, or export the bundle again with --int8-text",
                 "text_precision");
}

PresetSpec Manifest::Preset(const std::string& names) const {
    struct Point {
        const char *name, *precision;
        bool overlap;  // of windows, as the bundle says; else they stand side by side
    };
    static constexpr Point kDial[] = {{"exact", "auto", true}, {"balanced", "fast", true}, {"fast", "fast", false}};
    PresetSpec preset;
    const Point* dial = nullptr;
    std::string benchmark;
    std::istringstream words(names + (names.empty() ? "" : ","));  // so that a comma at the end is an empty word
    for (std::string word; std::getline(words, word, ',');) {
        word.erase(0, word.find_first_not_of(' '));
        word.erase(word.find_last_not_of(' ') + 1);
        const auto* point =
            std::find_if(std::begin(kDial), std::end(kDial), [&](const Point& p) { return p.name == word; });
        const bool on_dial = point != std::end(kDial);
        if (word.empty() || (on_dial ? dial != nullptr : !benchmark.empty())) {
            ThrowOption("preset", Quote(names) + ": name at most one benchmark and at most one of exact, balanced, " +
                                      "fast, with a comma between");
        }
        if (on_dial) {
            dial = point;
        } else {
            benchmark = word;
        }
    }
    if (!benchmark.empty()) {
        const auto found = benchmarks.find(benchmark);
        if (found == benchmarks.end()) {
            std::vector<std::string> known;
            for (const auto& entry : benchmarks) known.push_back(entry.first);
            ThrowOption("preset",
                        Quote(benchmark) + " is none; there are exact, balanced, fast, and in this bundle " +
                            (known.empty() ? "no benchmark, as its method has none" : "benchmarks " + Join(known)));
        }
        static_cast<BenchmarkSpec&>(preset) = found->second;
    }
    if (dial != nullptr) {
        preset.precision = dial->precision;
        if (!dial->overlap) preset.stride = window;
    }
    return preset;
}

FeatureSizes FeatureSizes::Of(const Manifest& manifest) {
    return {manifest.patch_size, manifest.embed_dim, manifest.pads, manifest.decoding.class_weights};
}

Manifest ParseManifest(const std::string& text) {
    Json document;
    try {
        document = ParseJson(text);
    } catch (const JsonError& error) {
        ThrowBundle("bundle.json is not JSON (" + std::string(error.what()) + "); copy or export the bundle again",
                    "bundle.json");
    }
    CheckVersion(document);
    CheckSchema(document);
    CheckMembers(document);
    Manifest manifest = Fill(document);
    for (const EncoderSpec& encoder : manifest.encoders) CheckEncoder(encoder, manifest);
    CheckTextGraphs(manifest.text_encoder, manifest.embed_dim);
    if (manifest.text_encoder.int8) CheckTextGraphs(*manifest.text_encoder.int8, manifest.embed_dim);
    return manifest;
}

}  // namespace scclip
