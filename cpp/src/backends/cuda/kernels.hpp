// The bundle's compiled GPU kernels (kernels/kernels.json, docs/bundle.md): read, checked and chosen for a GPU. Nothing
// here needs CUDA.
#pragma once

#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <utility>
#include <vector>

#include "bundle/bundle.hpp"

namespace scclip {

/// One compiled kernel.
struct KernelSpec {
    std::string name;          ///< `decode`, `count`, …; several have one, for other architectures, types or constants
    std::string file, entry;   ///< the cubin in the bundle, and the function's name in it
    int major = 0, minor = 0;  ///< compute capability that it was compiled for
    unsigned num_warps = 0, shared_bytes = 0;
    std::vector<std::pair<std::string, std::string>> parameters;  ///< names and Triton types, in order
    nlohmann::json constants;                                     ///< what was fixed at compile time
    unsigned hidden_pointers = 0;  ///< Triton's own scratch pointers behind the parameters, null here

    /// Machine code runs on later minors of its major; from 9.0 on Triton compiles for exactly one architecture.
    bool RunsOn(int gpu_major, int gpu_minor) const;
    unsigned Constant(const char* name) const;
};

/// The kernels for one GPU, or the reason why there are none.
struct KernelChoice {
    std::vector<KernelSpec> kernels;
    std::string reason;

    /// The first kernel of a name with these types and constants, or null.
    const KernelSpec* Find(const std::string& name, const std::map<std::string, std::string>& types = {},
                           const std::map<std::string, bool>& constants = {}) const;
};

/// What of the list runs on a GPU, of each name the newest. Throws Error(kBundle): not the format, or not listed.
KernelChoice ChooseKernels(const Bundle& bundle, int gpu_major, int gpu_minor);

/// The list itself.
std::vector<KernelSpec> ParseKernelList(const std::string& text);

}  // namespace scclip
