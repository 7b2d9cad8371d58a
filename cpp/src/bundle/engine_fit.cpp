#include "bundle/engine_fit.hpp"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <tuple>

#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

// What comes first among engines of several precisions, as in Python. fp16 is what SC-CLIP itself computes in on a GPU,
// and it moves under 1 % of the labels; bf16 moved up to 6 % (docs/precision.md), so only `fast` puts it before fp32.
// fp8 is in neither: it moves as much, and no measurement has shown it to be faster. Only who names it gets it.
using Preference = std::array<const char*, 4>;
constexpr Preference kAuto = {"fp16", "fp32", "bf16", "int8"}, kFast = {"fp16", "bf16", "int8", "fp32"};

// What TensorRT-RTX's portable engine runs on, as in Python.
const std::vector<std::string> kRtxCapabilities = {"8.0", "8.6", "8.9", "12.0+"};

const Preference& Order(const std::string& precision) { return precision == "fast" ? kFast : kAuto; }

bool IsNamed(const std::string& precision) { return precision != "auto" && precision != "fast"; }

bool IsDigit(char c) { return c >= '0' && c <= '9'; }

std::string Short(const std::string& sha256) { return sha256.substr(0, 12) + "…"; }

bool SameGrid(const GridSpec& a, const GridSpec& b) {
    return a.kind == b.kind && a.rows == b.rows && a.columns == b.columns;
}

std::string StaleReason(const Bundle& bundle, const Engine& engine) {
    if (bundle.manifest().files.count(engine.source) == 0) {
        return "was built from " + engine.source + ", which this bundle does not hold";
    }
    std::string expected;
    try {
        expected = SourceSha256(bundle, engine.source);
    } catch (const Error& error) {
        return "was built from a file that can't be used: " + WithoutBundle(bundle, error.what());
    }
    if (engine.source_sha256 == expected) return "";
    return "was built from another " + engine.source + " (" + Short(engine.source_sha256) + ", the bundle's is " +
           Short(expected) + ")";
}

/// TensorRT loads its own version's engines; version-compatible ones (TensorRT alone) load in later ones too. Source:
/// NVIDIA's pages "Engine Compatibility" of TensorRT 11 and TensorRT-RTX 1.7.
std::string VersionReason(const Engine& engine, const std::string& version) {
    if (version == engine.library_version) return "";
    if (engine.version_compatible && VersionNumbers(version) > VersionNumbers(engine.library_version)) return "";
    return "was built by " + engine.library + " " + engine.library_version + "; " + version + " is installed";
}

std::string GpuReason(const Engine& engine, const Machine& machine) {
    if (Supports(engine.compute_capabilities, machine.compute_capability)) return "";
    return "is for compute capability " + Join(engine.compute_capabilities) + "; this GPU has " +
           machine.compute_capability;
}

std::string TaskReason(const Engine& engine, const Wanted& wanted) {
    if (wanted.grid && !SameGrid(engine.grid, *wanted.grid)) {
        return "is for the grid " + engine.grid.ToString() + ", not " + wanted.grid->ToString();
    }
    if (IsNamed(wanted.precision) && wanted.precision != engine.precision) {
        return "is " + engine.precision + ", not " + wanted.precision;
    }
    const Preference& order = Order(wanted.precision);
    if (!IsNamed(wanted.precision) && std::find(order.begin(), order.end(), engine.precision) == order.end()) {
        return "is " + engine.precision + ", which only --precision " + engine.precision + " takes";
    }
    for (const auto& [axis, count] : {std::pair{"batch", wanted.batch}, std::pair{"queries", wanted.queries}}) {
        const auto& span = engine.profile.at(axis);
        if (count && (*count < span[0] || *count > span[2])) {
            return "takes " + std::string(axis) + " " + std::to_string(span[0]) + " to " + std::to_string(span[2]) +
                   "; " + std::to_string(*count) + " wanted";
        }
    }
    return "";
}

/// Why an engine can't serve, the most basic reason first; empty if it can.
std::string Misfit(const Bundle& bundle, const Engine& engine, const Machine& machine, const Wanted& wanted) {
    if (engine.library != machine.library) return "is for " + engine.library;
    std::string reason = StaleReason(bundle, engine);
    if (reason.empty()) reason = VersionReason(engine, machine.version);
    if (reason.empty()) reason = GpuReason(engine, machine);
    return reason.empty() ? TaskReason(engine, wanted) : reason;
}

/// What is wrong with an engine's file: missing, or another content than bundle.json and the sidecar say.
std::string Damage(const Bundle& bundle, const Engine& engine) {
    try {
        bundle.CheckedPath(engine.file);
        return "";
    } catch (const Error& error) {
        return WithoutBundle(bundle, error.what());
    }
}

auto Rank(const Engine& engine, const Machine& machine, const Wanted& wanted) {
    const auto& own = engine.compute_capabilities;
    const Preference& order = Order(wanted.precision);
    const auto precision = std::find(order.begin(), order.end(), engine.precision) - order.begin();
    const bool foreign = std::find(own.begin(), own.end(), machine.compute_capability) == own.end();
    const bool other = engine.device && engine.device != machine.device;
    const std::int64_t optimum = engine.profile.at("batch")[1];
    const std::int64_t distance = wanted.batch ? std::abs(optimum - *wanted.batch) : 0;
    return std::make_tuple(precision, foreign, other, distance, own.size(), engine.file);
}

/// What to do about a machine that no engine fits.
std::string Mend(const Bundle& bundle, const Machine& machine, const Wanted& wanted) {
    if (machine.library == "tensorrt-rtx" && !Supports(kRtxCapabilities, machine.compute_capability)) {
        return "TensorRT-RTX does not run on such a GPU: build one with `" + BuildCommand(bundle, "tensorrt", wanted) +
               "`";
    }
    return "Build one with `" + BuildCommand(bundle, machine.library, wanted) + "`";
}

}  // namespace

std::vector<unsigned long long> VersionNumbers(const std::string& version) {
    std::vector<unsigned long long> numbers;
    for (std::size_t i = 0; i < version.size(); ++i) {
        if (!IsDigit(version[i])) continue;
        std::size_t end = i;
        while (end < version.size() && IsDigit(version[end])) ++end;
        numbers.push_back(std::strtoull(version.substr(i, end - i).c_str(), nullptr, 10));
        i = end;
    }
    return numbers;
}

std::string Machine::ToString() const {
    return (device && !device->empty() ? *device + ", " : "") + "compute capability " + compute_capability + ", " +
           library + " " + version;
}

Engine ChooseEngine(const Bundle& bundle, const Machine& machine, const Wanted& wanted) {
    std::vector<Engine> fitting;
    std::vector<std::string> refused;
    for (const ReadEngine& read : ReadEngines(bundle)) {
        const std::string reason = read.engine ? Misfit(bundle, *read.engine, machine, wanted) : read.reason;
        if (reason.empty()) {
            fitting.push_back(*read.engine);
        } else {
            refused.push_back(read.sidecar + " " + reason);
        }
    }
    std::stable_sort(fitting.begin(), fitting.end(), [&](const Engine& a, const Engine& b) {
        return Rank(a, machine, wanted) < Rank(b, machine, wanted);
    });
    for (Engine& engine : fitting) {
        const std::string problem = Damage(bundle, engine);
        if (problem.empty()) return std::move(engine);
        refused.push_back(engine.sidecar + " " + problem);
    }
    ThrowBackend("no engine in " + bundle.path() + " fits (" + machine.ToString() +
                     "): " + (refused.empty() ? "the bundle holds no engine" : Join(refused, "; ")) + ". " +
                     Mend(bundle, machine, wanted) + ", or use --backend onnxruntime",
                 "engines");
}

const EncoderSpec& EncoderOf(const Bundle& bundle, const Engine& engine) {
    for (const EncoderSpec& encoder : bundle.manifest().encoders) {
        if (encoder.file == engine.source) return encoder;
    }
    ThrowBundle(bundle.path() + ": " + engine.file + " was built from " + engine.source + ", which is no encoder of it",
                engine.sidecar);
}

std::string EnginePath(const Bundle& bundle, const Engine& engine) {
    const std::string problem = Damage(bundle, engine);
    if (!problem.empty()) {
        ThrowBackend(problem + ". Build it again with `" +
                         BuildCommand(bundle, engine.library, {std::nullopt, engine.precision, {}, {}}) + "`",
                     engine.file);
    }
    return bundle.path() + "/" + engine.file;
}

std::string BuildCommand(const Bundle& bundle, const std::string& library, const Wanted& wanted) {
    std::string line = "scclip-export --bundle " + bundle.path() + " --" + library;
    if (IsNamed(wanted.precision)) line += " --engine-precision " + wanted.precision;
    if (wanted.batch) line += " --max-batch " + std::to_string(std::max<std::int64_t>(*wanted.batch, 16));
    if (wanted.queries) line += " --max-queries " + std::to_string(std::max<std::int64_t>(*wanted.queries, 1024));
    return line;
}

bool Supports(const std::vector<std::string>& capabilities, const std::string& capability) {
    const auto own = VersionNumbers(capability);
    return std::any_of(capabilities.begin(), capabilities.end(), [&](const std::string& entry) {
        const bool later = !entry.empty() && entry.back() == '+';
        return later ? own >= VersionNumbers(entry) : own == VersionNumbers(entry);
    });
}

}  // namespace scclip
