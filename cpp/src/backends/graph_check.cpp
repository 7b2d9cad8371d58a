#include "backends/graph_check.hpp"

#include <algorithm>
#include <cctype>

#include "errors.hpp"

namespace scclip {
namespace {

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
                    wanted.ToString() + ". Export the bundle again",
                file);
}

void CheckSide(const GraphSpec& spec, bool input, const std::vector<TensorSpec>& found) {
    const std::vector<TensorSpec>& wanted = input ? spec.inputs : spec.outputs;
    const bool same = found.size() == wanted.size() && std::all_of(found.begin(), found.end(), [&](const auto& tensor) {
                          return spec.Find(input, tensor.name) != nullptr;
                      });
    if (!same) {
        ThrowBundle(spec.file + ": the graph's " + (input ? "inputs" : "outputs") + " are " + Names(found) +
                        "; bundle.json says " + Names(wanted) + ". Export the bundle again",
                    spec.file);
    }
    for (const TensorSpec& tensor : found) CheckTensor(spec.file, *spec.Find(input, tensor.name), tensor);
}

}  // namespace

void CheckGraph(const GraphSpec& spec, const std::vector<TensorSpec>& inputs, const std::vector<TensorSpec>& outputs) {
    CheckSide(spec, true, inputs);
    CheckSide(spec, false, outputs);
}

void CheckFeatures(const float* values, std::size_t count, const std::string& file) {
    float sum = 0;  // only NaN and infinity survive a factor of zero
    for (std::size_t i = 0; i < count; ++i) sum += values[i] * 0.0F;
    if (sum != 0) ThrowNotFinite(file + ": features", file);
}

void ThrowNotFinite(const std::string& what, const std::string& file) {
    ThrowBackend(
        what + " hold NaN or infinity; the weights are damaged or this precision overflows (try precision fp32)", file);
}

void ThrowInference(const std::string& library, const std::string& file, const RunShapes& shapes,
                    const std::string& reason) {
    const std::string tensors = "windows (" + std::to_string(shapes.count) + ", " + std::to_string(shapes.height) +
                                ", " + std::to_string(shapes.width) + ", 3), text (1, " +
                                std::to_string(shapes.embed_dim) + ")";
    std::string lower = reason;
    for (char& c : lower) c = static_cast<char>(std::tolower(static_cast<unsigned char>(c)));
    if (lower.find("alloc") != std::string::npos || lower.find("out of memory") != std::string::npos) {
        ThrowBackend(file + ": out of memory with " + tensors + "; lower batch or short_side (" + reason + ")",
                     "memory");
    }
    ThrowBackend(file + ": " + library + " failed with " + tensors + ": " + reason, file);
}

}  // namespace scclip
