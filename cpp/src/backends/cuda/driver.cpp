#include "backends/cuda/driver.hpp"

#include <dlfcn.h>

#include <algorithm>
#include <cstring>
#include <memory>

#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

constexpr unsigned kFreeSharedBytes = 48U << 10U;  // dynamic shared memory up to this needs no permission

#define SCCLIP_TEXT_OF(name) #name
#define SCCLIP_TEXT(name) SCCLIP_TEXT_OF(name)

CudaDriver Load() {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    if (library == nullptr) {
        ThrowBackend(
            "no NVIDIA driver on this machine (libcuda.so.1 can't be loaded): install it, in a container start with "
            "--gpus all, or use --device cpu (" +
            OneLine(::dlerror(), 200) + ")");
    }
    CudaDriver driver;
    const auto find = [&](const char* name) {
        void* found = ::dlsym(library, name);
        if (found == nullptr) ThrowBackend(std::string("the NVIDIA driver lacks ") + name + "; install a newer one");
        return found;
    };
#define SCCLIP_LOAD(name) driver.name = reinterpret_cast<decltype(driver.name)>(find(SCCLIP_TEXT(name)));
    SCCLIP_CUDA_FUNCTIONS(SCCLIP_LOAD)
#undef SCCLIP_LOAD
    return driver;
}

std::string NameOf(const CudaDriver& driver, CUresult result) {
    const char* name = nullptr;
    if (driver.cuGetErrorName(result, &name) != CUDA_SUCCESS || name == nullptr) return std::to_string(result);
    return name;
}

std::string Megabytes(std::size_t bytes) { return std::to_string((bytes + (1U << 20U) - 1) >> 20U) + " MiB"; }

/// What is left to free of a context that is gone.
CudaDriver FreesNothing() {
    CudaDriver driver;
    driver.cuMemFree = [](CUdeviceptr) { return CUDA_ERROR_CONTEXT_IS_DESTROYED; };
    driver.cuMemFreeHost = [](void*) { return CUDA_ERROR_CONTEXT_IS_DESTROYED; };
    driver.cuStreamDestroy = driver.cuStreamSynchronize = [](CUstream) { return CUDA_ERROR_CONTEXT_IS_DESTROYED; };
    driver.cuModuleUnload = [](CUmodule) { return CUDA_ERROR_CONTEXT_IS_DESTROYED; };
    driver.cuGraphExecDestroy = [](CUgraphExec) { return CUDA_ERROR_CONTEXT_IS_DESTROYED; };
    return driver;
}

/// One argument's bytes, as the parameter's Triton type has them.
void Store(const std::string& type, const Argument& argument, std::uint8_t* to) {
    if (type == "fp32") {
        const auto value = static_cast<float>(argument.real);
        std::memcpy(to, &value, sizeof value);
    } else if (type == "fp64") {
        std::memcpy(to, &argument.real, sizeof argument.real);
    } else {
        std::memcpy(to, &argument.whole, sizeof argument.whole);  // little-endian: the low bytes come first
    }
}

}  // namespace

const CudaDriver& LoadCudaDriver() {
    static const CudaDriver driver = [] {
        CudaDriver loaded = Load();
        const CUresult result = loaded.cuInit(0);
        if (result != CUDA_SUCCESS) {
            ThrowBackend("no usable NVIDIA GPU on this machine: the driver answers " + NameOf(loaded, result));
        }
        return loaded;
    }();
    return driver;
}

Gpu::Gpu(const CudaDriver& driver, int index) : driver_(driver), index_(index) {
    int count = 0;
    Check(driver.cuDeviceGetCount(&count), "cuDeviceGetCount");
    std::vector<std::string> names;
    for (int i = 0; i < count; ++i) {
        char name[256] = {};
        CUdevice device = 0;
        Check(driver.cuDeviceGet(&device, i), "cuDeviceGet");
        Check(driver.cuDeviceGetName(name, sizeof name, device), "cuDeviceGetName");
        names.push_back("cuda:" + std::to_string(i) + " (" + name + ")");
        if (i == index) name_ = name, device_ = device;
    }
    if (index < 0 || index >= count) {
        ThrowBackend("there is no cuda:" + std::to_string(index) +
                     "; this process sees: " + (names.empty() ? "no GPU" : Join(names)));
    }
    Check(driver.cuDeviceGetAttribute(&major_, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, device_),
          "cuDeviceGetAttribute");
    Check(driver.cuDeviceGetAttribute(&minor_, CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MINOR, device_),
          "cuDeviceGetAttribute");
    Check(driver.cuDevicePrimaryCtxRetain(&context_, device_), "cuDevicePrimaryCtxRetain");
}

std::string Gpu::ToString() const {
    return "cuda:" + std::to_string(index_) + " (" + name_ + ", sm_" + std::to_string(major_) + std::to_string(minor_) +
           ")";
}

Gpu::~Gpu() { driver_.cuDevicePrimaryCtxRelease(device_); }

bool Gpu::Gone() const noexcept {
    unsigned flags = 0;
    int active = 1;
    return driver_.cuDevicePrimaryCtxGetState(device_, &flags, &active) == CUDA_SUCCESS && active == 0;
}

void Gpu::CheckPresent() const {
    if (Gone()) ThrowBackend("the program has reset " + ToString() + " since the bundle was opened; open it again");
}

const CudaDriver& Gpu::Driver() const {
    Check(driver_.cuCtxSetCurrent(context_), "cuCtxSetCurrent");
    return driver_;
}

const CudaDriver& Gpu::DriverToFree() const noexcept {
    static const CudaDriver nothing = FreesNothing();
    if (Gone()) return nothing;
    driver_.cuCtxSetCurrent(context_);
    return driver_;
}

CallersContext::CallersContext(const Gpu& gpu) noexcept : gpu_(gpu) {
    if (!gpu_.Gone()) gpu_.driver_.cuCtxGetCurrent(&context_);
}

CallersContext::~CallersContext() {
    if (!gpu_.Gone()) gpu_.driver_.cuCtxSetCurrent(context_);
}

void Gpu::Check(CUresult result, const char* function, std::size_t bytes, const char* purpose) const {
    if (result == CUDA_SUCCESS) return;
    const std::string device = "cuda:" + std::to_string(index_) + (name_.empty() ? "" : " (" + name_ + ")");
    if (result == CUDA_ERROR_OUT_OF_MEMORY) {
        ThrowBackend("out of memory on " + device + ": " + Megabytes(bytes) + " for " + purpose +
                     "; lower --batch or --short-side");
    }
    ThrowBackend(std::string(function) + " failed on " + device + ": " + NameOf(driver_, result));
}

DeviceBuffer::DeviceBuffer(const Gpu& gpu, std::size_t bytes, const char* purpose)
    : gpu_(gpu), bytes_(std::max<std::size_t>(bytes, 1)) {
    gpu.Check(gpu.Driver().cuMemAlloc(&pointer_, bytes_), "cuMemAlloc", bytes_, purpose);
}

DeviceBuffer::~DeviceBuffer() { gpu_.DriverToFree().cuMemFree(pointer_); }

PinnedBuffer::PinnedBuffer(const Gpu& gpu, std::size_t bytes) : gpu_(gpu), bytes_(std::max<std::size_t>(bytes, 1)) {
    void* data = nullptr;
    gpu.Check(gpu.Driver().cuMemAllocHost(&data, bytes_), "cuMemAllocHost", bytes_, "pinned memory");
    data_ = static_cast<std::uint8_t*>(data);
}

PinnedBuffer::~PinnedBuffer() { gpu_.DriverToFree().cuMemFreeHost(data_); }

Stream::Stream(const Gpu& gpu, CUstream callers) : gpu_(gpu), stream_(callers), own_(callers == nullptr) {
    if (own_) gpu.Check(gpu.Driver().cuStreamCreate(&stream_, CU_STREAM_NON_BLOCKING), "cuStreamCreate");
}

Stream::~Stream() {
    if (own_) gpu_.DriverToFree().cuStreamDestroy(stream_);
}

void Stream::Upload(CUdeviceptr to, const void* from, std::size_t bytes) const {
    gpu_.Check(gpu_.Driver().cuMemcpyHtoDAsync(to, from, bytes, stream_), "cuMemcpyHtoDAsync");
}

void Stream::Download(void* to, CUdeviceptr from, std::size_t bytes) const {
    gpu_.Check(gpu_.Driver().cuMemcpyDtoHAsync(to, from, bytes, stream_), "cuMemcpyDtoHAsync");
}

void Stream::Copy(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) const {
    gpu_.Check(gpu_.Driver().cuMemcpyDtoDAsync(to, from, bytes, stream_), "cuMemcpyDtoDAsync");
}

void Stream::CopyRows(CUdeviceptr to, std::size_t to_pitch, CUdeviceptr from, std::size_t from_pitch, std::size_t width,
                      std::size_t rows) const {
    CUDA_MEMCPY2D copy{};
    copy.srcMemoryType = copy.dstMemoryType = CU_MEMORYTYPE_DEVICE;
    copy.srcDevice = from;
    copy.srcPitch = from_pitch;
    copy.dstDevice = to;
    copy.dstPitch = to_pitch;
    copy.WidthInBytes = width;
    copy.Height = rows;
    const CUresult result = gpu_.Driver().cuMemcpy2DAsync(&copy, stream_);
    // CUDA: within a device it "may fail for pitches not computed by cuMemAllocPitch()", and an image has its own.
    if (result != CUDA_ERROR_INVALID_VALUE) return gpu_.Check(result, "cuMemcpy2DAsync");
    for (std::size_t row = 0; row < rows; ++row) Copy(to + row * to_pitch, from + row * from_pitch, width);
}

void Stream::Zero(CUdeviceptr at, std::size_t bytes) const {
    gpu_.Check(gpu_.Driver().cuMemsetD8Async(at, 0, bytes, stream_), "cuMemsetD8Async");
}

void Stream::Wait() const { gpu_.Check(gpu_.Driver().cuStreamSynchronize(stream_), "cuStreamSynchronize"); }

Kernel::Kernel(const Gpu& gpu, KernelSpec spec, const std::string& cubin) : gpu_(gpu), spec_(std::move(spec)) {
    const CudaDriver& driver = gpu.Driver();
    gpu.Check(driver.cuModuleLoadData(&module_, cubin.data()), "cuModuleLoadData");
    try {
        gpu.Check(driver.cuModuleGetFunction(&function_, module_, spec_.entry.c_str()), "cuModuleGetFunction");
        if (spec_.shared_bytes > kFreeSharedBytes) {
            gpu.Check(driver.cuFuncSetAttribute(function_, CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES,
                                                static_cast<int>(spec_.shared_bytes)),
                      "cuFuncSetAttribute");
        }
    } catch (...) {
        driver.cuModuleUnload(module_);
        throw;
    }
}

Kernel::~Kernel() { gpu_.DriverToFree().cuModuleUnload(module_); }

void Kernel::Launch(const Stream& stream, unsigned blocks_x, unsigned blocks_y,
                    const std::vector<Argument>& arguments) const {
    const std::size_t count = spec_.parameters.size() + spec_.hidden_pointers;
    std::vector<std::uint64_t> values(count, 0);  // eight bytes each, enough for every type; hidden pointers are null
    std::vector<void*> pointers(count + 1, nullptr);  // one more: an end for who does not know their number
    bool agrees = arguments.size() == spec_.parameters.size();
    for (std::size_t i = 0; agrees && i < count; ++i) {
        pointers[i] = &values[i];
        if (i >= spec_.parameters.size()) continue;
        const auto& [name, type] = spec_.parameters[i];
        const auto found = std::find_if(arguments.begin(), arguments.end(),
                                        [&, wanted = &name](const Argument& one) { return *wanted == one.name; });
        agrees = found != arguments.end();
        if (agrees) Store(type, *found, reinterpret_cast<std::uint8_t*>(&values[i]));
    }
    if (!agrees) {
        std::vector<std::string> wanted, given;
        for (const auto& parameter : spec_.parameters) wanted.push_back(parameter.first);
        for (const Argument& argument : arguments) given.emplace_back(argument.name);
        ThrowBundle("kernels/kernels.json: kernel '" + spec_.name + "' takes " + Join(wanted) +
                    "; this version gives " + Join(given) + ". Export the bundle again");
    }
    gpu_.Check(gpu_.Driver().cuLaunchKernel(function_, blocks_x, blocks_y, 1, spec_.num_warps * 32, 1, 1,
                                            spec_.shared_bytes, stream.handle(), pointers.data(), nullptr),
               "cuLaunchKernel");
}

Replay::~Replay() {
    if (graph_ != nullptr) stream_.gpu().DriverToFree().cuGraphExecDestroy(graph_);
}

void Replay::Run() {
    if (++runs_ == 2) Capture();
    if (graph_ == nullptr) return work_();
    const Gpu& gpu = stream_.gpu();
    gpu.Check(gpu.Driver().cuGraphLaunch(graph_, stream_.handle()), "cuGraphLaunch");
}

void Replay::Capture() {
    const Gpu& gpu = stream_.gpu();
    const CudaDriver& driver = gpu.Driver();
    // Of this thread alone: other threads may allocate meanwhile. What can't be captured goes on call by call.
    if (driver.cuStreamBeginCapture(stream_.handle(), CU_STREAM_CAPTURE_MODE_THREAD_LOCAL) != CUDA_SUCCESS) return;
    bool sound = true;
    try {
        work_();
    } catch (...) {  // of any kind: no stream is left capturing, and what failed besides fails again below
        sound = false;
    }
    CUgraph graph = nullptr;
    const CUresult ended = driver.cuStreamEndCapture(stream_.handle(), &graph);
    if (ended != CUDA_SUCCESS || graph == nullptr) return;
    if (sound && driver.cuGraphInstantiateWithFlags(&graph_, graph, 0) != CUDA_SUCCESS) graph_ = nullptr;
    driver.cuGraphDestroy(graph);
}

}  // namespace scclip
