// A thin layer over CUDA's driver interface, which is found at run time: the library starts on machines without it.
#pragma once

#include <cuda.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "backends/cuda/kernels.hpp"

namespace scclip {

// cuda.h renames some functions to their newest form (cuMemAlloc is cuMemAlloc_v2); the members follow it.
// clang-format off
#define SCCLIP_CUDA_FUNCTIONS(X) \
    X(cuInit) X(cuGetErrorName) X(cuDeviceGetCount) X(cuDeviceGet) X(cuDeviceGetName) X(cuDeviceGetAttribute) \
    X(cuDevicePrimaryCtxRetain) X(cuDevicePrimaryCtxRelease) X(cuDevicePrimaryCtxGetState) X(cuCtxGetCurrent) X(cuCtxSetCurrent) \
    X(cuStreamCreate) X(cuStreamDestroy) X(cuStreamSynchronize) X(cuStreamBeginCapture) X(cuStreamEndCapture) \
    X(cuGraphInstantiateWithFlags) X(cuGraphLaunch) X(cuGraphDestroy) X(cuGraphExecDestroy) X(cuMemAlloc) \
    X(cuMemFree) X(cuMemAllocHost) X(cuMemFreeHost) X(cuMemcpyHtoDAsync) X(cuMemcpyDtoHAsync) X(cuMemcpyDtoDAsync) \
    X(cuMemcpy2DAsync) X(cuMemsetD8Async) X(cuModuleLoadData) X(cuModuleUnload) X(cuModuleGetFunction) X(cuFuncSetAttribute) \
    X(cuLaunchKernel)
// clang-format on

/// The driver's functions; tests fill the table with their own.
struct CudaDriver {
#define SCCLIP_MEMBER(name) decltype(&::name) name = nullptr;
    SCCLIP_CUDA_FUNCTIONS(SCCLIP_MEMBER)
#undef SCCLIP_MEMBER
};

/// The machine's driver, initialised. Throws Error(kBackend): there is none, or it is too old.
const CudaDriver& LoadCudaDriver();

/// A GPU: its functions, name and compute capability. Every call makes its context current in the calling thread.
class Gpu {
  public:
    /// Throws Error(kBackend): no such device.
    Gpu(const CudaDriver& driver, int index);
    ~Gpu();
    Gpu(const Gpu&) = delete;
    Gpu& operator=(const Gpu&) = delete;

    std::string ToString() const;  ///< "cuda:0 (NVIDIA L4, sm_89)"
    const std::string& name() const { return name_; }
    int index() const { return index_; }
    int major() const { return major_; }
    int minor() const { return minor_; }
    const CudaDriver& Driver() const;  ///< for a call in this GPU's context

    /// The same for destructors, which must not throw: after a fault on the GPU, or while the driver shuts down, its
    /// functions refuse, and what they would have freed goes with the process. Functions that do nothing if the context
    /// is gone.
    const CudaDriver& DriverToFree() const noexcept;

    /// Whether the program has reset the device, and with that destroyed the context and all that was in it: the
    /// driver crashes where it is given something of it.
    bool Gone() const noexcept;
    void CheckPresent() const;  ///< throws Error(kBackend): it is gone

    /// Throws Error(kBackend) for a result that is no success; `bytes` and `purpose` are for messages about memory.
    void Check(CUresult result, const char* function, std::size_t bytes = 0, const char* purpose = "") const;

  private:
    friend class CallersContext;
    const CudaDriver& driver_;
    CUdevice device_ = 0;
    CUcontext context_ = nullptr;
    std::string name_;
    int index_, major_ = 0, minor_ = 0;
};

/// Gives a thread the context back that was current when this was made: the program around the library may be at work
/// on another GPU, or in a context of its own.
class CallersContext {
  public:
    explicit CallersContext(const Gpu& gpu) noexcept;
    ~CallersContext();
    CallersContext(const CallersContext&) = delete;
    CallersContext& operator=(const CallersContext&) = delete;

  private:
    const Gpu& gpu_;
    CUcontext context_ = nullptr;
};

/// Memory of the GPU, or pinned memory of the host.
class DeviceBuffer {
  public:
    DeviceBuffer(const Gpu& gpu, std::size_t bytes, const char* purpose);
    ~DeviceBuffer();
    DeviceBuffer(const DeviceBuffer&) = delete;
    DeviceBuffer& operator=(const DeviceBuffer&) = delete;
    CUdeviceptr at(std::size_t offset = 0) const { return pointer_ + offset; }
    std::size_t bytes() const { return bytes_; }

  private:
    const Gpu& gpu_;
    std::size_t bytes_;
    CUdeviceptr pointer_ = 0;
};

class PinnedBuffer {
  public:
    PinnedBuffer(const Gpu& gpu, std::size_t bytes);
    ~PinnedBuffer();
    PinnedBuffer(const PinnedBuffer&) = delete;
    PinnedBuffer& operator=(const PinnedBuffer&) = delete;
    std::uint8_t* data() const { return data_; }
    std::size_t bytes() const { return bytes_; }

  private:
    const Gpu& gpu_;
    std::size_t bytes_;
    std::uint8_t* data_ = nullptr;
};

/// A stream of our own, or the caller's, which is left alone at the end.
class Stream {
  public:
    Stream(const Gpu& gpu, CUstream callers);
    ~Stream();
    Stream(const Stream&) = delete;
    Stream& operator=(const Stream&) = delete;
    CUstream handle() const { return stream_; }
    const Gpu& gpu() const { return gpu_; }
    void Upload(CUdeviceptr to, const void* from, std::size_t bytes) const;
    void Download(void* to, CUdeviceptr from, std::size_t bytes) const;
    void Copy(CUdeviceptr to, CUdeviceptr from, std::size_t bytes) const;  ///< within the device
    void CopyRows(CUdeviceptr to, std::size_t to_pitch, CUdeviceptr from, std::size_t from_pitch, std::size_t width,
                  std::size_t rows) const;
    void Zero(CUdeviceptr at, std::size_t bytes) const;
    void Wait() const;

  private:
    const Gpu& gpu_;
    CUstream stream_ = nullptr;
    bool own_ = false;
};

/// An argument of a kernel, by name.
struct Argument {
    Argument(const char* name, CUdeviceptr value) : name(name), whole(static_cast<std::int64_t>(value)) {}
    Argument(const char* name, int value) : name(name), whole(value), real(value) {}
    Argument(const char* name, double value) : name(name), whole(static_cast<std::int64_t>(value)), real(value) {}
    const char* name;
    std::int64_t whole;
    double real = 0;
};

/// A kernel of the bundle, loaded.
class Kernel {
  public:
    Kernel(const Gpu& gpu, KernelSpec spec, const std::string& cubin);
    ~Kernel();
    Kernel(const Kernel&) = delete;
    Kernel& operator=(const Kernel&) = delete;
    const KernelSpec& spec() const { return spec_; }

    /// Queue it. Throws Error(kBundle): its parameters are not these.
    void Launch(const Stream& stream, unsigned blocks_x, unsigned blocks_y,
                const std::vector<Argument>& arguments) const;

  private:
    const Gpu& gpu_;
    KernelSpec spec_;
    CUmodule module_ = nullptr;
    CUfunction function_ = nullptr;
};

/// Work that is the same every time: queued call by call at first, from its second run on as one CUDA graph. The first
/// run stays outside a graph, because libraries finish their set-up for a shape in it.
class Replay {
  public:
    Replay(const Stream& stream, std::function<void()> work) : stream_(stream), work_(std::move(work)) {}
    ~Replay();
    Replay(const Replay&) = delete;
    Replay& operator=(const Replay&) = delete;
    void Run();
    bool captured() const { return graph_ != nullptr; }

  private:
    const Stream& stream_;
    std::function<void()> work_;
    int runs_ = 0;
    CUgraphExec graph_ = nullptr;

    void Capture();
};

}  // namespace scclip
