#include "backends/choose.hpp"

#include <algorithm>
#include <exception>
#include <utility>

#include "backends/processor.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

using Specs = std::vector<const EncoderSpec*>;

void AddGrid(const Bundle& bundle, const char* kind, Specs* specs) {
    for (const EncoderSpec& spec : bundle.manifest().encoders) {
        if (spec.grid.kind == kind) specs->push_back(&spec);
    }
}

bool RunsOn(const EncoderSpec& spec, const std::string& kind) {
    return std::find(spec.runs_on.begin(), spec.runs_on.end(), kind) != spec.runs_on.end();
}

using Words = std::pair<std::string, std::string>;  // what is chosen, and why

/// The rows that can run here: of a precision that the bundle has, on a library that this build has.
Tuned OfWhatRuns(const Tuned& tuned, const std::set<std::string>& held, const std::set<std::string>& flags,
                 const std::set<std::string>& compiled) {
    Tuned kept{{}, tuned.stale};
    for (const Measured& row : tuned.rows) {
        const bool bf16 =
            row.precision == "bf16" && row.backend == "openvino" && held.count("fp32") != 0 && !Bf16Flag(flags).empty();
        const bool own = (row.precision == "fp32" || row.precision == "int8") && held.count(row.precision) != 0;
        if ((bf16 || own) && compiled.count(row.backend) != 0) kept.rows.push_back(row);
    }
    return kept;
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

Words CpuPrecision(const OpenOptions& options, const std::set<std::string>& held, const std::set<std::string>& flags,
                   const std::string& vendor, bool openvino) {
    const std::string& asked = options.precision;
    const bool int8 = held.count("int8") != 0;
    if (asked != "auto" && asked != "fast") return {asked, asked + " was asked for"};
    if (asked == "fast") {
        if (int8) return {"int8", "int8 is the fastest that the bundle holds"};
        const std::string bf16_flag = GainingBf16Flag(flags, vendor);
        if (bf16_flag.empty()) {
            if (Bf16Flag(flags).empty()) return {"fp32", "fp32: the bundle has no int8, the processor no bf16"};
            return {"fp32", "fp32: the bundle has no int8, and bf16 is not known to be faster on this processor"};
        }
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

std::vector<const EncoderSpec*> GridEncoders(const Bundle& bundle, bool whole_image) {
    Specs specs;
    if (!whole_image) {
        AddGrid(bundle, "window", &specs);
        return specs;
    }
    // A dynamic grid keeps the image's ratio, so it goes before a fixed one.
    AddGrid(bundle, "dynamic", &specs);
    AddGrid(bundle, "fixed", &specs);
    if (specs.empty()) {
        ThrowBackend(bundle.path() +
                         ": no encoder for whole images; export the bundle with `--dynamic-grid` (any size) or "
                         "`--image-size HxW` (one size), or leave out whole_image",
                     "whole_image");
    }
    return specs;
}

const EncoderSpec& ChooseEncoder(const Bundle& bundle, const std::vector<std::string>& precisions, DeviceKind kind,
                                 bool whole_image) {
    const std::string device = kind == DeviceKind::kCpu ? "cpu" : "cuda";
    const Specs wanted = GridEncoders(bundle, whole_image);
    for (const std::string& precision : precisions) {
        for (const EncoderSpec* spec : wanted) {
            if (spec->precision == precision && RunsOn(*spec, device)) return *spec;
        }
    }
    std::vector<std::string> have, asked;
    for (const EncoderSpec* spec : wanted) have.push_back(spec->precision + " for " + Join(spec->runs_on, "/"));
    for (const std::string& precision : precisions) asked.push_back(Quote(precision));
    ThrowBackend(bundle.path() + ": no " + (whole_image ? "whole" : "window") + " encoder in precision " +
                     Join(asked, " or ") + " for " + device +
                     "; the bundle has: " + (have.empty() ? "none" : Join(have)) +
                     ". Choose another precision, or export the bundle again with the one you need",
                 "precision");
}

OpenedEncoder OpenForCuda(const Bundle& bundle, const EncoderSpec& spec, const std::string& version,
                          const std::function<void(const EncoderSpec&)>& open) {
    const EncoderSpec* form = nullptr;
    for (const EncoderSpec& other : bundle.manifest().encoders) {
        const bool same = other.precision == spec.precision && other.grid.ToString() == spec.grid.ToString();
        if (form == nullptr && &other != &spec && same && other.HasAttention()) form = &other;
    }
    std::string why;
    if (form != nullptr && spec.grid.kind != "dynamic") {
        // The first that was seen to be faster with it. Its kernel came in 1.25; before, the node would run on the CPU.
        if (VersionNumbers(version) < std::vector<unsigned long long>{1, 31}) {
            why = form->file + " is for ONNX Runtime 1.31 and later, this is " + version;
        } else {
            try {
                open(*form);
                return {form, "ONNX Runtime " + version + " has the Attention of " + form->file + " on CUDA"};
            } catch (const Error& error) {
                if (error.code != ErrorCode::kBackend) throw;
                why = form->file + " was refused (" + error.what() + ")";
            }
        }
    }
    open(spec);
    return {&spec, why};
}

int BatchSize(const EncoderSpec& spec, int asked, DeviceKind kind) {
    // On a CPU the matrix products are at full speed from a few windows on, and memory grows with every further one; a
    // GPU wants more work at once. A dynamic grid can have thousands of patches, whose attention fills the memory.
    const std::int64_t patches = static_cast<std::int64_t>(spec.grid.rows) * spec.grid.columns;
    const std::int64_t budget = (kind == DeviceKind::kCpu ? 8 : 32) * 196;
    std::int64_t size = asked > 0 ? asked : (patches > 0 ? std::max<std::int64_t>(1, budget / patches) : 1);
    const Length& first = spec.Find(true, "windows")->shape[0];
    if (const auto* fixed = std::get_if<std::int64_t>(&first)) {
        size = std::min(size, *fixed);
    } else if (const auto axis = spec.axes.find(std::get<std::string>(first)); axis != spec.axes.end()) {
        if (axis->second.max) size = std::min(size, *axis->second.max);
    }
    return static_cast<int>(std::max<std::int64_t>(size, 1));
}

Choice Choose(const OpenOptions& options, const std::set<std::string>& held, const std::set<std::string>& flags,
              const std::string& vendor, const std::set<std::string>& compiled, const EngineFinder& engine,
              const Tuned& measured) {
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
    const Tuned tuned = OfWhatRuns(measured, held, flags, compiled);
    Words precision = CpuPrecision(settled, held, flags, vendor, compiled.count("openvino") != 0);
    // By the fastest row of all: few have other threads and windows, so that of those few the fastest may be a slow
    // one.
    OpenOptions any = settled;
    any.threads = any.batch = 0;
    const Measured* fastest = options.precision == "fast" ? tuned.Best(any, "") : nullptr;
    if (fastest != nullptr) precision = {fastest->precision, fastest->precision + " is the fastest"};
    if (const Measured* best = tuned.Best(settled, precision.first)) {
        const std::string reason =
            precision.second + "; " + best->backend + ", as scclip tune measured: " + best->ToString();
        return {best->backend, best->precision, reason, best->threads, best->batch};
    }
    const Words backend = CpuBackend(settled.backend, precision.first, Int8Flag(flags), compiled);
    const std::string stale = tuned.stale.empty() ? "" : "; " + tuned.stale;
    return {backend.first, precision.first, precision.second + "; " + backend.second + stale};
}

EngineChoice FittingEngine(const Bundle& bundle, const OpenOptions& options, const HostFinder& tensorrt) {
    std::set<std::string> held;
    for (const ReadEngine& read : ReadEngines(bundle)) {
        if (read.engine) held.insert(read.engine->library);
    }
    if (held.empty()) return {"", "the bundle holds no engine", "auto"};
    std::vector<std::string> reasons;
    if (held.count("tensorrt") != 0) {
        if (!tensorrt) {
            reasons.emplace_back("this build has no tensorrt");
        } else {
            try {
                const EngineHost host = tensorrt(GpuNumber(options.device).value_or(0));
                const Engine engine =
                    ChooseForGrids(bundle, host.machine, options.precision, options.whole_image.value_or(false));
                return {"tensorrt", engine.file + " fits " + host.gpu, engine.precision};
            } catch (const Error& error) {
                reasons.emplace_back(error.what());
            }
        }
    }
    if (held.count("tensorrt-rtx") != 0) reasons.emplace_back("tensorrt-rtx is in the Python runtime alone");
    return {"", Join(reasons, "; "), "auto"};
}

Engine ChooseForGrids(const Bundle& bundle, const Machine& machine, const std::string& precision, bool whole_image) {
    std::exception_ptr failure;
    for (const EncoderSpec* spec : GridEncoders(bundle, whole_image)) {
        Wanted wanted;
        wanted.grid = spec->grid;
        wanted.precision = precision;
        try {
            return ChooseEngine(bundle, machine, wanted);
        } catch (const Error&) {
            if (!failure) failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
    ThrowBackend(bundle.path() + ": no " + (whole_image ? "whole" : "window") + " encoder");
}

std::optional<int> GpuNumber(const std::string& device) {
    if (device == "auto" || device == "cuda") return 0;
    const bool numbered = device.size() > 5 && device.size() < 10 && device.compare(0, 5, "cuda:") == 0 &&
                          device.find_first_not_of("0123456789", 5) == std::string::npos;
    if (!numbered) return std::nullopt;
    return std::stoi(device.substr(5));
}

}  // namespace scclip
