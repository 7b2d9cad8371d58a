// TensorRT engines of a bundle: choosing the one that fits a machine, refusing the others with the reason. What is
// known about an engine stands in its sidecar, what is known about the machine comes in as a Machine.
#pragma once

#include <optional>
#include <string>

#include "bundle/engine_sidecar.hpp"

namespace scclip {

/// What would load an engine: a library in a version, on a GPU of a compute capability such as `8.9`.
struct Machine {
    std::string library, version, compute_capability;
    std::optional<std::string> device;
    std::string ToString() const;
};

/// What an engine is to do; what is not given asks for nothing. `auto` and `fast` take any precision: fp16 first, and
/// bf16 after fp32 under `auto`, before it under `fast`.
struct Wanted {
    std::optional<GridSpec> grid;
    std::string precision = "auto";  ///< a name, `auto` or `fast`
    std::optional<std::int64_t> batch, queries;
};

/// The engine for this machine: right library, source, version, GPU, grid, precision and profile, file intact. Among
/// several: the precision that comes first, then one made for exactly this GPU, then the profile tuned closest to the
/// batch wanted. Throws Error(kBackend): none fits; the message says why each does not, and the command that builds
/// one.
Engine ChooseEngine(const Bundle& bundle, const Machine& machine, const Wanted& wanted = {});

/// The encoder that an engine was built from. Throws Error(kBundle): the bundle has no such encoder.
const EncoderSpec& EncoderOf(const Bundle& bundle, const Engine& engine);

/// The path of an engine's file, its SHA-256 checked. Throws Error(kBackend), with the command that builds it again.
std::string EnginePath(const Bundle& bundle, const Engine& engine);

/// The line that builds an engine for a task. It is made from the options alone: what a sidecar calls its command is a
/// stranger's text, and never shown as advice.
std::string BuildCommand(const Bundle& bundle, const std::string& library, const Wanted& wanted);

/// Whether a GPU of `capability` can load what was built for `capabilities`.
bool Supports(const std::vector<std::string>& capabilities, const std::string& capability);

/// The whole numbers in a version, to compare by.
std::vector<unsigned long long> VersionNumbers(const std::string& version);

}  // namespace scclip
