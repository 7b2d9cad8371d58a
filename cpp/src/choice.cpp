#include "choice.hpp"

#include <fstream>
#include <initializer_list>
#include <sstream>
#include <utility>

namespace scclip {
namespace {

using Words = std::pair<std::string, std::string>;  // what is chosen, and why

std::string FirstOf(std::initializer_list<const char*> wanted, const std::set<std::string>& flags) {
    for (const char* flag : wanted) {
        if (flags.count(flag) != 0) return flag;
    }
    return "";
}

/// As Bf16Flag, of those with int8 products.
std::string Int8Flag(const std::set<std::string>& flags) {
    return FirstOf({"amx_int8", "avx512_vnni", "avx_vnni"}, flags);
}

/// ONNX Runtime's GPU providers take fp16 before fp32 and nothing else unasked.
std::string OrtPrecision(const std::string& asked) { return asked == "fast" ? "auto" : asked; }

Choice OnGpu(const OpenOptions& options, const std::set<std::string>& compiled, const EngineFinder& engine) {
    const std::string &asked = options.precision, &provider = options.ort_provider;
    if (options.backend != "auto") {
        const std::string precision = options.backend == "tensorrt" ? asked : OrtPrecision(asked);
        return {options.backend, precision, options.backend + " was asked for"};
    }
    if (!provider.empty()) {
        return {"onnxruntime", OrtPrecision(asked), "ONNX Runtime's provider " + provider + " was asked for"};
    }
    const EngineChoice found = engine();
    const std::string reason = "a GPU was asked for; " + found.reason;
    if (!found.backend.empty()) return {found.backend, found.precision, reason};
    const bool onnxruntime = compiled.count("onnxruntime") != 0 || compiled.count("tensorrt") == 0;
    return {onnxruntime ? "onnxruntime" : "tensorrt", OrtPrecision(asked), reason};
}

Words CpuPrecision(const OpenOptions& options, const std::set<std::string>& held, const std::string& bf16_flag,
                   bool openvino) {
    const std::string& asked = options.precision;
    const bool int8 = held.count("int8") != 0;
    if (asked != "auto" && asked != "fast") return {asked, asked + " was asked for"};
    if (asked == "fast") {
        if (int8) return {"int8", "int8 is the fastest that the bundle holds"};
        if (bf16_flag.empty()) return {"fp32", "fp32: the bundle has no int8, the processor no bf16"};
        if (openvino && held.count("fp32") != 0 && options.backend != "onnxruntime") {
            return {"bf16", "bf16: the bundle has no int8, the processor has " + bf16_flag};
        }
        return {"fp32", "fp32: the bundle has no int8, and bf16 needs OpenVINO"};
    }
    if (held.count("fp32") == 0 && int8) return {"int8", "int8 is all that the bundle holds for a CPU"};
    return {"fp32",
            std::string("fp32 is the most accurate") + (int8 ? " (the bundle holds int8 too: --precision fast)" : "")};
}

Words CpuBackend(const std::string& asked, const std::string& precision, const std::string& int8_flag,
                 const std::set<std::string>& compiled) {
    if (asked != "auto") return {asked, asked + " was asked for"};
    const bool onnxruntime = compiled.count("onnxruntime") != 0, openvino = compiled.count("openvino") != 0;
    if (openvino && !onnxruntime) return {"openvino", "this build has no onnxruntime"};
    if (precision == "bf16") return {"openvino", "only openvino has bf16 on a CPU"};
    if (precision != "int8") return {"onnxruntime", "onnxruntime: openvino is no faster at it"};
    if (int8_flag.empty()) return {"onnxruntime", "onnxruntime is the faster at int8 without VNNI"};
    if (!openvino) return {"onnxruntime", "openvino, the faster at int8 here, is not installed"};
    return {"openvino", "openvino is the faster at int8 with " + int8_flag};
}

}  // namespace

Choice Choose(const OpenOptions& options, const std::set<std::string>& held, const std::set<std::string>& flags,
              const std::set<std::string>& compiled, const EngineFinder& engine) {
    const std::string& provider = options.ort_provider;
    if (options.device.compare(0, 4, "cuda") == 0 || provider == "cuda" || provider == "tensorrt" ||
        options.backend == "tensorrt") {
        return OnGpu(options, compiled, engine);
    }
    if (options.backend == "auto" && options.device == "auto" && provider.empty()) {
        const EngineChoice found = engine();
        if (!found.backend.empty()) return {found.backend, found.precision, found.reason};
    }
    OpenOptions settled = options;
    if (options.backend == "auto" && !provider.empty()) settled.backend = "onnxruntime";
    const Words precision = CpuPrecision(settled, held, Bf16Flag(flags), compiled.count("openvino") != 0);
    const Words backend = CpuBackend(settled.backend, precision.first, Int8Flag(flags), compiled);
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

std::string Bf16Flag(const std::set<std::string>& flags) {
    return FirstOf({"amx_bf16", "avx512_bf16", "avx_ne_convert"}, flags);
}

}  // namespace scclip
