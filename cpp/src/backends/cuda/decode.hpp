// Decoding on the GPU with the bundle's compiled kernels: the engine's cosines in, labels and confidence out (METHOD
// §4).
#pragma once

#include <map>
#include <memory>
#include <string>

#include "backends/cuda/driver.hpp"
#include "decode/bands.hpp"
#include "decode/decode.hpp"

namespace scclip {

/// The bundle's kernels for this GPU that decoding uses, loaded. Where they are damaged, Missing says so: labels are
/// then decoded on the host.
class KernelSet {
  public:
    KernelSet(const Bundle& bundle, const Gpu& gpu);

    /// Why labels for so many classes can't be decoded on the device; empty if they can.
    std::string Missing(std::int64_t num_classes) const;

    const Kernel& Get(const std::string& name, const std::map<std::string, std::string>& types = {},
                      const std::map<std::string, bool>& constants = {}) const;

  private:
    KernelChoice choice_;
    std::map<const KernelSpec*, std::unique_ptr<Kernel>> loaded_;
};

/// Everything on the device for one image size, vocabulary and set of options. One block of memory holds the results: a
/// flag (not 0: the cosines hold NaN or infinity), labels, confidence; one copy brings them to the host.
class DeviceDecode {
  public:
    /// `input`: features and text are not read. Columns of pixels are decoded in strips whose intermediate values take
    /// about `strip_bytes`, by default so many that they stay in a GPU's cache.
    DeviceDecode(const KernelSet& kernels, const Gpu& gpu, const DecodeInput& input, const DecodePlan& plan,
                 std::size_t strip_bytes = 64U << 20U);

    /// Queue the decoding of (windows · patches, queries) cosines.
    void Queue(const Stream& stream, CUdeviceptr cosines) const;

    CUdeviceptr results() const { return results_.at(); }
    std::size_t copied_bytes() const { return copied_bytes_; }

    /// The results, from the copied block. Throws Error(kBackend): the cosines hold NaN or infinity.
    Decoded Read(const std::uint8_t* block) const;

  private:
    struct Table {
        Table(const Gpu& gpu, const BandAxis& axis);
        int blocks, band_cells, cells;
        DeviceBuffer span, band, places;
    };

    const KernelSet& kernels_;
    int height_, width_, queries_, num_classes_;
    std::int64_t cosines_;  // how many there are
    bool confidence_, soft_, wide_;
    double logit_scale_, prob_threshold_, area_threshold_;
    int background_;  // or -1
    std::size_t label_bytes_, confidence_at_, copied_bytes_;
    Table rows_, columns_;
    std::size_t block_bytes_;
    int strip_blocks_;    // blocks of columns that are decoded at a time
    DeviceBuffer strip_;  // what decode_columns leaves to decode_rows
    DeviceBuffer results_, query_class_, query_keep_, area_share_, counts_;

    int unlabelled() const { return wide_ ? 65535 : 255; }
    std::map<std::string, std::string> LabelType() const { return {{"labels", wide_ ? "*u16" : "*u8"}}; }
    void CheckFinite(const Stream& stream, CUdeviceptr cosines) const;
    void LabelStrips(const Stream& stream, CUdeviceptr cosines, bool masked, bool last) const;
    void InterpolateColumns(const Stream& stream, CUdeviceptr cosines, int first) const;
    void Label(const Stream& stream, int first, bool masked, bool last) const;
    void MarkKeptQueries(const Stream& stream) const;
};

}  // namespace scclip
