#include "backends/openvino/split.hpp"

#include <algorithm>
#include <deque>
#include <map>
#include <openvino/op/constant.hpp>
#include <openvino/op/parameter.hpp>
#include <openvino/op/result.hpp>
#include <set>
#include <sstream>
#include <utility>

namespace scclip {
namespace {

using Nodes = std::vector<ov::Node*>;
using NodeSet = std::set<const ov::Node*>;

bool IsA(const ov::Node* node, const char* type) { return node->get_type_name() == std::string(type); }

Nodes Producers(const ov::Node* node) {
    Nodes producers;
    for (std::size_t i = 0; i < node->get_input_size(); ++i) producers.push_back(node->get_input_node_ptr(i));
    return producers;
}

Nodes Consumers(const ov::Node* node) {
    Nodes consumers;
    for (const auto& output : node->outputs()) {
        for (const auto& target : output.get_target_inputs()) consumers.push_back(target.get_node());
    }
    return consumers;
}

/// `start` and all that `step` leads to.
NodeSet Reach(Nodes start, Nodes (*step)(const ov::Node*)) {
    NodeSet seen;
    while (!start.empty()) {
        const ov::Node* node = start.back();
        start.pop_back();
        if (!seen.insert(node).second) continue;
        const Nodes next = step(node);
        start.insert(start.end(), next.begin(), next.end());
    }
    return seen;
}

ov::Node* ThroughLayout(ov::Node* node) {
    while (IsA(node, "Transpose") || IsA(node, "Reshape") || IsA(node, "Convert")) node = node->get_input_node_ptr(0);
    return node;
}

/// The nearest product above a selection, if it multiplies a tensor with its own transpose; else null.
ov::Node* SelfProduct(ov::Node* selection) {
    std::deque<ov::Node*> pending = {selection};
    NodeSet seen;
    while (!pending.empty()) {
        ov::Node* node = pending.front();
        pending.pop_front();
        if (!seen.insert(node).second) continue;
        if (IsA(node, "MatMul")) {
            const bool self = ThroughLayout(node->get_input_node_ptr(0)) == ThroughLayout(node->get_input_node_ptr(1));
            return self ? node : nullptr;
        }
        const Nodes producers = Producers(node);
        pending.insert(pending.end(), producers.begin(), producers.end());
    }
    return nullptr;
}

/// The operand of a subtraction of the mean that the mean is made from; else null.
ov::Node* ResidualStream(const ov::Node* centred) {
    const Nodes producers = Producers(centred);
    for (ov::Node* node : producers) {
        for (ov::Node* other : producers) {
            if (other != node && Reach({other}, Producers).count(node) != 0) return node;
        }
    }
    return nullptr;
}

/// The parts in the order they run in, and what crosses from one to another.
struct Cut {
    enum Part { kTrunk, kStage, kTail };
    NodeSet stage, tail;
    std::map<Part, ov::ParameterVector> parameters;
    std::map<Part, ov::ResultVector> results;

    Part Of(const ov::Node* node) const {
        if (stage.count(node) != 0) return kStage;
        return tail.count(node) != 0 ? kTail : kTrunk;
    }

    /// Where a value is used in other parts, put a parameter there and a result here, of one name.
    void Cross(ov::Output<ov::Node> value) {
        const Part here = Of(value.get_node());
        const std::string name = value.get_node()->get_name() + "." + std::to_string(value.get_index());
        std::map<Part, std::shared_ptr<ov::op::v0::Parameter>> entries;
        for (ov::Input<ov::Node> target : value.get_target_inputs()) {
            const Part there = Of(target.get_node());
            if (there == here) continue;
            auto& entry = entries[there];
            if (!entry) {
                entry = std::make_shared<ov::op::v0::Parameter>(value.get_element_type(), value.get_partial_shape());
                entry->output(0).set_names({name});
                parameters[there].push_back(entry);
            }
            target.replace_source_output(entry->output(0));
        }
        if (entries.empty()) return;
        value.add_names({name});
        results[here].push_back(std::make_shared<ov::op::v0::Result>(value));
    }

    std::shared_ptr<ov::Model> Made(Part part, const char* name) {
        return std::make_shared<ov::Model>(results[part], parameters[part], name);
    }
};

EncoderSplit Apply(const ov::Model& model, Cut cut) {
    const ov::NodeVector nodes = model.get_ordered_ops();
    for (const auto& parameter : model.get_parameters()) cut.parameters[cut.Of(parameter.get())].push_back(parameter);
    for (const auto& result : model.get_results()) cut.results[cut.Of(result.get())].push_back(result);
    // What is made from constants alone is shared: every part has its own view of it. Handed over as a tensor, weights
    // and axes would be no constants to the plug-in, which then computes norms without its kernels.
    Nodes parameters;
    for (const auto& parameter : model.get_parameters()) parameters.push_back(parameter.get());
    const NodeSet computed = Reach(parameters, Consumers);
    for (const auto& node : nodes) {
        if (computed.count(node.get()) == 0 || IsA(node.get(), "Result")) continue;
        for (const auto& value : node->outputs()) cut.Cross(value);
    }
    return {cut.Made(Cut::kTrunk, "trunk"), cut.Made(Cut::kStage, "stage"), cut.Made(Cut::kTail, "tail")};
}

std::string Info(const ov::Node& node, const char* key) {
    const auto& info = node.get_rt_info();
    const auto found = info.find(key);
    return found == info.end() ? "" : found->second.as<std::string>();
}

bool IsNarrow(const std::string& precision) {
    static const std::set<std::string> narrow = {"bf16", "f16", "i8", "i4", "u4"};
    return narrow.count(precision) != 0;
}

}  // namespace

std::optional<EncoderSplit> SplitEncoder(const std::shared_ptr<ov::Model>& model) {
    Nodes selections, ends;
    for (const auto& node : model->get_ordered_ops()) {
        if (IsA(node.get(), "TopK")) selections.push_back(node.get());
    }
    ov::Node* product = nullptr;
    for (std::size_t i = 0; i < selections.size() && product == nullptr; ++i) product = SelfProduct(selections[i]);
    if (product == nullptr) return std::nullopt;
    const ov::Node* stream = ResidualStream(ThroughLayout(product->get_input_node_ptr(0)));
    if (stream == nullptr) return std::nullopt;

    Cut cut;
    const NodeSet above = Reach(selections, Producers), below = Reach(Consumers(stream), Consumers);
    std::set_intersection(above.begin(), above.end(), below.begin(), below.end(),
                          std::inserter(cut.stage, cut.stage.end()));
    cut.stage.insert(product);
    for (const auto& node : model->get_ordered_ops()) {
        if (cut.stage.count(node.get()) != 0) ends.push_back(node.get());
    }
    for (const auto& parameter : model->get_parameters()) {
        if (parameter->output(0).get_names().count("text") != 0) ends.push_back(parameter.get());
    }
    for (const ov::Node* node : Reach(ends, Consumers)) {
        if (cut.stage.count(node) == 0) cut.tail.insert(node);
    }
    return Apply(*model, std::move(cut));
}

std::vector<std::string> NarrowNodes(const ov::CompiledModel& compiled) {
    std::vector<std::string> found;
    for (const auto& node : compiled.get_runtime_model()->get_ordered_ops()) {
        const std::string kind = Info(*node, "layerType"), precision = Info(*node, "runtimePrecision");
        if (kind == "Const" || kind == "Input") continue;
        // A comparison or a masked choice reports the type of its mask (u8); what it gives is in outputPrecisions.
        bool narrow = precision == "bf16" || precision == "f16";
        std::istringstream outputs(Info(*node, "outputPrecisions"));
        for (std::string output; std::getline(outputs, output, ',');) narrow = narrow || IsNarrow(output);
        if (narrow) found.push_back(node->get_friendly_name() + " (" + kind + "): " + precision);
    }
    return found;
}

CompiledParts::CompiledParts(std::vector<ov::CompiledModel> parts) : parts_(std::move(parts)) {
    for (std::size_t target = 0; target < parts_.size(); ++target) {
        std::set<std::string> wanted;
        for (const auto& input : parts_[target].inputs())
            wanted.insert(input.get_names().begin(), input.get_names().end());
        for (std::size_t source = 0; source < target; ++source) {
            for (const auto& output : parts_[source].outputs()) {
                for (const std::string& name : output.get_names()) {
                    if (wanted.erase(name) != 0) links_.push_back({source, target, name});
                }
            }
        }
    }
}

CompiledParts::Requests CompiledParts::NewRequests() {
    Requests requests;
    for (ov::CompiledModel& part : parts_) requests.push_back(part.create_infer_request());
    return requests;
}

void CompiledParts::Infer(Requests& requests) const {
    for (std::size_t part = 0; part < requests.size(); ++part) {
        for (const Link& link : links_) {
            if (link.target == part) requests[part].set_tensor(link.name, requests[link.source].get_tensor(link.name));
        }
        requests[part].infer();
    }
}

}  // namespace scclip
