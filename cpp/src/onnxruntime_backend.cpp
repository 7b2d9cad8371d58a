// The image encoder on ONNX Runtime, through its C API: it is stable across versions, and no exception crosses it.
#include <onnxruntime_c_api.h>
#include <onnxruntime_session_options_config_keys.h>

#include <cstdlib>
#include <cstring>
#include <mutex>

#include "backend.hpp"
#include "error.hpp"
#include "parallel.hpp"
#include "selection.hpp"
#include "text.hpp"

namespace scclip {
namespace {

const OrtApi& Api() {
    static const OrtApi* const api = [] {
        // Official builds send events over HTTPS unless this is set before they start (their Privacy.md). Segmenting
        // a photo should not open a connection; a user who sets it keeps the say.
        ::setenv("ORT_DISABLE_TELEMETRY", "1", 0);
        return OrtGetApiBase()->GetApi(ORT_API_VERSION);
    }();
    if (api == nullptr) {
        ThrowBackend(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() +
                     " is too old; this build needs 1." + std::to_string(ORT_API_VERSION));
    }
    return *api;
}

struct Release {
    void operator()(OrtEnv* p) const { Api().ReleaseEnv(p); }
    void operator()(OrtSession* p) const { Api().ReleaseSession(p); }
    void operator()(OrtSessionOptions* p) const { Api().ReleaseSessionOptions(p); }
    void operator()(OrtMemoryInfo* p) const { Api().ReleaseMemoryInfo(p); }
    void operator()(OrtValue* p) const { Api().ReleaseValue(p); }
    void operator()(OrtTypeInfo* p) const { Api().ReleaseTypeInfo(p); }
    void operator()(OrtCUDAProviderOptionsV2* p) const { Api().ReleaseCUDAProviderOptions(p); }
    void operator()(OrtTensorRTProviderOptionsV2* p) const { Api().ReleaseTensorRTProviderOptions(p); }
};
template <typename T>
using Owned = std::unique_ptr<T, Release>;

/// The message of a failed call, in one line; empty for success.
std::string Take(OrtStatus* status, std::size_t length = 300) {
    if (status == nullptr) return "";
    std::string message = OneLine(Api().GetErrorMessage(status), length);
    Api().ReleaseStatus(status);
    return message.empty() ? "an error without a message" : message;
}

void Check(OrtStatus* status) {
    const std::string message = Take(status);
    if (!message.empty()) ThrowBackend("ONNX Runtime: " + message);
}

OrtEnv* Env() {
    // One for the process, never released: ONNX Runtime's own threads may outlive static destructors.
    static OrtEnv* const env = [] {
        OrtEnv* made = nullptr;
        Check(Api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "scclip", &made));
        return made;
    }();
    return env;
}

struct Provider {
    std::string name;  // cpu, cuda, tensorrt
    int device = 0;
};

const char* FullName(const std::string& name) {
    if (name == "cuda") return "CUDAExecutionProvider";
    return name == "tensorrt" ? "TensorrtExecutionProvider" : "CPUExecutionProvider";
}

void CheckInstalled(const std::string& name) {
    char** available = nullptr;
    int count = 0;
    Check(Api().GetAvailableProviders(&available, &count));
    std::vector<std::string> have;
    bool found = false;
    for (const char* known : {"cpu", "cuda", "tensorrt"}) {
        for (int i = 0; i < count; ++i) {
            if (std::strcmp(available[i], FullName(known)) != 0) continue;
            have.emplace_back(known);
            found = found || name == known;
        }
    }
    Take(Api().ReleaseAvailableProviders(available, count));
    if (found) return;
    ThrowBackend(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " here has no " + Quote(name) +
                 " provider; it has: " + Join(have) +
                 ". Link the library with a GPU build of ONNX Runtime, or use --device cpu");
}

/// The provider and device number that the two options ask for together.
Provider ChooseProvider(const std::string& asked, const std::string& device) {
    const bool on_gpu = device.compare(0, 4, "cuda") == 0;
    std::string number = on_gpu && device.size() > 4 ? device.substr(5) : "0";
    const bool known = device == "auto" || device == "cpu" || device == "cuda" ||
                       (on_gpu && device[4] == ':' && !number.empty() && number.size() < 5 &&
                        number.find_first_not_of("0123456789") == std::string::npos);
    if (!known) {
        ThrowBackend("unknown device " + Quote(device) + "; known: auto, cpu, cuda:N (cuda:0 is the first GPU)");
    }
    if (!asked.empty() && asked != "cpu" && asked != "cuda" && asked != "tensorrt") {
        ThrowBackend("unknown ONNX Runtime provider " + Quote(asked) + "; known: cpu, cuda, tensorrt");
    }
    const std::string name = !asked.empty() ? asked : (on_gpu ? "cuda" : "cpu");
    if (device != "auto" && on_gpu != (name != "cpu")) {
        ThrowBackend("provider " + Quote(name) + " doesn't run on device " + Quote(device) + "; use --device " +
                     (name == "cpu" ? "cpu" : "cuda:0") + " or another --ort-provider");
    }
    CheckInstalled(name);
    return {name, std::stoi(number)};
}

/// For the calls that set a provider up: whichever is the first loads its library.
void CheckProvider(const std::string& provider, int device, OrtStatus* status) {
    const std::string message = Take(status, 2000);
    if (message.empty()) return;
    const std::string reason = OneLine(OrtReason(message), 300);
    const std::string version = OrtGetApiBase()->GetVersionString();
    if (message.find("Failed to load library") == std::string::npos) {
        ThrowBackend("ONNX Runtime " + version + " can't use its provider " + provider +
                     " on cuda:" + std::to_string(device) + " (" + reason + ")");
    }
    ThrowBackend("ONNX Runtime " + version + " can't load its provider " + provider + " (" + reason +
                 "); install the CUDA, cuDNN or TensorRT that it was built for, name their folders in "
                 "LD_LIBRARY_PATH, or use --device cpu");
}

void AppendCuda(OrtSessionOptions* options, int device) {
    OrtCUDAProviderOptionsV2* raw = nullptr;
    CheckProvider("cuda", device, Api().CreateCUDAProviderOptions(&raw));
    const Owned<OrtCUDAProviderOptionsV2> cuda(raw);
    const std::string number = std::to_string(device);
    // TF32 has the mantissa of fp16; anomaly detection and the norms are defined in fp32.
    const char* keys[] = {"device_id", "use_tf32"};
    const char* values[] = {number.c_str(), "0"};
    CheckProvider("cuda", device, Api().UpdateCUDAProviderOptions(raw, keys, values, 2));
    CheckProvider("cuda", device, Api().SessionOptionsAppendExecutionProvider_CUDA_V2(options, raw));
}

void AppendTensorRt(OrtSessionOptions* options, int device) {
    // The TensorRT provider has no switch for TF32, only NVIDIA's own, read when the libraries load.
    ::setenv("NVIDIA_TF32_OVERRIDE", "0", 0);
    OrtTensorRTProviderOptionsV2* raw = nullptr;
    CheckProvider("tensorrt", device, Api().CreateTensorRTProviderOptions(&raw));
    const Owned<OrtTensorRTProviderOptionsV2> tensorrt(raw);
    const std::string number = std::to_string(device);
    const char* keys[] = {"device_id"};
    const char* values[] = {number.c_str()};
    CheckProvider("tensorrt", device, Api().UpdateTensorRTProviderOptions(raw, keys, values, 1));
    CheckProvider("tensorrt", device, Api().SessionOptionsAppendExecutionProvider_TensorRT_V2(options, raw));
}

Owned<OrtSessionOptions> SessionOptions(const Provider& provider, int threads) {
    Env();  // a provider logs while it is loaded, and without an environment its own reason is lost
    OrtSessionOptions* raw = nullptr;
    Check(Api().CreateSessionOptions(&raw));
    Owned<OrtSessionOptions> options(raw);
    Check(Api().SetIntraOpNumThreads(raw, threads));
    // Idle workers that spin take the cores from decoding and from other processes.
    Check(Api().AddSessionConfigEntry(raw, kOrtSessionOptionsConfigAllowIntraOpSpinning, "0"));
    Check(Api().SetSessionLogSeverityLevel(raw, ORT_LOGGING_LEVEL_ERROR));
    if (provider.name == "tensorrt") AppendTensorRt(raw, provider.device);
    if (provider.name != "cpu") AppendCuda(raw, provider.device);
    return options;
}

Owned<OrtSession> Load(const Bundle& bundle, const EncoderSpec& spec, const Provider& provider, int threads) {
    const std::string path = bundle.CheckedGraph(spec.file);
    const Owned<OrtSessionOptions> options = SessionOptions(provider, threads);
    OrtSession* raw = nullptr;
    const std::string problem = Take(Api().CreateSession(Env(), path.c_str(), options.get(), &raw));
    if (problem.empty()) return Owned<OrtSession>(raw);
    if (provider.name == "cpu") ThrowBundle(path + ": ONNX Runtime can't load it: " + problem);
    ThrowBackend(path + ": ONNX Runtime can't load it on " + provider.name + ": " + problem);
}

std::string TypeName(ONNXTensorElementDataType type) {
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) return "uint8";
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) return "int64";
    return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? "float32" : "type " + std::to_string(type);
}

/// One input or output as the graph declares it; named axes have length -1.
TensorSpec Declared(const OrtSession* session, bool input, std::size_t index) {
    OrtAllocator* allocator = nullptr;
    Check(Api().GetAllocatorWithDefaultOptions(&allocator));
    char* name = nullptr;
    Check((input ? Api().SessionGetInputName : Api().SessionGetOutputName)(session, index, allocator, &name));
    TensorSpec spec{name, "", {}};
    Check(Api().AllocatorFree(allocator, name));
    OrtTypeInfo* raw = nullptr;
    Check((input ? Api().SessionGetInputTypeInfo : Api().SessionGetOutputTypeInfo)(session, index, &raw));
    const Owned<OrtTypeInfo> type(raw);
    const OrtTensorTypeAndShapeInfo* info = nullptr;
    Check(Api().CastTypeInfoToTensorInfo(raw, &info));
    if (info == nullptr) {
        spec.dtype = "no tensor";
        return spec;
    }
    ONNXTensorElementDataType element{};
    Check(Api().GetTensorElementType(info, &element));
    spec.dtype = TypeName(element);
    std::size_t rank = 0;
    Check(Api().GetDimensionsCount(info, &rank));
    std::vector<std::int64_t> lengths(rank);
    std::vector<const char*> names(rank);
    Check(Api().GetDimensions(info, lengths.data(), rank));
    Check(Api().GetSymbolicDimensions(info, names.data(), rank));
    for (std::size_t i = 0; i < rank; ++i) {
        if (lengths[i] >= 0)
            spec.shape.emplace_back(lengths[i]);
        else
            spec.shape.emplace_back(std::string(names[i] == nullptr ? "None" : names[i]));
    }
    return spec;
}

std::vector<TensorSpec> DeclaredSide(const OrtSession* session, bool input) {
    std::size_t count = 0;
    Check((input ? Api().SessionGetInputCount : Api().SessionGetOutputCount)(session, &count));
    std::vector<TensorSpec> found;
    for (std::size_t i = 0; i < count; ++i) found.push_back(Declared(session, input, i));
    return found;
}

class OnnxRuntimeEncoder final : public Encoder {
  public:
    OnnxRuntimeEncoder(Owned<OrtSession> session, EncoderSpec spec, BackendInfo info, int embed_dim, int patch)
        : Encoder(std::move(spec), std::move(info)),
          session_(std::move(session)),
          patch_(patch),
          query_(static_cast<std::size_t>(embed_dim)) {
        // The features need no query, but the graph wants one: a single unit vector costs nothing measurable.
        query_[0] = 1;
        OrtMemoryInfo* memory = nullptr;
        Check(Api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
        memory_.reset(memory);
    }

    void Features(const std::uint8_t* windows, int count, int height, int width, float* out) const override {
        const std::int64_t patches = static_cast<std::int64_t>(height / patch_) * (width / patch_);
        const auto embed = static_cast<std::int64_t>(query_.size());
        // ONNX Runtime takes inputs through a pointer that is not const, and does not write to them.
        const Owned<OrtValue> pixels = Tensor(const_cast<std::uint8_t*>(windows), {count, height, width, 3},
                                              ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8, 1);
        const Owned<OrtValue> text =
            Tensor(const_cast<float*>(query_.data()), {1, embed}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4);
        const Owned<OrtValue> features = Tensor(out, {count, patches, embed}, ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4);
        const char* input_names[] = {"windows", "text"};
        const char* output_names[] = {"features"};
        const OrtValue* inputs[] = {pixels.get(), text.get()};
        OrtValue* outputs[] = {features.get()};
        const std::string problem =
            Take(Api().Run(session_.get(), nullptr, input_names, inputs, 2, output_names, 1, outputs));
        if (!problem.empty()) {
            ThrowInference("ONNX Runtime", spec().file, {count, height, width, static_cast<int>(embed)}, problem);
        }
        CheckFeatures(out, static_cast<std::size_t>(count * patches * embed), spec().file);
    }

  private:
    Owned<OrtSession> session_;
    Owned<OrtMemoryInfo> memory_;
    int patch_;
    std::vector<float> query_;

    Owned<OrtValue> Tensor(void* data, const std::vector<std::int64_t>& shape, ONNXTensorElementDataType type,
                           std::size_t item) const {
        std::size_t bytes = item;
        for (const std::int64_t length : shape) bytes *= static_cast<std::size_t>(length);
        OrtValue* raw = nullptr;
        Check(Api().CreateTensorWithDataAsOrtValue(memory_.get(), data, bytes, shape.data(), shape.size(), type, &raw));
        return Owned<OrtValue>(raw);
    }
};

}  // namespace

std::unique_ptr<Encoder> OpenOnnxRuntime(const Bundle& bundle, const EncoderRequest& request) {
    const OpenOptions& options = request.options;
    const Provider provider = ChooseProvider(options.ort_provider, options.device);
    const DeviceKind kind = provider.name == "cpu" ? DeviceKind::kCpu : DeviceKind::kCuda;
    if (options.precision == "fp16" && kind == DeviceKind::kCpu) {
        ThrowBackend(
            "precision 'fp16' is refused on the CPU: ONNX Runtime has no fp16 arithmetic there, so it is slower than "
            "fp32 and can crash while optimising the graph; use --precision fp32 or --device cuda:0");
    }
    std::vector<std::string> precisions = {options.precision};
    if (options.precision == "auto" && kind == DeviceKind::kCpu) precisions = {"fp32"};
    if (options.precision == "auto" && kind == DeviceKind::kCuda) precisions = {"fp16", "fp32"};
    const EncoderSpec& spec = ChooseEncoder(bundle, precisions, kind, options.whole_image);
    const int threads = options.threads > 0 ? options.threads : DefaultThreads();
    Owned<OrtSession> session = Load(bundle, spec, provider, threads);
    CheckGraph(spec, DeclaredSide(session.get(), true), DeclaredSide(session.get(), false));
    BackendInfo info;
    info.backend = "onnxruntime";
    info.version = OrtGetApiBase()->GetVersionString();
    info.provider = FullName(provider.name);
    info.device = kind == DeviceKind::kCpu ? "cpu" : "cuda:" + std::to_string(provider.device);
    info.precision = spec.precision;
    info.grid = spec.grid.ToString();
    info.encoder = spec.file;
    info.threads = threads;
    info.batch = BatchSize(spec, options.batch, kind);
    info.reason = request.reason;
    return std::make_unique<OnnxRuntimeEncoder>(std::move(session), spec, info, bundle.manifest().embed_dim,
                                                bundle.manifest().patch_size);
}

}  // namespace scclip
