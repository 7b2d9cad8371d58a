#include "backends/onnxruntime/session.hpp"

#include <onnxruntime_session_options_config_keys.h>

#include <cstdlib>
#include <cstring>

#include "backends/choose.hpp"
#include "backends/graph_check.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

OrtEnv* Env() {
    // One for the process, never released: ONNX Runtime's own threads may outlive static destructors.
    static OrtEnv* const env = [] {
        OrtEnv* made = nullptr;
        CheckOrt(Api().CreateEnv(ORT_LOGGING_LEVEL_ERROR, "scclip", &made));
        return made;
    }();
    return env;
}

void CheckInstalled(const std::string& name) {
    char** available = nullptr;
    int count = 0;
    CheckOrt(Api().GetAvailableProviders(&available, &count));
    std::vector<std::string> have;
    bool found = false;
    for (const char* known : {"cpu", "cuda", "tensorrt"}) {
        for (int i = 0; i < count; ++i) {
            if (std::strcmp(available[i], FullName(known)) != 0) continue;
            have.emplace_back(known);
            found = found || name == known;
        }
    }
    TakeOrt(Api().ReleaseAvailableProviders(available, count));
    if (found) return;
    ThrowBackend(std::string("ONNX Runtime ") + OrtGetApiBase()->GetVersionString() + " here has no " + Quote(name) +
                     " provider; it has: " + Join(have) +
                     ". Link the library with a GPU build of ONNX Runtime, or use device cpu",
                 "ort_provider");
}

/// For the calls that set a provider up: whichever is the first loads its library.
void CheckProvider(const std::string& provider, int device, OrtStatus* status) {
    const std::string message = TakeOrt(status, 2000);
    if (message.empty()) return;
    const std::string reason = OneLine(OrtReason(message), 300);
    const std::string version = OrtGetApiBase()->GetVersionString();
    if (message.find("Failed to load library") == std::string::npos) {
        ThrowBackend("ONNX Runtime " + version + " can't use its provider " + provider +
                         " on cuda:" + std::to_string(device) + " (" + reason + ")",
                     "device");
    }
    ThrowBackend("ONNX Runtime " + version + " can't load its provider " + provider + " (" + reason +
                     "); install the CUDA, cuDNN or TensorRT that it was built for, name their folders in "
                     "LD_LIBRARY_PATH, or use device cpu",
                 "ort_provider");
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
    CheckOrt(Api().CreateSessionOptions(&raw));
    Owned<OrtSessionOptions> options(raw);
    CheckOrt(Api().SetIntraOpNumThreads(raw, threads));
    // Idle workers that spin take the cores from decoding and from other processes.
    CheckOrt(Api().AddSessionConfigEntry(raw, kOrtSessionOptionsConfigAllowIntraOpSpinning, "0"));
    CheckOrt(Api().SetSessionLogSeverityLevel(raw, ORT_LOGGING_LEVEL_ERROR));
    if (provider.name == "tensorrt") AppendTensorRt(raw, provider.device);
    if (provider.name != "cpu") AppendCuda(raw, provider.device);
    return options;
}

std::string TypeName(ONNXTensorElementDataType type) {
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_UINT8) return "uint8";
    if (type == ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64) return "int64";
    return type == ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT ? "float32" : "type " + std::to_string(type);
}

/// One input or output as the graph declares it; named axes have length -1.
TensorSpec Declared(const OrtSession* session, bool input, std::size_t index) {
    OrtAllocator* allocator = nullptr;
    CheckOrt(Api().GetAllocatorWithDefaultOptions(&allocator));
    char* name = nullptr;
    CheckOrt((input ? Api().SessionGetInputName : Api().SessionGetOutputName)(session, index, allocator, &name));
    TensorSpec spec{name, "", {}};
    CheckOrt(Api().AllocatorFree(allocator, name));
    OrtTypeInfo* raw = nullptr;
    CheckOrt((input ? Api().SessionGetInputTypeInfo : Api().SessionGetOutputTypeInfo)(session, index, &raw));
    const Owned<OrtTypeInfo> type(raw);
    const OrtTensorTypeAndShapeInfo* info = nullptr;
    CheckOrt(Api().CastTypeInfoToTensorInfo(raw, &info));
    if (info == nullptr) {
        spec.dtype = "no tensor";
        return spec;
    }
    ONNXTensorElementDataType element{};
    CheckOrt(Api().GetTensorElementType(info, &element));
    spec.dtype = TypeName(element);
    std::size_t rank = 0;
    CheckOrt(Api().GetDimensionsCount(info, &rank));
    std::vector<std::int64_t> lengths(rank);
    std::vector<const char*> names(rank);
    CheckOrt(Api().GetDimensions(info, lengths.data(), rank));
    CheckOrt(Api().GetSymbolicDimensions(info, names.data(), rank));
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
    CheckOrt((input ? Api().SessionGetInputCount : Api().SessionGetOutputCount)(session, &count));
    std::vector<TensorSpec> found;
    for (std::size_t i = 0; i < count; ++i) found.push_back(Declared(session, input, i));
    return found;
}

}  // namespace

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

std::string TakeOrt(OrtStatus* status, std::size_t length) {
    if (status == nullptr) return "";
    std::string message = OneLine(Api().GetErrorMessage(status), length);
    Api().ReleaseStatus(status);
    return message.empty() ? "an error without a message" : message;
}

void CheckOrt(OrtStatus* status) {
    const std::string message = TakeOrt(status);
    if (!message.empty()) ThrowBackend("ONNX Runtime: " + message);
}

const char* FullName(const std::string& name) {
    if (name == "cuda") return "CUDAExecutionProvider";
    return name == "tensorrt" ? "TensorrtExecutionProvider" : "CPUExecutionProvider";
}

Provider ChooseProvider(const std::string& asked, const std::string& device) {
    const std::optional<int> number = GpuNumber(device);
    const bool on_gpu = number && device != "auto";
    if (!number && device != "cpu") {
        ThrowBackend("unknown device " + Quote(device) + "; known: auto, cpu, cuda:N (cuda:0 is the first GPU)",
                     "device");
    }
    if (!asked.empty() && asked != "cpu" && asked != "cuda" && asked != "tensorrt") {
        ThrowBackend("ort_provider " + Quote(asked) + " is unknown; known: cpu, cuda, tensorrt", "ort_provider");
    }
    const std::string name = !asked.empty() ? asked : (on_gpu ? "cuda" : "cpu");
    if (device != "auto" && on_gpu != (name != "cpu")) {
        ThrowBackend("provider " + Quote(name) + " doesn't run on device " + Quote(device) + "; use device " +
                         (name == "cpu" ? "cpu" : "cuda:0") + " or another provider",
                     "ort_provider");
    }
    CheckInstalled(name);
    return {name, number.value_or(0)};
}

Owned<OrtSession> LoadSession(const Bundle& bundle, const GraphSpec& spec, const Provider& provider, int threads,
                              bool all_on_gpu) {
    const std::string path = bundle.CheckedGraph(spec.file);
    const Owned<OrtSessionOptions> options = SessionOptions(provider, threads);
    if (all_on_gpu) CheckOrt(Api().AddSessionConfigEntry(options.get(), kOrtSessionOptionsDisableCPUEPFallback, "1"));
    OrtSession* raw = nullptr;
    const std::string problem = TakeOrt(Api().CreateSession(Env(), path.c_str(), options.get(), &raw));
    Owned<OrtSession> session(raw);
    if (problem.empty()) {
        CheckGraph(spec, DeclaredSide(raw, true), DeclaredSide(raw, false));
        return session;
    }
    if (provider.name == "cpu") ThrowBundle(path + ": ONNX Runtime can't load it: " + problem, spec.file);
    ThrowBackend(path + ": ONNX Runtime can't load it on " + provider.name + ": " + problem, spec.file);
}

HostTensors::HostTensors() {
    OrtMemoryInfo* memory = nullptr;
    CheckOrt(Api().CreateCpuMemoryInfo(OrtArenaAllocator, OrtMemTypeDefault, &memory));
    memory_.reset(memory);
}

Owned<OrtValue> HostTensors::Over(void* data, const std::vector<std::int64_t>& shape, ONNXTensorElementDataType type,
                                  std::size_t item) const {
    std::size_t bytes = item;
    for (const std::int64_t length : shape) bytes *= static_cast<std::size_t>(length);
    OrtValue* raw = nullptr;
    CheckOrt(Api().CreateTensorWithDataAsOrtValue(memory_.get(), data, bytes, shape.data(), shape.size(), type, &raw));
    return Owned<OrtValue>(raw);
}

}  // namespace scclip
