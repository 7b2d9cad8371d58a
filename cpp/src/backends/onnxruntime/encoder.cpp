// The image encoder on ONNX Runtime.
#include "backends/base.hpp"
#include "backends/graph_check.hpp"
#include "backends/onnxruntime/session.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

class OnnxRuntimeEncoder final : public Encoder {
  public:
    OnnxRuntimeEncoder(Owned<OrtSession> session, EncoderSpec spec, BackendInfo info, const FeatureSizes& sizes)
        : Encoder(std::move(spec), std::move(info), sizes),
          session_(std::move(session)),
          query_(static_cast<std::size_t>(sizes.embed_dim)) {
        // The features need no query, but the graph wants one: a single unit vector costs nothing measurable.
        query_[0] = 1;
    }

    void Features(const std::uint8_t* windows, int count, int height, int width, float* out) const override {
        const std::int64_t rows = sizes().Rows(height, width);
        const auto embed = static_cast<std::int64_t>(query_.size());
        // ONNX Runtime takes inputs through a pointer that is not const, and does not write to them.
        const Owned<OrtValue> pixels = tensors_.Over(const_cast<std::uint8_t*>(windows), {count, height, width, 3},
                                                     ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1);
        const Owned<OrtValue> text =
            tensors_.Over(const_cast<float*>(query_.data()), {1, embed}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4);
        const Owned<OrtValue> features =
            tensors_.Over(out, {count, rows, embed}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4);
        const char* input_names[] = {"windows", "text"};
        const char* output_names[] = {"features"};
        const OrtValue* inputs[] = {pixels.get(), text.get()};
        OrtValue* outputs[] = {features.get()};
        const std::string problem =
            TakeOrt(Api().Run(session_.get(), nullptr, input_names, inputs, 2, output_names, 1, outputs));
        if (!problem.empty()) {
            ThrowInference("ONNX Runtime", spec().file, {count, height, width, static_cast<int>(embed)}, problem);
        }
        CheckFeatures(out, static_cast<std::size_t>(count * rows * embed), spec().file);
    }

  private:
    Owned<OrtSession> session_;
    HostTensors tensors_;
    std::vector<float> query_;
};

}  // namespace

std::string OnnxRuntimeVersion() { return OrtGetApiBase()->GetVersionString(); }

std::unique_ptr<Encoder> OpenOnnxRuntime(const Bundle& bundle, const EncoderRequest& request) {
    const OpenOptions& options = request.options;
    const Provider provider = ChooseProvider(options.ort_provider, options.device);
    const DeviceKind kind = provider.name == "cpu" ? DeviceKind::kCpu : DeviceKind::kCuda;
    if (options.precision == "fp16" && kind == DeviceKind::kCpu) {
        ThrowBackend(
            "precision 'fp16' is refused on the CPU: ONNX Runtime has no fp16 arithmetic there, so it is slower than "
            "fp32 and can crash while optimising the graph; use precision fp32 or device cuda:0",
            "precision");
    }
    std::vector<std::string> precisions = {options.precision};
    if (options.precision == "auto" && kind == DeviceKind::kCpu) precisions = {"fp32"};
    if (options.precision == "auto" && kind == DeviceKind::kCuda) precisions = {"fp16", "fp32"};
    const EncoderSpec& chosen = ChooseEncoder(bundle, precisions, kind, options.whole_image.value_or(false));
    const int threads = InfoOf(chosen, request, kind).threads;
    Owned<OrtSession> session;
    const auto open = [&](const EncoderSpec& one) {
        session = LoadSession(bundle, one, provider, threads, one.HasAttention());
    };
    OpenedEncoder opened{&chosen, ""};
    if (provider.name == "cuda") {
        opened = OpenForCuda(bundle, chosen, OnnxRuntimeVersion(), open);
    } else {
        open(chosen);
    }
    const EncoderSpec& spec = *opened.spec;
    BackendInfo info = InfoOf(spec, request, kind);
    if (!opened.why.empty()) info.reason += "; " + opened.why;
    info.backend = "onnxruntime";
    info.version = OnnxRuntimeVersion();
    info.provider = FullName(provider.name);
    if (kind == DeviceKind::kCuda) info.device = "cuda:" + std::to_string(provider.device);
    return std::make_unique<OnnxRuntimeEncoder>(std::move(session), spec, info, FeatureSizes::Of(bundle.manifest()));
}

}  // namespace scclip
