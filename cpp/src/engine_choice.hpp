// Whether an engine of the bundle fits the GPU that is here: what `auto` prefers to ONNX Runtime.
#pragma once

#include <functional>

#include "choice.hpp"
#include "engines.hpp"

namespace scclip {

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
