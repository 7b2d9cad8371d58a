// TensorRT: the bundle's engines on an NVIDIA GPU. Compiled against TensorRT's headers; its library, like the driver,
// is found at run time. Nothing is built here: an engine that does not fit is refused with the command that builds one.
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <algorithm>
#include <fstream>
#include <iterator>
#include <mutex>

#include "backends/choose.hpp"
#include "backends/cuda/encoder.hpp"
#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

constexpr const char* kTensors[] = {"windows", "text", "features", "logits"};

/// Keeps the last error for our messages instead of printing it.
class Log final : public nvinfer1::ILogger {
  public:
    void log(Severity severity, const char* message) noexcept override {
        if (severity > Severity::kERROR) return;
        const std::lock_guard<std::mutex> lock(mutex_);
        try {
            last_ = OneLine(message, 300);
        } catch (const std::exception&) {
            last_.clear();
        }
    }
    std::string Take() {
        const std::lock_guard<std::mutex> lock(mutex_);
        std::string taken;
        taken.swap(last_);
        return taken.empty() ? "" : " (" + taken + ")";
    }

  private:
    std::mutex mutex_;
    std::string last_;
};

/// libnvinfer: two kinds of functions that its inline headers leave to the linker.
class Library {
  public:
    static Library& Get() {
        static Library library;
        return library;
    }
    std::unique_ptr<nvinfer1::IRuntime> NewRuntime(Log* log) const {
        using Create = void* (*)(void*, std::int32_t);
        const auto create = reinterpret_cast<Create>(Find("createInferRuntime_INTERNAL"));
        std::unique_ptr<nvinfer1::IRuntime> runtime(
            static_cast<nvinfer1::IRuntime*>(create(static_cast<nvinfer1::ILogger*>(log), NV_TENSORRT_VERSION)));
        if (!runtime) ThrowBackend("TensorRT " + version() + " does not start" + log->Take());
        return runtime;
    }
    /// As Python's tensorrt.__version__: four numbers.
    std::string version() const {
        std::vector<std::string> parts;
        for (const char* part : {"Major", "Minor", "Patch", "Build"}) {
            using Number = std::int32_t (*)();
            const std::string name = std::string("getInferLib") + part + "Version";
            parts.push_back(std::to_string(reinterpret_cast<Number>(Find(name.c_str()))()));
        }
        return Join(parts, ".");
    }

  private:
    void* handle_;

    Library() {
        const std::string name = "libnvinfer.so." + std::to_string(NV_TENSORRT_MAJOR);
        handle_ = ::dlopen(name.c_str(), RTLD_NOW | RTLD_LOCAL);
        if (handle_ == nullptr) {
            ThrowBackend("tensorrt can't be loaded (" + OneLine(::dlerror(), 160) + "); install TensorRT " +
                         std::to_string(NV_TENSORRT_MAJOR) + ", or name its folder in LD_LIBRARY_PATH");
        }
    }
    void* Find(const char* name) const {
        void* found = ::dlsym(handle_, name);
        if (found == nullptr) ThrowBackend(std::string("libnvinfer lacks ") + name + "; install a newer TensorRT");
        return found;
    }
};

/// A deserialised engine, shared by the lanes.
class LoadedEngine {
  public:
    LoadedEngine(const Bundle& bundle, Engine engine)
        : engine_(std::move(engine)),
          rebuild_(BuildCommand(bundle, engine_.library, {std::nullopt, engine_.precision, {}, {}})),
          runtime_(Library::Get().NewRuntime(&log_)) {
        // A version-compatible engine brings code of its own version.
        if (engine_.version_compatible) runtime_->setEngineHostCodeAllowed(true);
        std::ifstream stream(EnginePath(bundle, engine_), std::ios::binary);
        const std::string plan((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
        loaded_.reset(runtime_->deserializeCudaEngine(plan.data(), plan.size()));
        if (!loaded_) Fail("can't be loaded");
        CheckTensors();
    }

    nvinfer1::ICudaEngine& loaded() const { return *loaded_; }

    int Limit(const char* input, nvinfer1::OptProfileSelector which) const {
        return static_cast<int>(loaded_->getProfileShape(input, 0, which).d[0]);
    }

    [[noreturn]] void Fail(const std::string& what) const {
        ThrowBackend(engine_.file + " " + what + log_.Take() + ". Build it again with `" + rebuild_ + "`",
                     engine_.file);
    }

  private:
    mutable Log log_;
    Engine engine_;
    std::string rebuild_;
    std::unique_ptr<nvinfer1::IRuntime> runtime_;
    std::unique_ptr<nvinfer1::ICudaEngine> loaded_;

    void CheckTensors() const {
        const auto type = [](const std::string& name) {
            return name == "windows" ? nvinfer1::DataType::kUINT8 : nvinfer1::DataType::kFLOAT;
        };
        bool sound = loaded_->getNbIOTensors() == 4;
        for (int i = 0; sound && i < 4; ++i) {
            const std::string name = loaded_->getIOTensorName(i);
            const bool known = std::find(std::begin(kTensors), std::end(kTensors), name) != std::end(kTensors);
            sound = known && loaded_->getTensorDataType(name.c_str()) == type(name);
        }
        if (!sound) Fail("has other tensors than windows UINT8, text FLOAT, features FLOAT, logits FLOAT");
    }
};

class TensorRtCall final : public GraphCall {
  public:
    TensorRtCall(std::shared_ptr<const LoadedEngine> engine, CUdeviceptr workspace, std::size_t bytes)
        : engine_(std::move(engine)),
          context_(
              engine_->loaded().createExecutionContext(nvinfer1::ExecutionContextAllocationStrategy::kUSER_MANAGED)) {
        if (!context_) engine_->Fail("gives no execution context");
        context_->setDeviceMemoryV2(reinterpret_cast<void*>(workspace), static_cast<std::int64_t>(bytes));
    }

    void SetShapes(int batch, int height, int width, int queries) {
        const auto embed = engine_->loaded().getTensorShape("text").d[1];
        const bool set = context_->setInputShape("windows", nvinfer1::Dims4(batch, height, width, 3)) &&
                         context_->setInputShape("text", nvinfer1::Dims2(queries, embed));
        if (!set) {
            engine_->Fail("does not take windows (" + std::to_string(batch) + ", " + std::to_string(height) + ", " +
                          std::to_string(width) + ", 3) with " + std::to_string(queries) + " queries");
        }
    }

    void Enqueue(CUdeviceptr windows, CUdeviceptr text, CUdeviceptr features, CUdeviceptr cosines,
                 CUstream stream) override {
        const CUdeviceptr addresses[] = {windows, text, features, cosines};
        for (std::size_t i = 0; i < 4; ++i) {
            if (!context_->setTensorAddress(kTensors[i], reinterpret_cast<void*>(addresses[i]))) {
                engine_->Fail(std::string("refuses the address of ") + kTensors[i]);
            }
        }
        if (!context_->enqueueV3(stream)) engine_->Fail("failed to run");
    }

  private:
    std::shared_ptr<const LoadedEngine> engine_;
    std::unique_ptr<nvinfer1::IExecutionContext> context_;
};

/// The contexts of one lane, which run one after the other and share one workspace.
class TensorRtGraph final : public DeviceGraph {
  public:
    TensorRtGraph(std::shared_ptr<const LoadedEngine> engine, const Gpu& gpu)
        : engine_(std::move(engine)),
          workspace_(gpu, static_cast<std::size_t>(engine_->loaded().getDeviceMemorySizeV2()),
                     "the engine's workspace") {
        min_batch = engine_->Limit("windows", nvinfer1::OptProfileSelector::kMIN);
        max_batch = engine_->Limit("windows", nvinfer1::OptProfileSelector::kMAX);
        min_queries = engine_->Limit("text", nvinfer1::OptProfileSelector::kMIN);
        max_queries = engine_->Limit("text", nvinfer1::OptProfileSelector::kMAX);
    }

    std::unique_ptr<GraphCall> Call(int batch, int height, int width, int queries) override {
        // A context of its own for each shape: a captured graph stays tied to its context's state.
        auto call = std::make_unique<TensorRtCall>(engine_, workspace_.at(), workspace_.bytes());
        call->SetShapes(batch, height, width, queries);
        return call;
    }

  private:
    std::shared_ptr<const LoadedEngine> engine_;
    DeviceBuffer workspace_;
};

int DeviceNumber(const OpenOptions& options) {
    const std::optional<int> number = GpuNumber(options.device);
    if (!number) {
        ThrowBackend(
            "backend 'tensorrt' runs on an NVIDIA GPU, not on " + Quote(options.device) + "; use device cuda:0",
            "device");
    }
    if (!options.ort_provider.empty()) {
        ThrowBackend("ort_provider " + Quote(options.ort_provider) +
                         " is for backend 'onnxruntime'; leave it out with 'tensorrt'",
                     "ort_provider");
    }
    return *number;
}

Machine MachineOf(const Gpu& gpu) {
    return {"tensorrt", Library::Get().version(), std::to_string(gpu.major()) + "." + std::to_string(gpu.minor()),
            gpu.name()};
}

}  // namespace

EngineHost TensorRtHost(int device) {
    const Gpu gpu(LoadCudaDriver(), device);
    return {MachineOf(gpu), gpu.ToString()};
}

std::unique_ptr<Encoder> OpenTensorRt(const Bundle& bundle, const EncoderRequest& request) {
    const OpenOptions& options = request.options;
    const int number = DeviceNumber(options);
    const auto gpu = std::make_shared<const Gpu>(LoadCudaDriver(), number);
    const Machine machine = MachineOf(*gpu);
    const Engine engine = ChooseForGrids(bundle, machine, options.precision, options.whole_image.value_or(false));
    const EncoderSpec& spec = EncoderOf(bundle, engine);
    const CallersContext callers_context(*gpu);
    gpu->Driver();  // TensorRT works in the context that is current
    const auto loaded = std::make_shared<const LoadedEngine>(bundle, engine);
    const GraphMaker make = [loaded, gpu] {
        gpu->Driver();
        return std::make_unique<TensorRtGraph>(loaded, *gpu);
    };
    std::unique_ptr<DeviceGraph> first = make();
    auto kernels = std::make_unique<KernelSet>(bundle, *gpu);
    BackendInfo info = InfoOf(spec, request, DeviceKind::kCuda);
    info.backend = "tensorrt";
    info.version = machine.version;
    info.provider = "TensorRT";
    info.device = "cuda:" + std::to_string(number);
    info.precision = engine.precision;
    info.grid = engine.grid.ToString();
    info.encoder = engine.file;
    info.batch = std::min(info.batch, first->max_batch);
    const std::string unlike = HostDecodeReason(bundle.manifest(), spec.grid);
    const std::string missing = unlike.empty() ? kernels->Missing(1) : unlike;
    info.decode = missing.empty() ? "device" : "host: " + missing;
    return std::make_unique<DeviceEncoder>(gpu, std::move(kernels), make, std::move(first), spec, info,
                                           FeatureSizes::Of(bundle.manifest()),
                                           static_cast<CUstream>(options.cuda_stream));
}

}  // namespace scclip
