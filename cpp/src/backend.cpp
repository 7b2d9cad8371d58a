#include "backend.hpp"

#include <algorithm>

#include "error.hpp"
#include "text.hpp"

namespace scclip {
namespace {

using Specs = std::vector<const EncoderSpec*>;

void AddGrid(const Bundle& bundle, const char* kind, Specs* specs) {
    for (const EncoderSpec& spec : bundle.manifest().encoders) {
        if (spec.grid.kind == kind) specs->push_back(&spec);
    }
}

Specs Wanted(const Bundle& bundle, bool whole_image) {
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
                     "`--image-size HxW` (one size), or leave out --whole-image");
    }
    return specs;
}

bool RunsOn(const EncoderSpec& spec, const std::string& kind) {
    if (kind == "cpu" && spec.precision == "fp16") return false;
    return std::find(spec.runs_on.begin(), spec.runs_on.end(), kind) != spec.runs_on.end();
}

void CheckOptions(const OpenOptions& options) {
    const std::vector<std::string> known = {
#if defined(SCCLIP_ONNXRUNTIME)
        "onnxruntime",
#endif
#if defined(SCCLIP_OPENVINO)
        "openvino",
#endif
    };
    if (options.backend != "auto" && std::find(known.begin(), known.end(), options.backend) == known.end()) {
        ThrowBackend("unknown backend " + Quote(options.backend) + "; this version offers: auto, " + Join(known));
    }
    if (known.empty()) ThrowBackend("this build of the library has no backend");
    if (options.threads < 0) ThrowOption("threads must be at least 1; got " + std::to_string(options.threads));
    if (options.batch < 0) ThrowOption("batch must be at least 1; got " + std::to_string(options.batch));
}

}  // namespace

std::unique_ptr<Encoder> OpenEncoder(const Bundle& bundle, const OpenOptions& options) {
    CheckOptions(options);
#if defined(SCCLIP_OPENVINO)
#if defined(SCCLIP_ONNXRUNTIME)
    if (options.backend == "openvino") return OpenOpenVino(bundle, options);
#else
    return OpenOpenVino(bundle, options);
#endif
#endif
#if defined(SCCLIP_ONNXRUNTIME)
    return OpenOnnxRuntime(bundle, options);
#elif !defined(SCCLIP_OPENVINO)
    static_cast<void>(bundle);
    return nullptr;  // never reached: CheckOptions has thrown
#endif
}

const EncoderSpec& ChooseEncoder(const Bundle& bundle, const OpenOptions& options, DeviceKind kind) {
    const std::string device = kind == DeviceKind::kCpu ? "cpu" : "cuda";
    if (options.precision == "fp16" && kind == DeviceKind::kCpu) {
        ThrowBackend(
            "precision 'fp16' is refused on the CPU: ONNX Runtime has no fp16 arithmetic there, so it is slower than "
            "fp32 and can crash while optimising the graph; use --precision fp32 or --device cuda:0");
    }
    const Specs wanted = Wanted(bundle, options.whole_image);
    // int8 is never chosen unasked: its activation scale spans the batch.
    std::vector<std::string> choices = {options.precision};
    if (options.precision == "auto" && device == "cpu") choices = {"fp32"};
    if (options.precision == "auto" && device == "cuda") choices = {"fp16", "fp32"};
    for (const std::string& choice : choices) {
        for (const EncoderSpec* spec : wanted) {
            if (spec->precision == choice && RunsOn(*spec, device)) return *spec;
        }
    }
    std::vector<std::string> have;
    for (const EncoderSpec* spec : wanted) have.push_back(spec->precision + " for " + Join(spec->runs_on, "/"));
    const std::string asked =
        options.precision == "auto" ? "the default precision" : "precision " + Quote(options.precision);
    ThrowBackend(bundle.path() + ": no " + (options.whole_image ? "whole" : "window") + " encoder in " + asked +
                 " for " + device + "; the bundle has: " + (have.empty() ? "none" : Join(have)) +
                 ". Choose one with --precision, or export the bundle again with the one you need");
}

int BatchSize(const EncoderSpec& spec, int batch, DeviceKind kind) {
    // On a CPU the matrix products are at full speed from a few windows on, and memory grows with every further one; a
    // GPU wants more work at once. A dynamic grid can have thousands of patches, whose attention fills the memory.
    const std::int64_t patches = static_cast<std::int64_t>(spec.grid.rows) * spec.grid.columns;
    const std::int64_t budget = (kind == DeviceKind::kCpu ? 8 : 32) * 196;
    std::int64_t size = batch > 0 ? batch : (patches > 0 ? std::max<std::int64_t>(1, budget / patches) : 1);
    const Length& first = spec.Find(true, "windows")->shape[0];
    if (const auto* fixed = std::get_if<std::int64_t>(&first)) {
        size = std::min(size, *fixed);
    } else if (const auto axis = spec.axes.find(std::get<std::string>(first)); axis != spec.axes.end()) {
        if (axis->second.max) size = std::min(size, *axis->second.max);
    }
    return static_cast<int>(std::max<std::int64_t>(size, 1));
}

void CheckFeatures(const float* values, std::size_t count, const std::string& file) {
    float sum = 0;  // only NaN and infinity survive a factor of zero
    for (std::size_t i = 0; i < count; ++i) sum += values[i] * 0.0F;
    if (sum == 0) return;
    ThrowBackend(file +
                 ": features holds NaN or infinity; the weights are damaged or this precision overflows (try "
                 "--precision fp32)");
}

}  // namespace scclip
