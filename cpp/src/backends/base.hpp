// What every backend offers: the rest of the library knows this interface and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "backends/choose.hpp"
#include "bundle/bundle.hpp"
#include "decode/decode.hpp"
#include "image/preparation.hpp"
#include "scclip/segmenter.hpp"

namespace scclip {

using PlanMaker = std::function<DecodePlan()>;

/// A calibrated image encoder, loaded. Calls from several threads at a time are allowed.
class Encoder {
  public:
    virtual ~Encoder() = default;

    /// One batch: (count, height, width, 3) uint8 RGB to (count, sizes().Rows(height, width), embed_dim) float32 in
    /// `out`. count ≤ batch_size(). Throws Error(kBackend).
    virtual void Features(const std::uint8_t* windows, int count, int height, int width, float* out) const = 0;

    /// One window with nothing beside it. Throws as Features.
    virtual void FeaturesAlone(const std::uint8_t* window, int height, int width, float* out) const {
        Features(window, 1, height, width, out);
    }

    /// The same for any number of windows, a batch at a time, each in `parts()` parts at the same time.
    void FeaturesOf(const std::uint8_t* windows, int count, int height, int width, float* out) const;

    /// Whether Segment takes this task; if not, Features and the decode on the host do.
    virtual bool CanSegment(const DecodeInput&) const { return false; }

    /// A prepared image to its labels where the encoder runs; the input's features are not read. `plan` is called where
    /// the sizes are new. Throws Error(kBackend).
    virtual Decoded Segment(const PreparedImage& image, const DecodeInput& input, const PlanMaker& plan) const;

    const EncoderSpec& spec() const { return spec_; }
    const BackendInfo& info() const { return info_; }
    const FeatureSizes& sizes() const { return sizes_; }
    int batch_size() const { return info_.batch; }

    /// Into how many parts FeaturesOf cuts a batch: with one thread for each no operator waits for another thread.
    virtual int parts() const { return 1; }

  protected:
    Encoder(EncoderSpec spec, BackendInfo info, const FeatureSizes& sizes)
        : spec_(std::move(spec)), info_(std::move(info)), sizes_(sizes) {}

  private:
    EncoderSpec spec_;
    BackendInfo info_;
    FeatureSizes sizes_;
};

/// Load an image encoder of a bundle. Throws Error(kBackend), Error(kBundle) or Error(kOption).
std::unique_ptr<Encoder> OpenEncoder(const Bundle& bundle, const OpenOptions& options);

/// Why labels can't be decoded on a GPU, whose decode has no form for some of format 2; empty if they can.
std::string HostDecodeReason(const Manifest& manifest, const GridSpec& grid);

/// What a backend opens with: the caller's options, settled as far as the choice between backends goes.
struct EncoderRequest {
    OpenOptions options;
    std::string reason = "asked for";  ///< why this backend, for Describe
};

/// What Describe says of an encoder of `spec`; backends add what they alone know.
BackendInfo InfoOf(const EncoderSpec& spec, const EncoderRequest& request, DeviceKind kind);

// Backends. Each is compiled in by a CMake option.
std::unique_ptr<Encoder> OpenOnnxRuntime(const Bundle& bundle, const EncoderRequest& request);
std::unique_ptr<Encoder> OpenOpenVino(const Bundle& bundle, const EncoderRequest& request);
std::unique_ptr<Encoder> OpenTensorRt(const Bundle& bundle, const EncoderRequest& request);

/// Versions of the libraries, as their Python packages tell them.
std::string OnnxRuntimeVersion();
std::string OpenVinoVersion();

/// TensorRT on GPU number `device`, for the choice between backends. Throws Error(kBackend).
EngineHost TensorRtHost(int device);

}  // namespace scclip
