#include "backends/base.hpp"

#include <algorithm>
#include <map>
#include <set>
#include <stdexcept>

#include "backends/any_size.hpp"
#include "backends/processor.hpp"
#include "backends/text.hpp"
#include "backends/tuned.hpp"
#include "decode/threads.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

using Opener = std::unique_ptr<Encoder> (*)(const Bundle&, const EncoderRequest&);

struct Backend {
    const char* name;
    Opener open;
    std::string (*version)();  // of the library; null where nothing is measured
};

/// Those compiled in.
const std::vector<Backend>& Backends() {
    static const std::vector<Backend> backends = {
#if defined(SCCLIP_ONNXRUNTIME)
        {"onnxruntime", OpenOnnxRuntime, OnnxRuntimeVersion},
#endif
#if defined(SCCLIP_OPENVINO)
        {"openvino", OpenOpenVino, OpenVinoVersion},
#endif
#if defined(SCCLIP_TENSORRT)
        {"tensorrt", OpenTensorRt, nullptr},
#endif
    };
    return backends;
}

HostFinder TensorRt() {
#if defined(SCCLIP_TENSORRT)
    return TensorRtHost;
#else
    return nullptr;
#endif
}

/// What times depend on: this library's version, and those of the libraries that it runs.
std::map<std::string, std::string> Versions() {
    std::map<std::string, std::string> versions = {{"scclip", SCCLIP_VERSION}};
    for (const Backend& backend : Backends()) {
        if (backend.version != nullptr) versions[backend.name] = backend.version();
    }
    return versions;
}

/// The encoder for windows, or for whole images.
std::unique_ptr<Encoder> OpenOne(const Bundle& bundle, const OpenOptions& options) {
    if (Backends().empty()) ThrowBackend("this build of the library has no backend");
    std::vector<std::string> known;
    for (const Backend& backend : Backends()) known.emplace_back(backend.name);
    if (options.backend != "auto" && std::find(known.begin(), known.end(), options.backend) == known.end()) {
        ThrowBackend("unknown backend " + Quote(options.backend) + "; this build has: auto, " + Join(known), "backend");
    }
    std::set<std::string> held;
    for (const EncoderSpec* spec : GridEncoders(bundle, options.whole_image.value_or(false))) {
        const auto& devices = spec->runs_on;
        if (std::find(devices.begin(), devices.end(), "cpu") != devices.end()) held.insert(spec->precision);
    }
    const auto engine = [&] { return FittingEngine(bundle, options, TensorRt()); };
    const Tuned tuned = ReadTuned(bundle, Versions());
    const Choice choice =
        Choose(options, held, ProcessorFlags(), ProcessorVendor(), {known.begin(), known.end()}, engine, tuned);
    EncoderRequest request{options, choice.reason};
    request.options.precision = choice.precision;
    if (options.threads == 0) request.options.threads = choice.threads;
    if (options.batch == 0) request.options.batch = choice.batch;
    for (const Backend& backend : Backends()) {
        if (choice.backend == backend.name) return backend.open(bundle, request);
    }
    ThrowBackend("this build of the library has no backend " + Quote(choice.backend) + "; it has: " + Join(known),
                 "backend");
}

}  // namespace

void Encoder::FeaturesOf(const std::uint8_t* windows, int count, int height, int width, float* out) const {
    const std::size_t pixels = static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3;
    const std::size_t values =
        static_cast<std::size_t>(sizes_.Rows(height, width)) * static_cast<std::size_t>(sizes_.embed_dim);
    if (count == 1) return FeaturesAlone(windows, height, width, out);
    for (int first = 0; first < count; first += batch_size()) {
        const int batch = std::min(batch_size(), count - first), parts = std::min(this->parts(), batch);
        Parallel(static_cast<std::size_t>(parts), parts, [&](std::size_t part) {
            const int start = first + batch * static_cast<int>(part) / parts;
            const int stop = first + batch * (static_cast<int>(part) + 1) / parts;
            const auto at = static_cast<std::size_t>(start);
            Features(windows + at * pixels, stop - start, height, width, out + at * values);
        });
    }
}

Decoded Encoder::Segment(const PreparedImage&, const DecodeInput&, const PlanMaker&) const {
    throw std::logic_error("this encoder does not segment");
}

std::unique_ptr<Encoder> OpenEncoder(const Bundle& bundle, const OpenOptions& options) {
    std::unique_ptr<Encoder> main = OpenOne(bundle, options);
    if (!bundle.manifest().pads || options.whole_image.value_or(false)) return main;
    OpenOptions same = options;  // for smaller windows: the same backend and precision
    same.backend = main->info().backend;
    same.device = main->info().device;
    same.precision = main->spec().precision;
    same.whole_image = true;
    same.cuda_stream = nullptr;  // the caller's takes one call at a time
    return std::make_unique<AnySizeEncoder>(std::move(main), bundle.manifest().window,
                                            [bundle, same] { return OpenOne(bundle, same); });
}

BackendInfo InfoOf(const EncoderSpec& spec, const EncoderRequest& request, DeviceKind kind) {
    BackendInfo info;
    info.device = "cpu";
    info.precision = spec.precision;
    info.grid = spec.grid.ToString();
    info.encoder = spec.file;
    info.threads = request.options.threads > 0 ? request.options.threads : DefaultThreads();
    info.batch = BatchSize(spec, request.options.batch, kind);
    info.reason = request.reason;
    return info;
}

std::string HostDecodeReason(const Manifest& manifest, const GridSpec& grid) {
    if (manifest.decoding.stretched) return "the method stretches each class's map over the image";
    if (manifest.decoding.class_weights) return "the method weighs classes by the image";
    if (manifest.pads) return "the method pads windows";
    if (manifest.floors && grid.kind == "dynamic") return "the method leaves pixels of whole images out";
    return "";
}

#if !defined(SCCLIP_ONNXRUNTIME)
std::unique_ptr<TextEncoder> OpenTextEncoder(const Bundle&, const TextGraphs&, int) {
    ThrowBackend("class names are embedded with ONNX Runtime, which this build lacks: give a file of `scclip embed`",
                 "backend");
}
#endif

}  // namespace scclip
