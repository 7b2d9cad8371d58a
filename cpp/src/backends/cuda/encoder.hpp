// An encoder on a GPU: windows in and features out, or a whole image in and only its labels out. The engine comes in
// through DeviceGraph, so that everything here can be tested without TensorRT.
#pragma once

#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "backends/base.hpp"
#include "backends/cuda/decode.hpp"
#include "backends/cuda/driver.hpp"

namespace scclip {

/// One shape's way through an engine, with everything that a captured graph is tied to.
class GraphCall {
  public:
    virtual ~GraphCall() = default;
    /// Queue one run. Throws Error(kBackend).
    virtual void Enqueue(CUdeviceptr windows, CUdeviceptr text, CUdeviceptr features, CUdeviceptr cosines,
                         CUstream stream) = 0;
};

/// A loaded engine. Calls of one graph run one after the other.
class DeviceGraph {
  public:
    virtual ~DeviceGraph() = default;
    virtual std::unique_ptr<GraphCall> Call(int batch, int height, int width, int queries) = 0;
    int min_batch = 1, max_batch = 1, min_queries = 1, max_queries = 1;
};

/// What one lane runs on: an engine's context and workspace, and a stream.
using GraphMaker = std::function<std::unique_ptr<DeviceGraph>()>;

class DeviceEncoder final : public Encoder {
  public:
    /// `callers`: the stream to queue on, or null for one stream for each call at a time.
    DeviceEncoder(std::shared_ptr<const Gpu> gpu, std::unique_ptr<KernelSet> kernels, GraphMaker make,
                  std::unique_ptr<DeviceGraph> first, EncoderSpec spec, BackendInfo info, const FeatureSizes& sizes,
                  CUstream callers);
    ~DeviceEncoder() override;

    void Features(const std::uint8_t* windows, int count, int height, int width, float* out) const override;
    bool CanSegment(const DecodeInput& input) const override;
    Decoded Segment(const PreparedImage& image, const DecodeInput& input, const PlanMaker& plan) const override;

  private:
    class Lane;
    class Lease;
    std::optional<CallersContext>
        callers_context_;  // of the thread that destroys this; first, so that it is undone last
    std::shared_ptr<const Gpu> gpu_;
    std::unique_ptr<KernelSet> kernels_;
    GraphMaker make_;
    int min_queries_, max_queries_;
    CUstream callers_;
    mutable std::mutex mutex_;  // of `idle_`
    mutable std::vector<std::unique_ptr<Lane>> idle_;
    mutable std::mutex callers_mutex_;  // the caller's stream takes one call at a time
};

}  // namespace scclip
