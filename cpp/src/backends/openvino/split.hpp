// An encoder cut in three for OpenVINO's bf16, so that the anomaly stage computes in float32 (METHOD §2); as in Python.
//
// Under the inference precision bf16 the CPU plug-in narrows every node it can. bf16 has 8 bits of mantissa, and the
// distances ‖a‖² + ‖b‖² − 2ab cancel. The plug-in knows a mark against that, but its own passes drop it where they
// rewrite a node (2026.4). So the stage becomes a model of its own, compiled in float32, and what was compiled is read
// back.
#pragma once

#include <memory>
#include <openvino/openvino.hpp>
#include <optional>
#include <string>
#include <vector>

namespace scclip {

/// Three models that together are the encoder; a part takes tensors by the name that an earlier part gives them.
struct EncoderSplit {
    std::shared_ptr<ov::Model> trunk;  ///< windows to the residual stream, and what else doesn't depend on outliers
    std::shared_ptr<ov::Model> stage;  ///< the residual stream to the outliers' indices
    std::shared_ptr<ov::Model> tail;   ///< all of these, and text, to features and logits
};

/// Cut a model around its anomaly stage; nothing if it has none of a known form. The model is used up.
///
/// The stage is found by its form: selections (TopK) over values made from the product of a tensor with its own
/// transpose, and all between them and the residual stream, from which that tensor is centred.
std::optional<EncoderSplit> SplitEncoder(const std::shared_ptr<ov::Model>& model);

/// Float nodes of a compiled model that run narrower than float32, a line each: name, kind, precision. Integers
/// (indices, masks) don't count.
std::vector<std::string> NarrowNodes(const ov::CompiledModel& compiled);

/// An encoder as one compiled model, or as the parts of a split that run one after the other.
class CompiledParts {
  public:
    /// What one call at a time runs on: a request for each part.
    using Requests = std::vector<ov::InferRequest>;

    explicit CompiledParts(std::vector<ov::CompiledModel> parts);
    Requests NewRequests();

    /// Run the parts in order; a part's outputs are the next parts' inputs, without a copy. `windows` is the first
    /// part's, `text` and the encoder's outputs are the last one's.
    void Infer(Requests& requests) const;

  private:
    struct Link {
        std::size_t source, target;  // parts
        std::string name;            // of the tensor
    };
    std::vector<ov::CompiledModel> parts_;
    std::vector<Link> links_;
};

}  // namespace scclip
