// What every backend offers: the rest of the library knows this interface and nothing else.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "bundle.hpp"
#include "scclip/segmenter.hpp"

namespace scclip {

/// A calibrated image encoder, loaded. Calls from several threads at a time are allowed.
class Encoder {
  public:
    virtual ~Encoder() = default;

    /// One batch: (count, height, width, 3) uint8 RGB to (count, patches, embed_dim) float32 unit rows in `out`.
    /// Throws Error(kBackend).
    virtual void Features(const std::uint8_t* windows, int count, int height, int width, float* out) const = 0;

    const EncoderSpec& spec() const { return spec_; }
    const BackendInfo& info() const { return info_; }
    int batch_size() const { return batch_size_; }

  protected:
    Encoder(EncoderSpec spec, BackendInfo info, int batch_size)
        : spec_(std::move(spec)), info_(std::move(info)), batch_size_(batch_size) {}

  private:
    EncoderSpec spec_;
    BackendInfo info_;
    int batch_size_;
};

/// Load an image encoder of a bundle. Throws Error(kBackend), Error(kBundle) or Error(kOption).
std::unique_ptr<Encoder> OpenEncoder(const Bundle& bundle, const OpenOptions& options);

enum class DeviceKind { kCpu, kCuda };

/// The encoder that fits a grid, a kind of device and a precision (or `auto`). Throws Error(kBackend).
const EncoderSpec& ChooseEncoder(const Bundle& bundle, const OpenOptions& options, DeviceKind kind);

/// Most windows at once: what was asked for, or the kind's own number, within the graph's limit.
int BatchSize(const EncoderSpec& spec, int batch, DeviceKind kind);

/// Refuse features with NaN or infinity. Throws Error(kBackend).
void CheckFeatures(const float* values, std::size_t count, const std::string& file);

#if defined(SCCLIP_ONNXRUNTIME)
std::unique_ptr<Encoder> OpenOnnxRuntime(const Bundle& bundle, const OpenOptions& options);
#endif
#if defined(SCCLIP_OPENVINO)
std::unique_ptr<Encoder> OpenOpenVino(const Bundle& bundle, const OpenOptions& options);
#endif

}  // namespace scclip
