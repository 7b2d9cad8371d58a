// What `auto` and `fast` mean: backend and precision, from what is compiled in, the processor and what the bundle
// holds. Accuracy first, as in Python: `auto` runs fp32 on a CPU even where the bundle holds int8; `fast` takes int8.
#pragma once

#include <set>
#include <string>

#include "scclip/segmenter.hpp"

namespace scclip {

struct Choice {
    std::string backend, precision, reason;
};

/// Settle `auto` and `fast`; what is named stays as it is, for the backend to take or refuse.
///
/// held: the precisions that the bundle has for a CPU and this grid; flags: the kernel's names of instruction sets;
/// compiled: the names of the backends.
Choice Choose(const OpenOptions& options, const std::set<std::string>& held, const std::set<std::string>& flags,
              const std::set<std::string>& compiled);

/// The processor's instruction sets as the kernel names them; empty where unknown.
std::set<std::string> ProcessorFlags();

}  // namespace scclip
