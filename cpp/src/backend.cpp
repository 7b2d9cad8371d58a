#include "backend.hpp"

#include <algorithm>
#include <cctype>
#include <set>

#include "engine_choice.hpp"
#include "error.hpp"
#include "selection.hpp"
#include "text.hpp"

namespace scclip {
namespace {

using Opener = std::unique_ptr<Encoder> (*)(const Bundle&, const EncoderRequest&);

struct Backend {
    const char* name;
    Opener open;
};

/// Those compiled in.
const std::vector<Backend>& Backends() {
    static const std::vector<Backend> backends = {
#if defined(SCCLIP_ONNXRUNTIME)
        {"onnxruntime", OpenOnnxRuntime},
#endif
#if defined(SCCLIP_OPENVINO)
        {"openvino", OpenOpenVino},
#endif
#if defined(SCCLIP_TENSORRT)
        {"tensorrt", OpenTensorRt},
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

std::string Names(const std::vector<TensorSpec>& tensors) {
    std::vector<std::string> names;
    for (const TensorSpec& tensor : tensors) names.push_back(tensor.name);
    return Join(names);
}

void CheckTensor(const std::string& file, const TensorSpec& wanted, const TensorSpec& found) {
    bool agrees = wanted.dtype == found.dtype && wanted.shape.size() == found.shape.size();
    for (std::size_t i = 0; agrees && i < wanted.shape.size(); ++i) {
        // A length the exporter could not infer is dynamic in the graph: no contradiction.
        const bool dynamic = std::holds_alternative<std::string>(found.shape[i]);
        agrees = dynamic || wanted.shape[i] == found.shape[i];
    }
    if (agrees) return;
    const std::string graph = found.ToString().substr(found.name.size() + 2);
    ThrowBundle(file + ": tensor " + Quote(wanted.name) + " is " + graph + " in the graph; bundle.json says " +
                wanted.ToString() + ". Export the bundle again");
}

void CheckSide(const GraphSpec& spec, bool input, const std::vector<TensorSpec>& found) {
    const std::vector<TensorSpec>& wanted = input ? spec.inputs : spec.outputs;
    const bool same = found.size() == wanted.size() && std::all_of(found.begin(), found.end(), [&](const auto& tensor) {
                          return spec.Find(input, tensor.name) != nullptr;
                      });
    if (!same) {
        ThrowBundle(spec.file + ": the graph's " + (input ? "inputs" : "outputs") + " are " + Names(found) +
                    "; bundle.json says " + Names(wanted) + ". Export the bundle again");
    }
    for (const TensorSpec& tensor : found) CheckTensor(spec.file, *spec.Find(input, tensor.name), tensor);
}

}  // namespace

Decoded Encoder::Segment(const PreparedImage&, const DecodeInput&, const PlanMaker&) const {
    throw std::logic_error("this encoder does not segment");
}

std::unique_ptr<Encoder> OpenEncoder(const Bundle& bundle, const OpenOptions& options) {
    if (Backends().empty()) ThrowBackend("this build of the library has no backend");
    std::vector<std::string> known;
    for (const Backend& backend : Backends()) known.emplace_back(backend.name);
    if (options.backend != "auto" && std::find(known.begin(), known.end(), options.backend) == known.end()) {
        ThrowBackend("unknown backend " + Quote(options.backend) + "; this version offers: auto, " + Join(known));
    }
    if (options.threads < 0) ThrowOption("threads must be at least 1; got " + std::to_string(options.threads));
    if (options.batch < 0) ThrowOption("batch must be at least 1; got " + std::to_string(options.batch));
    std::set<std::string> held;
    for (const EncoderSpec* spec : GridEncoders(bundle, options.whole_image)) {
        const auto& devices = spec->runs_on;
        if (std::find(devices.begin(), devices.end(), "cpu") != devices.end()) held.insert(spec->precision);
    }
    const auto engine = [&] { return FittingEngine(bundle, options, TensorRt()); };
    const Choice choice = Choose(options, held, ProcessorFlags(), {known.begin(), known.end()}, engine);
    EncoderRequest request{options, choice.reason};
    request.options.precision = choice.precision;
    for (const Backend& backend : Backends()) {
        if (choice.backend == backend.name) return backend.open(bundle, request);
    }
    ThrowBackend("this build of the library has no backend " + Quote(choice.backend) + "; it has: " + Join(known));
}

void CheckGraph(const GraphSpec& spec, const std::vector<TensorSpec>& inputs, const std::vector<TensorSpec>& outputs) {
    CheckSide(spec, true, inputs);
    CheckSide(spec, false, outputs);
}

void CheckFeatures(const float* values, std::size_t count, const std::string& file) {
    float sum = 0;  // only NaN and infinity survive a factor of zero
    for (std::size_t i = 0; i < count; ++i) sum += values[i] * 0.0F;
    if (sum == 0) return;
    ThrowBackend(file +
                 ": features holds NaN or infinity; the weights are damaged or this precision overflows (try "
                 "--precision fp32)");
}

void ThrowInference(const std::string& library, const std::string& file, const RunShapes& shapes,
                    const std::string& reason) {
    const std::string tensors = "windows (" + std::to_string(shapes.count) + ", " + std::to_string(shapes.height) +
                                ", " + std::to_string(shapes.width) + ", 3), text (1, " +
                                std::to_string(shapes.embed_dim) + ")";
    std::string lower = reason;
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (lower.find("alloc") != std::string::npos || lower.find("out of memory") != std::string::npos) {
        ThrowBackend(file + ": out of memory with " + tensors + "; lower --batch or --short-side (" + reason + ")");
    }
    ThrowBackend(file + ": " + library + " failed with " + tensors + ": " + reason);
}

}  // namespace scclip
