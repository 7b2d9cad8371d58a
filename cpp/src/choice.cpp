#include "choice.hpp"

#include <fstream>
#include <sstream>
#include <utility>

namespace scclip {
namespace {

using Words = std::pair<std::string, std::string>;  // what is chosen, and why

/// The processor's first flag with int8 products, in alphabetical order; empty if it has none.
std::string Int8Flag(const std::set<std::string>& flags) {
    for (const char* flag : {"amx_int8", "avx512_vnni", "avx_vnni"}) {
        if (flags.count(flag) != 0) return flag;
    }
    return "";
}

Words CpuPrecision(const std::string& asked, const std::set<std::string>& held) {
    const bool int8 = held.count("int8") != 0;
    if (asked != "auto" && asked != "fast") return {asked, asked + " was asked for"};
    if (asked == "fast" && int8) return {"int8", "int8 is the fastest that the bundle holds"};
    // Python takes bf16 here where the processor has it; this library has no bf16.
    if (asked == "fast") return {"fp32", "fp32: the bundle has no int8"};
    if (held.count("fp32") == 0 && int8) return {"int8", "int8 is all that the bundle holds for a CPU"};
    return {"fp32",
            std::string("fp32 is the most accurate") + (int8 ? " (the bundle holds int8 too: --precision fast)" : "")};
}

Words CpuBackend(const std::string& asked, const std::string& precision, const std::string& int8_flag,
                 const std::set<std::string>& compiled) {
    if (asked != "auto") return {asked, asked + " was asked for"};
    const bool onnxruntime = compiled.count("onnxruntime") != 0, openvino = compiled.count("openvino") != 0;
    if (openvino && !onnxruntime) return {"openvino", "this build has no onnxruntime"};
    if (precision == "bf16" && openvino) return {"openvino", "only openvino has bf16 on a CPU"};
    if (precision != "int8") return {"onnxruntime", "onnxruntime: openvino is no faster at it"};
    if (int8_flag.empty()) return {"onnxruntime", "onnxruntime is the faster at int8 without VNNI"};
    if (!openvino) return {"onnxruntime", "openvino, the faster at int8 here, is not installed"};
    return {"openvino", "openvino is the faster at int8 with " + int8_flag};
}

}  // namespace

Choice Choose(const OpenOptions& options, const std::set<std::string>& held, const std::set<std::string>& flags,
              const std::set<std::string>& compiled) {
    const std::string& provider = options.ort_provider;
    if (options.device.compare(0, 4, "cuda") == 0 || provider == "cuda" || provider == "tensorrt" ||
        options.backend == "tensorrt") {
        // On a GPU the narrow file is also the one whose labels agree best per second: nothing is lost by it.
        const std::string precision = options.precision == "fast" ? "auto" : options.precision;
        if (options.backend != "auto") return {options.backend, precision, options.backend + " was asked for"};
        if (!provider.empty()) {
            return {"onnxruntime", precision, "ONNX Runtime's provider " + provider + " was asked for"};
        }
        const bool onnxruntime = compiled.count("onnxruntime") != 0 || compiled.count("tensorrt") == 0;
        return {onnxruntime ? "onnxruntime" : "tensorrt", precision, "a GPU was asked for"};
    }
    const Words precision = CpuPrecision(options.precision, held);
    const std::string asked = options.backend == "auto" && !provider.empty() ? "onnxruntime" : options.backend;
    const Words backend = CpuBackend(asked, precision.first, Int8Flag(flags), compiled);
    return {backend.first, precision.first, precision.second + "; " + backend.second};
}

std::set<std::string> ProcessorFlags() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.compare(0, 5, "flags") != 0 && line.compare(0, 8, "Features") != 0) continue;
        std::istringstream words(line.substr(line.find(':') + 1));
        std::set<std::string> flags;
        for (std::string word; words >> word;) flags.insert(word);
        return flags;
    }
    return {};
}

}  // namespace scclip
