// The image encoder on OpenVINO's CPU plug-in.
#include <mutex>
#include <openvino/openvino.hpp>
#include <set>

#include "backend.hpp"
#include "choice.hpp"
#include "error.hpp"
#include "parallel.hpp"
#include "selection.hpp"
#include "text.hpp"

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

class OpenVinoEncoder final : public Encoder {
  public:
    OpenVinoEncoder(ov::CompiledModel model, EncoderSpec spec, BackendInfo info, int embed_dim, int patch)
        : Encoder(std::move(spec), std::move(info)),
          model_(std::move(model)),
          patch_(static_cast<std::size_t>(patch)),
          query_(static_cast<std::size_t>(embed_dim)) {
        // The features need no query, but the graph wants one: a single unit vector costs nothing measurable.
        query_[0] = 1;
    }

    void Features(const std::uint8_t* windows, int count, int height, int width, float* out) const override {
        const auto batch = static_cast<std::size_t>(count);
        const auto rows = static_cast<std::size_t>(height), columns = static_cast<std::size_t>(width);
        const std::size_t patches = (rows / patch_) * (columns / patch_);
        const Lease lease(*this);
        try {
            ov::InferRequest& request = lease.request();
            // OpenVINO takes inputs through a pointer that is not const, and does not write to them.
            request.set_tensor(
                "windows", ov::Tensor(ov::element::u8, {batch, rows, columns, 3}, const_cast<std::uint8_t*>(windows)));
            request.set_tensor("text",
                               ov::Tensor(ov::element::f32, {1, query_.size()}, const_cast<float*>(query_.data())));
            request.set_tensor("features", ov::Tensor(ov::element::f32, {batch, patches, query_.size()}, out));
            request.infer();
        } catch (const std::exception& error) {
            ThrowInference("OpenVINO", spec().file, {count, height, width, static_cast<int>(query_.size())},
                           Reason(error));
        }
        CheckFeatures(out, batch * patches * query_.size(), spec().file);
    }

  private:
    /// An infer request serves one call at a time; as many are kept as calls ever ran at once.
    class Lease {
      public:
        explicit Lease(const OpenVinoEncoder& owner) : owner_(owner) {
            {
                const std::lock_guard<std::mutex> lock(owner_.mutex_);
                if (!owner_.idle_.empty()) {
                    request_ = std::move(owner_.idle_.back());
                    owner_.idle_.pop_back();
                    return;
                }
            }
            request_ = owner_.model_.create_infer_request();
        }
        ~Lease() {
            const std::lock_guard<std::mutex> lock(owner_.mutex_);
            owner_.idle_.push_back(std::move(request_));
        }
        Lease(const Lease&) = delete;
        Lease& operator=(const Lease&) = delete;
        ov::InferRequest& request() const { return request_; }

      private:
        const OpenVinoEncoder& owner_;
        mutable ov::InferRequest request_;
    };

    mutable ov::CompiledModel model_;
    std::size_t patch_;
    std::vector<float> query_;
    mutable std::mutex mutex_;  // of `idle_`
    mutable std::vector<ov::InferRequest> idle_;
};

ov::CompiledModel Compile(const Bundle& bundle, const EncoderSpec& spec, int threads) {
    const std::string path = bundle.CheckedGraph(spec.file);
    std::shared_ptr<ov::Model> model;
    try {
        model = Core().read_model(path);
    } catch (const std::exception& error) {
        ThrowBundle(path + ": OpenVINO can't load it: " + Reason(error));
    }
    CheckModel(spec, *model);
    try {
        // The precision is said outright: where the processor has bf16, the plug-in takes it by default. One inference
        // at a time takes all threads; pinned ones would sit on cores that the decode and other processes use too.
        return Core().compile_model(model, "CPU", ov::hint::inference_precision(ov::element::f32),
                                    ov::hint::performance_mode(ov::hint::PerformanceMode::LATENCY), ov::num_streams(1),
                                    ov::inference_num_threads(threads), ov::hint::enable_cpu_pinning(false));
    } catch (const std::exception& error) {
        ThrowBundle(path + ": OpenVINO can't load it: " + Reason(error));
    }
}

/// The precision to run; what this backend can't do is refused.
std::string CheckRequest(const OpenOptions& options) {
    if (!options.ort_provider.empty()) {
        ThrowBackend("--ort-provider " + options.ort_provider +
                     " is ONNX Runtime's; leave it out with --backend openvino");
    }
    if (options.device != "auto" && options.device != "cpu") {
        ThrowBackend("backend 'openvino' runs on the CPU here; got device " + Quote(options.device) +
                     ". Use --device cpu, or --backend onnxruntime for a GPU");
    }
    const std::string precision = options.precision == "auto" ? "fp32" : options.precision;
    if (precision == "bf16") {
        const std::set<std::string> flags = ProcessorFlags();
        if (flags.count("amx_bf16") + flags.count("avx512_bf16") + flags.count("avx_ne_convert") == 0) {
            ThrowBackend(
                "precision 'bf16' needs a processor with bf16 arithmetic (amx_bf16, avx512_bf16, avx_ne_convert); this "
                "one has none of it, so bf16 would be less accurate and not faster. Use --precision fp32, or int8 if "
                "the bundle has it");
        }
        ThrowBackend(
            "precision 'bf16' is in the Python runtime alone, which keeps the anomaly stage in float32; use "
            "--precision "
            "fp32, or int8 if the bundle has it");
    }
    if (precision != "fp32" && precision != "int8") {
        ThrowBackend("backend 'openvino' has no precision " + Quote(precision) +
                     "; it has: fp32, int8 (int8 if the bundle was exported with --int8)");
    }
    return precision;
}

}  // namespace

std::unique_ptr<Encoder> OpenOpenVino(const Bundle& bundle, const EncoderRequest& request) {
    const OpenOptions& options = request.options;
    const std::string precision = CheckRequest(options);
    const EncoderSpec& spec = ChooseEncoder(bundle, {precision}, DeviceKind::kCpu, options.whole_image);
    const int threads = options.threads > 0 ? options.threads : DefaultThreads();
    ov::CompiledModel model = Compile(bundle, spec, threads);
    BackendInfo info;
    info.backend = "openvino";
    const std::string version = ov::get_openvino_version().buildNumber;
    info.version = version.substr(0, version.find('-'));
    info.provider = "CPU";
    info.device = "cpu";
    info.precision = spec.precision;
    info.grid = spec.grid.ToString();
    info.encoder = spec.file;
    info.threads = threads;
    info.batch = BatchSize(spec, options.batch, DeviceKind::kCpu);
    info.reason = request.reason;
    return std::make_unique<OpenVinoEncoder>(std::move(model), spec, info, bundle.manifest().embed_dim,
                                             bundle.manifest().patch_size);
}

}  // namespace scclip
