// The machine's own driver, with what is alive on it counted, and a stand-in for an engine that computes on the host:
// the real device's memory, copies, kernels, streams and graphs, without TensorRT.
#pragma once

#include <atomic>
#include <memory>
#include <string>

#include "backends/cuda/driver.hpp"
#include "backends/cuda/encoder.hpp"

namespace real {

struct State {
    std::atomic<long> memory{0}, pinned{0}, streams{0}, modules{0}, graphs{0};         ///< alive
    std::atomic<int> captures{0}, refused_captures{0}, graph_launches{0}, kernels{0};  ///< so far
    long Alive() const { return memory + pinned + streams + modules + graphs; }
    void Restart() { captures = refused_captures = graph_launches = kernels = 0; }
};

State& Counts();

/// Throws Error(kBackend): there is no driver, or no GPU.
const scclip::CudaDriver& Driver();

/// What the library has no use for and the tests have.
struct More {
    CUresult (*cuLaunchHostFunc)(CUstream, CUhostFn, void*);
    CUresult (*cuCtxCreate)(CUcontext*, unsigned, CUdevice);
    CUresult (*cuCtxDestroy)(CUcontext);
    CUresult (*cuDevicePrimaryCtxReset)(CUdevice);
};
const More& MoreOfDriver();

/// How an engine of the stand-in behaves.
struct Behaviour {
    int least = 1, most = 16;
    bool broken = false;     ///< its cosines are not numbers
    bool capturable = true;  ///< false: it waits for its stream, which a capture forbids
};

/// An engine that copies its inputs to the host, computes there (device_task.hpp) and copies the results back, all of
/// it queued on the stream.
std::unique_ptr<scclip::DeviceGraph> MakeEngine(const scclip::Gpu& gpu, const Behaviour& behaviour);

}  // namespace real
