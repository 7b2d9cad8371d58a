#include "scclip/segmenter.hpp"

#include <algorithm>
#include <atomic>
#include <chrono>
#include <functional>
#include <mutex>

#include "backends/base.hpp"
#include "backends/text.hpp"
#include "decode/decode.hpp"
#include "errors.hpp"
#include "features.hpp"
#include "image/preparation.hpp"
#include "options.hpp"
#include "vocabulary/classes.hpp"
#include "vocabulary/embedding.hpp"
#include "vocabulary/file.hpp"
#include "words.hpp"

namespace scclip {
namespace {

// Output pixels per tile: small enough for few queries to matter in one, large enough for the bookkeeping to vanish.
constexpr int kTileRows = 32, kTileColumns = 64;

class Clock {
  public:
    double Milliseconds() const {
        return std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - start_).count();
    }

  private:
    std::chrono::steady_clock::time_point start_ = std::chrono::steady_clock::now();
};

/// What a function throws becomes the Status of what it returns.
template <typename Function>
auto Guard(Function function) noexcept -> Result<decltype(function())> {
    try {
        return function();
    } catch (...) {
        return CurrentStatus();
    }
}

/// The same for what returns nothing.
template <typename Function>
Status StatusOf(Function function) noexcept {
    try {
        function();
        return {};
    } catch (...) {
        return CurrentStatus();
    }
}

/// What the bundle decodes with, and over it what a benchmark has.
DecodingSpec Over(DecodingSpec decoding, const BenchmarkSpec& preset) {
    decoding.logit_scale = preset.logit_scale.value_or(decoding.logit_scale);
    decoding.prob_threshold = preset.prob_threshold.value_or(decoding.prob_threshold);
    decoding.area_threshold = preset.area_threshold.value_or(decoding.area_threshold);
    if (preset.rest_class) decoding.rest_class = preset.rest_class;
    return decoding;
}

/// A preset's precision and sizes, and over them what is given.
OpenOptions Over(OpenOptions options, const PresetSpec& preset) {
    if (options.precision == "auto" && !preset.precision.empty()) options.precision = preset.precision;
    if (options.short_side == 0) options.short_side = preset.short_side.value_or(0);
    if (options.stride == 0) options.stride = preset.stride.value_or(0);
    if (!options.whole_image) options.whole_image = preset.whole_image;
    return options;
}

}  // namespace

struct Segmenter::Impl {
    struct Classes {
        Vocabulary vocabulary;
        std::shared_ptr<const std::vector<std::string>> names;
        std::uint64_t id = 0;  // another for every one
    };

    /// What embeds class names: the encoder is loaded when a name first needs it.
    class TextTower {
      public:
        TextTower(const Bundle& bundle, const std::string& precision, int threads)
            : tokenizer(Tokenizer::Parse(bundle.Read(bundle.manifest().tokenizer))),
              open_([&bundle, precision, threads] {
                  return OpenTextEncoder(bundle, bundle.manifest().TextIn(precision), threads);
              }),
              embed_dim_(static_cast<std::size_t>(bundle.manifest().embed_dim)) {}

        std::vector<float> operator()(const std::vector<Prompt>& prompts) {
            if (!text_) {
                text_ = open_();
                encode_.emplace(*text_, embed_dim_);
            }
            return (*encode_)(prompts);
        }

        const Tokenizer tokenizer;

      private:
        std::function<std::unique_ptr<TextEncoder>()> open_;
        std::size_t embed_dim_;
        std::unique_ptr<TextEncoder> text_;
        std::optional<PromptEncoder> encode_;
    };

    Bundle bundle;
    DecodingSpec decoding;  // the bundle's, with the preset's over it
    std::unique_ptr<Encoder> encoder;
    Preparation prepare;
    int threads = 0;
    std::string text_precision;
    bool keep_text = true;
    std::mutex text_mutex;  // of `kept_text`
    std::unique_ptr<TextTower> kept_text;
    mutable std::mutex mutex;  // of `classes`
    std::shared_ptr<const Classes> classes;

    void SetVocabulary(const std::string& given, const std::optional<std::string>& background) {
        const std::string file = given.empty() ? ReadyVocabulary() : given;
        Vocabulary vocabulary = LoadVocabulary(file);
        CheckModel(vocabulary, bundle.manifest().text_encoder.model_sha256,
                   static_cast<std::size_t>(bundle.manifest().embed_dim), file);
        if (background) vocabulary.background = FindBackground(vocabulary.classes, *background);
        Use(std::move(vocabulary));
    }

    void SetClasses(const ClassNames& names, const EmbedOptions& options) {
        const TextEncoderSpec& spec = bundle.manifest().text_encoder;
        const std::string& templates = options.templates.empty() ? decoding.templates : options.templates;
        const std::lock_guard<std::mutex> lock(text_mutex);
        std::unique_ptr<TextTower> own;
        std::unique_ptr<TextTower>& tower = keep_text ? kept_text : own;
        if (!tower) tower = std::make_unique<TextTower>(bundle, text_precision, threads);
        Use(EmbedClasses(CheckedClasses(names),
                         {tower->tokenizer, std::ref(*tower), static_cast<std::size_t>(bundle.manifest().embed_dim),
                          static_cast<std::size_t>(spec.context_length), spec.model_sha256},
                         templates, options.background, decoding.class_weights));
    }

    void Use(Vocabulary vocabulary) {
        auto made = std::make_shared<Classes>();
        made->vocabulary = std::move(vocabulary);
        static std::atomic<std::uint64_t> count{0};
        made->id = ++count;
        made->names = std::make_shared<const std::vector<std::string>>(made->vocabulary.classes);
        const std::lock_guard<std::mutex> lock(mutex);
        classes = std::move(made);
    }

    std::string ReadyVocabulary() const {
        const auto& ready = bundle.manifest().vocabularies;
        if (ready.empty()) {
            ThrowOption("vocabulary", "is needed: " + bundle.path() +
                                          " carries none; name the classes, or give a file that `scclip embed` wrote");
        }
        return bundle.CheckedPath(ready.front());
    }

    std::shared_ptr<const Classes> Current() const {
        const std::lock_guard<std::mutex> lock(mutex);
        return classes;
    }

    std::shared_ptr<const Classes> Needed() const {
        auto current = Current();
        if (!current) ThrowVocabulary("no classes yet: call SetVocabulary or SetClasses first", "vocabulary");
        return current;
    }

    bool Refines(const SegmentOptions& options) const {
        return options.refine ? *options.refine == Refinement::kPamr : decoding.pamr;
    }

    DecodeInput Options(const SegmentOptions& options) const {
        DecodeInput input;
        input.logit_scale = InRange("logit_scale", options.logit_scale.value_or(decoding.logit_scale));
        input.prob_threshold = InRange("prob_threshold", options.prob_threshold.value_or(decoding.prob_threshold));
        input.area_threshold = InRange("area_threshold", options.area_threshold.value_or(decoding.area_threshold));
        input.class_threshold = InRange("class_threshold", options.class_threshold);
        input.stretched = decoding.stretched;
        if (input.stretched && Refines(options)) ThrowOption("refine", "must be none: the method stretches its maps");
        input.confidence = options.confidence;
        input.threads = threads;
        return input;
    }

    PreparedImage Prepare(const ImageView& image) const {
        const Clock clock;
        PreparedImage prepared = prepare(image);
        prepared.milliseconds = clock.Milliseconds();
        return prepared;
    }

    WindowFeatures Allocate(const PreparedImage& image) const {
        WindowFeatures features = SizesOf(image, encoder->sizes());
        const std::int64_t rows = encoder->sizes().Rows(image.tiling.input_height, image.tiling.input_width);
        features.values.resize(static_cast<std::size_t>(features.windows) * static_cast<std::size_t>(rows) *
                               static_cast<std::size_t>(features.embed_dim));
        return features;
    }

    WindowFeatures Encode(const PreparedImage& image) const {
        WindowFeatures features = Allocate(image);
        const Clock clock;
        const Tiling& tiling = image.tiling;
        encoder->FeaturesOf(image.windows.data(), features.windows, tiling.input_height, tiling.input_width,
                            features.values.data());
        if (encoder->sizes().class_row) TakeClassRows(&features);
        features.timings.encode = clock.Milliseconds();
        return features;
    }

    /// PAMR's weights, if they are asked for.
    std::optional<PixelWeights> Refine(const WindowFeatures& features, const SegmentOptions& options) const {
        if (!Refines(options)) return std::nullopt;
        const Manifest& manifest = bundle.manifest();
        const NormalizedImage image{features.resized.data(), features.resized_height, features.resized_width,
                                    manifest.mean, manifest.std};
        return PamrWeights(image, features.height, features.width, threads, BestSimd());
    }

    /// The part of the decode's input that comes from the vocabulary.
    void SetClasses(const Classes& current, DecodeInput* input) const {
        const Vocabulary& vocabulary = current.vocabulary;
        input->text = vocabulary.embeddings.data();
        input->text_id = current.id;
        input->embed_dim = vocabulary.embed_dim;
        input->query_class = &vocabulary.query_class;
        input->num_classes = static_cast<std::int64_t>(vocabulary.classes.size());
        input->background = vocabulary.background;
        const bool rest = !vocabulary.background && decoding.rest_class;
        if (rest && *decoding.rest_class < input->num_classes) input->background = decoding.rest_class;
    }

    DecodePlan PlanOf(const WindowFeatures& f) const {
        const FeatureSizes& sizes = encoder->sizes();
        const auto padding = [&](int patches, int window) { return sizes.pads ? patches * sizes.patch - window : 0; };
        return {static_cast<int>(f.row_starts.size()),
                static_cast<int>(f.column_starts.size()),
                f.rows,
                f.columns,
                InterpolationAxis(f.row_starts, f.window_height, f.rows, f.resized_height, f.height, kTileRows,
                                  padding(f.rows, f.window_height)),
                InterpolationAxis(f.column_starts, f.window_width, f.columns, f.resized_width, f.width, kTileColumns,
                                  padding(f.columns, f.window_width))};
    }

    static Segmentation Finish(Decoded decoded, int height, int width, const Classes& current) {
        Segmentation result;
        result.height = height;
        result.width = width;
        result.labels = std::move(decoded.labels);
        result.wide_labels = std::move(decoded.wide_labels);
        result.unlabelled = decoded.unlabelled;
        result.confidence = std::move(decoded.confidence);
        result.classes = current.names;
        return result;
    }

    /// A prepared image to its labels: on the device, where the encoder does that, else through its features.
    Segmentation Segment(const PreparedImage& image, DecodeInput input, const SegmentOptions& options,
                         const Classes& current) const {
        SetClasses(current, &input);
        const bool on_host = Refines(options) || input.class_threshold > 0 ||
                             !HostDecodeReason(bundle.manifest(), encoder->spec().grid).empty();
        if (on_host || !encoder->CanSegment(input)) return Label(Encode(image), input, options, current);
        const Clock clock;
        const auto plan = [&] { return PlanOf(SizesOf(image, encoder->sizes())); };
        Segmentation result = Finish(encoder->Segment(image, input, plan), image.height, image.width, current);
        result.timings.prepare = image.milliseconds;
        result.timings.encode = clock.Milliseconds();
        return result;
    }

    Segmentation Label(const WindowFeatures& features, DecodeInput input, const SegmentOptions& options,
                       const Classes& current) const {
        const Clock clock;
        const std::optional<PixelWeights> pixel_weights = Refine(features, options);
        input.refine = pixel_weights ? &*pixel_weights : nullptr;
        input.features = features.values.data();
        SetClasses(current, &input);
        std::vector<float> class_weights;
        if (decoding.class_weights && !current.vocabulary.HasEmptyText()) {
            class_weights = ClassWeights(features, current.vocabulary.embeddings);
            input.query_weight = &class_weights;
        }
        Decoded decoded = scclip::Decode(input, PlanOf(features));
        Segmentation result = Finish(std::move(decoded), features.height, features.width, current);
        result.timings = features.timings;
        result.timings.decode = clock.Milliseconds();
        return result;
    }

    /// Encode images whose windows have one size as if they were one; `images` and `features` go together.
    void EncodeTogether(const std::vector<PreparedImage*>& images, std::vector<WindowFeatures>* features) const {
        std::vector<std::uint8_t> windows;
        std::size_t values = 0;
        int count = 0;
        for (PreparedImage* image : images) {
            features->push_back(Allocate(*image));
            windows.insert(windows.end(), image->windows.begin(), image->windows.end());
            std::vector<std::uint8_t>().swap(image->windows);
            values += features->back().values.size();
            count += features->back().windows;
        }
        std::vector<float> all(values);
        const Clock clock;
        const Tiling& tiling = images.front()->tiling;
        encoder->FeaturesOf(windows.data(), count, tiling.input_height, tiling.input_width, all.data());
        const double each = clock.Milliseconds() / count;
        auto from = all.begin();
        for (WindowFeatures& part : *features) {
            const auto end = from + static_cast<std::ptrdiff_t>(part.values.size());
            std::copy(from, end, part.values.begin());
            if (encoder->sizes().class_row) TakeClassRows(&part);
            part.timings.encode = each * part.windows;
            from = end;
        }
    }

    /// The images from `first` on that are encoded together: windows of one size, at most some batches of them.
    std::vector<Result<PreparedImage>> PrepareGroup(const std::vector<ImageView>& images, std::size_t first) const {
        std::vector<Result<PreparedImage>> group;
        int windows = 0, height = 0, width = 0;
        for (std::size_t i = first; i < images.size() && windows < 8 * encoder->batch_size(); ++i) {
            Result<PreparedImage> made = Guard([&] { return Prepare(images[i]); });
            if (made) {
                const Tiling& tiling = made->tiling;
                const bool same = tiling.input_height == height && tiling.input_width == width;
                if (windows > 0 && !same) break;  // prepared again, in its own group
                height = tiling.input_height, width = tiling.input_width;
                windows += tiling.size();
            }
            group.push_back(std::move(made));
        }
        return group;
    }

    void LabelGroup(std::vector<Result<PreparedImage>>* group, const SegmentOptions& options, const Classes& current,
                    std::vector<Result<Segmentation>>* results) const {
        std::vector<PreparedImage*> sound;
        for (auto& image : *group) {
            if (image) sound.push_back(&*image);
        }
        std::vector<WindowFeatures> features;
        const Status problem = StatusOf([&] {
            if (!sound.empty()) EncodeTogether(sound, &features);
        });
        std::size_t next = 0;
        for (const auto& image : *group) {
            if (!image || !problem.ok()) {
                results->push_back(image ? problem : image.status());
                continue;
            }
            const WindowFeatures& part = features[next++];
            results->push_back(Guard([&] { return Label(part, Options(options), options, current); }));
        }
    }
};

Segmenter::Segmenter(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Segmenter::Segmenter(Segmenter&&) noexcept = default;
Segmenter& Segmenter::operator=(Segmenter&&) noexcept = default;
Segmenter::~Segmenter() = default;

Result<Segmenter> Segmenter::Open(const std::string& bundle, const OpenOptions& options) {
    return Guard([&] {
        CheckRanges(options);
        auto impl = std::make_unique<Impl>();
        impl->bundle = Bundle::Open(bundle, options.remember_hashes);
        const Manifest& manifest = impl->bundle.manifest();
        const PresetSpec preset = manifest.Preset(options.preset);
        manifest.TextIn(options.text_precision);  // before what takes seconds
        impl->decoding = Over(manifest.decoding, preset);
        const OpenOptions settled = Over(options, preset);
        if (options.stride != 0 && settled.whole_image.value_or(false)) {
            ThrowOption("stride", "goes with windows: the image is encoded in one pass. Leave one of them out");
        }
        impl->encoder = OpenEncoder(impl->bundle, settled);
        impl->prepare = Preparation::Over(manifest, impl->encoder->spec().grid, settled, impl->encoder->batch_size());
        impl->threads = options.threads;
        impl->text_precision = options.text_precision;
        impl->keep_text = options.keep_text;
        if (!manifest.vocabularies.empty()) impl->SetVocabulary("", std::nullopt);
        return Segmenter(std::move(impl));
    });
}

Status Segmenter::SetVocabulary(const std::string& file, const std::optional<std::string>& background) {
    return StatusOf([&] { impl_->SetVocabulary(file, background); });
}

Status Segmenter::SetClasses(const std::vector<std::vector<std::string>>& classes, const EmbedOptions& options) {
    return StatusOf([&] { impl_->SetClasses(classes, options); });
}

Status Segmenter::SetClasses(const std::string& classes, const EmbedOptions& options) {
    return StatusOf([&] { impl_->SetClasses(ParseClasses(classes), options); });
}

Result<Segmentation> Segmenter::Segment(const ImageView& image, const SegmentOptions& options) const {
    return Guard([&] {
        const auto current = impl_->Needed();
        const DecodeInput input = impl_->Options(options);
        return impl_->Segment(impl_->Prepare(image), input, options, *current);
    });
}

std::vector<Result<Segmentation>> Segmenter::SegmentBatch(const std::vector<ImageView>& images,
                                                          const SegmentOptions& options) const {
    std::vector<Result<Segmentation>> results;
    try {
        const auto current = impl_->Needed();
        impl_->Options(options);
        while (results.size() < images.size()) {
            auto group = impl_->PrepareGroup(images, results.size());
            impl_->LabelGroup(&group, options, *current, &results);
        }
    } catch (...) {
        const Status status = CurrentStatus();
        while (results.size() < images.size()) results.emplace_back(status);
    }
    return results;
}

Result<WindowFeatures> Segmenter::Encode(const ImageView& image) const {
    return Guard([&] { return impl_->Encode(impl_->Prepare(image)); });
}

Result<Segmentation> Segmenter::Decode(const WindowFeatures& features, const SegmentOptions& options) const {
    return Guard([&] {
        const auto current = impl_->Needed();
        const DecodeInput input = impl_->Options(options);
        CheckFeatureSizes(features, impl_->encoder->sizes(), impl_->Refines(options));
        return impl_->Label(features, input, options, *current);
    });
}

std::vector<std::string> Segmenter::Classes() const {
    const auto current = impl_->Current();
    return current ? current->vocabulary.classes : std::vector<std::string>();
}

BackendInfo Segmenter::Describe() const { return impl_->encoder->info(); }

const char* Version() { return SCCLIP_VERSION; }

}  // namespace scclip
