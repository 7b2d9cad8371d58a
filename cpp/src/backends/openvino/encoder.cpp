// The image encoder on OpenVINO's CPU plug-in: fp32, bf16 from the fp32 file, int8.
#include <algorithm>
#include <functional>
#include <mutex>
#include <openvino/openvino.hpp>
#include <optional>

#include "backends/base.hpp"
#include "backends/choose.hpp"
#include "backends/graph_check.hpp"
#include "backends/openvino/split.hpp"
#include "backends/processor.hpp"
#include "bundle/resolved_graph.hpp"
#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

ov::Core& Core() {
    // One for the process, never destroyed: its thread pool may outlive static destructors.
    static ov::Core* const core = new ov::Core();
    return *core;
}

std::string Reason(const std::exception& error) { return OneLine(error.what(), 300); }

/// One input or output as the graph declares it; dynamic axes get a name.
TensorSpec Declared(const ov::Output<const ov::Node>& port) {
    TensorSpec spec{port.get_any_name(), "type " + port.get_element_type().get_type_name(), {}};
    if (port.get_element_type() == ov::element::u8) spec.dtype = "uint8";
    if (port.get_element_type() == ov::element::i64) spec.dtype = "int64";
    if (port.get_element_type() == ov::element::f32) spec.dtype = "float32";
    const ov::PartialShape shape = port.get_partial_shape();
    if (shape.rank().is_dynamic()) return spec;
    for (const ov::Dimension& length : shape) {
        if (length.is_static()) {
            spec.shape.emplace_back(length.get_length());
        } else {
            spec.shape.emplace_back(std::string("None"));
        }
    }
    return spec;
}

void CheckModel(const EncoderSpec& spec, const ov::Model& model) {
    std::vector<TensorSpec> inputs, outputs;
    for (const auto& port : model.inputs()) inputs.push_back(Declared(port));
    for (const auto& port : model.outputs()) outputs.push_back(Declared(port));
    CheckGraph(spec, inputs, outputs);
}

/// What runs a compiled encoder: each set of requests serves one call at a time, and as many are kept as calls ever ran
/// at once.
class Runs {
  public:
    explicit Runs(CompiledParts parts) : parts_(std::move(parts)) {}

    /// Calls `fill` with the first and the last part's request, then infers.
    template <typename Fill>
    void Infer(const Fill& fill) {
        CompiledParts::Requests requests = Take();
        const auto give_back = [&] {
            const std::lock_guard<std::mutex> lock(mutex_);
            idle_.push_back(std::move(requests));
        };
        try {
            fill(requests.front(), requests.back());
            parts_.Infer(requests);
        } catch (...) {
            give_back();
            throw;
        }
        give_back();
    }

  private:
    CompiledParts::Requests Take() {
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!idle_.empty()) {
                CompiledParts::Requests requests = std::move(idle_.back());
                idle_.pop_back();
                return requests;
            }
        }
        return parts_.NewRequests();
    }

    CompiledParts parts_;
    std::mutex mutex_;  // of `idle_`
    std::vector<CompiledParts::Requests> idle_;
};

/// Compiles the encoder for so many inferences at a time, which share the threads.
using Compiler = std::function<CompiledParts(int streams)>;

class OpenVinoEncoder final : public Encoder {
  public:
    /// `parts`: as Encoder::parts; a window alone, which then would get a part of the threads, is run by another
    /// compiled form, made when it is needed first.
    OpenVinoEncoder(Compiler compile, int parts, EncoderSpec spec, BackendInfo info, const FeatureSizes& sizes)
        : Encoder(std::move(spec), std::move(info), sizes),
          compile_(std::move(compile)),
          parts_(parts),
          runs_(compile_(parts)),
          query_(static_cast<std::size_t>(sizes.embed_dim)) {
        // The features need no query, but the graph wants one: a single unit vector costs nothing measurable.
        query_[0] = 1;
    }

    int parts() const override { return parts_; }

    void Features(const std::uint8_t* windows, int count, int height, int width, float* out) const override {
        Infer(runs_, windows, count, height, width, out);
    }

    void FeaturesAlone(const std::uint8_t* window, int height, int width, float* out) const override {
        if (parts_ == 1) return Features(window, 1, height, width, out);
        {
            const std::lock_guard<std::mutex> lock(mutex_);
            if (!alone_) alone_ = std::make_unique<Runs>(compile_(1));
        }
        Infer(*alone_, window, 1, height, width, out);
    }

  private:
    void Infer(Runs& runs, const std::uint8_t* windows, int count, int height, int width, float* out) const {
        const auto batch = static_cast<std::size_t>(count);
        const auto high = static_cast<std::size_t>(height), wide = static_cast<std::size_t>(width);
        const auto rows = static_cast<std::size_t>(sizes().Rows(height, width));
        try {
            runs.Infer([&](ov::InferRequest& first, ov::InferRequest& last) {
                // OpenVINO takes inputs through a pointer that is not const, and does not write to them.
                first.set_tensor(
                    "windows", ov::Tensor(ov::element::u8, {batch, high, wide, 3}, const_cast<std::uint8_t*>(windows)));
                last.set_tensor("text",
                                ov::Tensor(ov::element::f32, {1, query_.size()}, const_cast<float*>(query_.data())));
                last.set_tensor("features", ov::Tensor(ov::element::f32, {batch, rows, query_.size()}, out));
            });
        } catch (const std::exception& error) {
            ThrowInference("OpenVINO", spec().file, {count, height, width, static_cast<int>(query_.size())},
                           Reason(error));
        }
        CheckFeatures(out, batch * rows * query_.size(), spec().file);
    }

    Compiler compile_;
    int parts_;
    mutable Runs runs_;
    std::vector<float> query_;
    mutable std::mutex mutex_;  // of `alone_`
    mutable std::unique_ptr<Runs> alone_;
};

ov::CompiledModel Compile(const std::shared_ptr<ov::Model>& model, int threads, ov::element::Type precision,
                          int streams = 1) {
    // Inferences at a time share the threads; pinned ones would sit on cores that the decode and other processes use
    // too.
    return Core().compile_model(model, "CPU", ov::hint::inference_precision(precision),
                                ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY),
                                ov::num_streams(streams), ov::inference_num_threads(threads),
                                ov::hint::enable_cpu_pinning(false));
}

void CheckTaken(const ov::CompiledModel& compiled, const std::string& file) {
    const ov::element::Type taken = compiled.get_property(ov::hint::inference_precision);
    if (taken == ov::element::bf16) return;
    ThrowBackend(file + ": asked OpenVINO for bf16, it took " + taken.get_type_name() +
                 " on this processor; use precision fp32");
}

/// bf16 but for the anomaly stage; what was compiled is read back.
CompiledParts CompileSplit(const EncoderSplit& split, const std::string& file, bool check, int threads, int streams) {
    std::vector<ov::CompiledModel> parts = {Compile(split.trunk, threads, ov::element::bf16, streams),
                                            Compile(split.stage, threads, ov::element::f32, streams),
                                            Compile(split.tail, threads, ov::element::bf16, streams)};
    if (check) CheckTaken(parts[0], file);
    std::vector<std::string> narrow = NarrowNodes(parts[1]);
    if (!narrow.empty()) {
        narrow.resize(std::min<std::size_t>(narrow.size(), 3));
        ThrowBackend(file + ": OpenVINO would not compute the anomaly distances in float32 (" + Join(narrow, "; ") +
                     "); use precision fp32");
    }
    return CompiledParts(std::move(parts));
}

/// Reads and checks the graph; what comes back compiles it.
Compiler ReadEncoder(const Bundle& bundle, const EncoderSpec& spec, const std::string& precision, int threads) {
    const ResolvedGraph graph(bundle, spec.file);  // OpenVINO refuses weights that lead out of the model's folder
    const std::string& path = graph.path();
    const auto guarded = [path, file = spec.file](const auto& work) {
        try {
            return work();
        } catch (const Error&) {
            throw;
        } catch (const std::exception& error) {
            ThrowBundle(path + ": OpenVINO can't load it: " + Reason(error), file);
        }
    };
    // Where the processor gains from bf16, int8 of whole images is bf16 beside its integer products: attention, which
    // grows with the square of the patches, is a third of their time in float32.
    const bool gains = !GainingBf16Flag(ProcessorFlags(), ProcessorVendor()).empty();
    const bool beside = precision == "int8" && spec.grid.kind != "window" && gains;
    const bool bf16 = precision == "bf16" || beside;
    bool selects = false;  // by distance: not with calibration `maskclip` or `none`
    std::optional<EncoderSplit> split;
    const std::shared_ptr<ov::Model> model = guarded([&] {
        std::shared_ptr<ov::Model> read = Core().read_model(path);
        CheckModel(spec, *read);
        const auto nodes = read->get_ops();
        selects = std::any_of(nodes.begin(), nodes.end(),
                              [](const auto& node) { return node->get_type_name() == std::string("TopK"); });
        if (bf16 && selects) split = SplitEncoder(read);
        return read;
    });
    if (precision == "bf16" && selects && !split) {
        ThrowBackend(
            spec.file +
                ": its anomaly stage has a form that this version doesn't know, so it can't be kept in float32 "
                "under bf16; use precision fp32, or export the bundle again with this version",
            spec.file);
    }
    return [=, file = spec.file](int streams) {
        return guarded([&] {
            // Beside int8, what the plug-in takes instead of bf16 is as good.
            const bool check = precision == "bf16";
            if (split) return CompileSplit(*split, file, check, threads, streams);
            // Said outright: where the processor has bf16, the plug-in takes it by default.
            const bool narrow = bf16 && !selects;
            const ov::CompiledModel whole =
                Compile(model, threads, narrow ? ov::element::bf16 : ov::element::f32, streams);
            if (narrow && check) CheckTaken(whole, file);
            return CompiledParts({whole});
        });
    };
}

/// The precision to run; what this backend can't do is refused.
std::string CheckRequest(const OpenOptions& options) {
    if (!options.ort_provider.empty()) {
        ThrowBackend("ort_provider " + Quote(options.ort_provider) + " is ONNX Runtime's; leave it out with openvino",
                     "ort_provider");
    }
    if (options.device != "auto" && options.device != "cpu") {
        ThrowBackend("backend 'openvino' runs on the CPU here; got device " + Quote(options.device) +
                         ". Use device cpu, or backend onnxruntime for a GPU",
                     "device");
    }
    const std::string precision = options.precision == "auto" ? "fp32" : options.precision;
    if (precision != "fp32" && precision != "bf16" && precision != "int8") {
        ThrowBackend(
            "backend 'openvino' has no precision " + Quote(precision) +
                "; it has: fp32, bf16, int8 (bf16 from the fp32 file, int8 if the bundle was exported with --int8)",
            "precision");
    }
    if (precision == "bf16" && Bf16Flag(ProcessorFlags()).empty()) {
        ThrowBackend(
            "precision 'bf16' needs a processor with bf16 arithmetic (amx_bf16, avx512_bf16, avx_ne_convert); this one "
            "has none of it, so bf16 would be less accurate and not faster. Use precision fp32, or int8 if the "
            "bundle has it",
            "precision");
    }
    return precision;
}

}  // namespace

std::string OpenVinoVersion() {
    const std::string version = ov::get_openvino_version().buildNumber;
    return version.substr(0, version.find('-'));
}

std::unique_ptr<Encoder> OpenOpenVino(const Bundle& bundle, const EncoderRequest& request) {
    const OpenOptions& options = request.options;
    const std::string precision = CheckRequest(options);
    const EncoderSpec& spec = ChooseEncoder(bundle, {precision == "int8" ? "int8" : "fp32"}, DeviceKind::kCpu,
                                            options.whole_image.value_or(false));
    BackendInfo info = InfoOf(spec, request, DeviceKind::kCpu);
    info.backend = "openvino";
    info.version = OpenVinoVersion();
    info.provider = "CPU";
    info.precision = precision;
    // Operators on int8 are so short that waiting for the other threads is a fifth of the time. Wider ones gain
    // nothing.
    const bool halves = precision == "int8" && spec.grid.kind == "window" && info.threads % 2 == 0;
    return std::make_unique<OpenVinoEncoder>(ReadEncoder(bundle, spec, precision, info.threads), halves ? 2 : 1, spec,
                                             info, FeatureSizes::Of(bundle.manifest()));
}

}  // namespace scclip
