// A CUDA driver on host memory: copies happen at once, or are recorded while a stream is captured, and kernels are C++
// functions found by their name. What is allocated and not freed is counted.
#pragma once

#include "backends/cuda/driver.hpp"

namespace fake {

struct State {
    long allocations = 0;  ///< alive
    int captures = 0, graph_launches = 0;
    bool refuse_pitches = false;    ///< as a driver that wants pitches of its own making
    bool refuse_capture = false;    ///< as a stream on which capture is not permitted
    bool lost = false;              ///< as after a fault on the GPU: contexts can't be made current
    bool reset = false;             ///< as after cudaDeviceReset: what is given to the driver crashes it
    int crashes = 0;                ///< how often that would have been
    std::size_t memory = SIZE_MAX;  ///< bytes that one allocation may have
};

State& Counts();

/// The GPU's primary context, and the one that is current in this thread.
CUcontext Primary();
CUcontext& Current();

/// The driver of one GPU of compute capability 8.9.
const scclip::CudaDriver& Driver();

}  // namespace fake
