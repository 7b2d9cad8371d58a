// Which backend, encoder and precision: what `auto` and `fast` mean, from what is compiled in, the processor, the GPU
// and what the bundle holds. Accuracy first, as in Python: `auto` runs fp32 on a CPU even where the bundle holds int8;
// `fast` takes int8, or bf16 where the processor gains from it. A GPU that an engine of the bundle fits goes before
// the CPU.
#pragma once

#include <functional>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "backends/tuned.hpp"
#include "bundle/engine_fit.hpp"
#include "scclip/segmenter.hpp"

namespace scclip {

enum class DeviceKind { kCpu, kCuda };

/// The bundle's encoders for windows or for whole images, preferred first. Throws Error(kBackend): whole images are
/// wanted and the bundle has no encoder for them.
std::vector<const EncoderSpec*> GridEncoders(const Bundle& bundle, bool whole_image);

/// The encoder in the first of `precisions` that the bundle has for windows (or whole images) and this kind of device.
/// Throws Error(kBackend): the bundle has none; the message lists what it has.
const EncoderSpec& ChooseEncoder(const Bundle& bundle, const std::vector<std::string>& precisions, DeviceKind kind,
                                 bool whole_image);

/// An encoder that was opened, and why that one.
struct OpenedEncoder {
    const EncoderSpec* spec;
    std::string why;
};

/// Open an encoder for ONNX Runtime's CUDA provider: its form with ONNX's Attention if the bundle has that, the library
/// is 1.31 or later, and `open` takes it; else `spec` as it is. A dynamic grid has no such form: ONNX Runtime computes
/// its shapes on the CPU, so that nothing tells whether the attention is there too. `open` throws Error(kBackend) for
/// what is refused.
OpenedEncoder OpenForCuda(const Bundle& bundle, const EncoderSpec& spec, const std::string& version,
                          const std::function<void(const EncoderSpec&)>& open);

/// Windows at once: what was asked for (0: what suits the device), within what the encoder takes.
int BatchSize(const EncoderSpec& spec, int asked, DeviceKind kind);

struct Choice {
    std::string backend, precision, reason;
    int threads = 0, batch = 0;  ///< what `scclip tune` found best; 0: nothing was measured
};

/// A backend with a fitting engine and that engine's precision, or an empty name, and the reason in words.
struct EngineChoice {
    std::string backend, reason, precision = "auto";
};

/// Looks for an engine that would run here.
using EngineFinder = std::function<EngineChoice()>;

/// Settle `auto` and `fast`; what is named stays as it is, for the backend to take or refuse.
///
/// held: the precisions that the bundle has for a CPU and this grid; flags, vendor: the kernel's names of the
/// processor's instruction sets and its maker; compiled: the names of the backends; engine: called where `auto` may
/// mean a GPU; tuned: what was measured here: of its rows that agree with what is asked for, the fastest goes before
/// the rules for CPUs.
Choice Choose(const OpenOptions& options, const std::set<std::string>& held, const std::set<std::string>& flags,
              const std::string& vendor, const std::set<std::string>& compiled, const EngineFinder& engine,
              const Tuned& tuned = {});

/// What would load an engine on a GPU, and the GPU in words.
struct EngineHost {
    Machine machine;
    std::string gpu;  ///< "cuda:0 (NVIDIA L4, sm_89)"
};

/// Finds the host of a library on GPU number `device`; null where this build lacks the library. Throws Error(kBackend):
/// no driver, no GPU, the library can't be loaded.
using HostFinder = std::function<EngineHost(int device)>;

/// Look for an engine that would run here; what is missing is a reason, not an error.
///
/// options: `device`, `precision` and `whole_image` are read; tensorrt: of TensorRT, the one library here that runs
/// engines.
EngineChoice FittingEngine(const Bundle& bundle, const OpenOptions& options, const HostFinder& tensorrt);

/// The fitting engine of the first of the wanted grids that has one. Throws Error(kBackend): none has; the first
/// grid's reasons.
Engine ChooseForGrids(const Bundle& bundle, const Machine& machine, const std::string& precision, bool whole_image);

/// The number in `cuda:N`; 0 for `cuda` and `auto`, nothing for any other text.
std::optional<int> GpuNumber(const std::string& device);

}  // namespace scclip
