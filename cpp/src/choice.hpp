// What `auto` and `fast` mean: backend and precision, from what is compiled in, the processor, the GPU and what the
// bundle holds. Accuracy first, as in Python: `auto` runs fp32 on a CPU even where the bundle holds int8; `fast` takes
// int8, or bf16 where the processor has it. A GPU that an engine of the bundle fits goes before the CPU.
#pragma once

#include <functional>
#include <set>
#include <string>

#include "scclip/segmenter.hpp"

namespace scclip {

struct Choice {
    std::string backend, precision, reason;
};

/// A backend with a fitting engine and that engine's precision, or an empty name, and the reason in words.
struct EngineChoice {
    std::string backend, reason, precision = "auto";
};

/// Looks for an engine that would run here.
using EngineFinder = std::function<EngineChoice()>;

/// Settle `auto` and `fast`; what is named stays as it is, for the backend to take or refuse.
///
/// held: the precisions that the bundle has for a CPU and this grid; flags: the kernel's names of instruction sets;
/// compiled: the names of the backends; engine: called where `auto` may mean a GPU.
Choice Choose(const OpenOptions& options, const std::set<std::string>& held, const std::set<std::string>& flags,
              const std::set<std::string>& compiled, const EngineFinder& engine);

/// The processor's instruction sets as the kernel names them; empty where unknown.
std::set<std::string> ProcessorFlags();

/// The first of the flags with bf16 arithmetic, in alphabetical order; empty if there is none.
std::string Bf16Flag(const std::set<std::string>& flags);

}  // namespace scclip
