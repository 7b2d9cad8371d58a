// The encoder cut for bf16: compiled in float32, so that every processor can tell, the three parts are the whole.
#include <openvino/op/convert.hpp>
#include <openvino/op/parameter.hpp>
#include <openvino/op/result.hpp>

#include "backends/choose.hpp"
#include "backends/openvino/split.hpp"
#include "backends/processor.hpp"
#include "bundle/bundle.hpp"
#include "fixtures.hpp"

using namespace scclip;

namespace {

std::shared_ptr<ov::Model> Read(const std::string& path, bool whole) {
    const Bundle bundle = Bundle::Open(path);
    static ov::Core* const core = new ov::Core();
    return core->read_model(bundle.path() + "/" + GridEncoders(bundle, whole).front()->file);
}

ov::CompiledModel Compiled(const std::shared_ptr<ov::Model>& model, ov::element::Type precision = ov::element::f32) {
    static ov::Core* const core = new ov::Core();
    return core->compile_model(model, "CPU", ov::hint::inference_precision(precision), ov::inference_num_threads(2));
}

std::size_t Count(const ov::Model& model, const std::string& type) {
    std::size_t count = 0;
    for (const auto& node : model.get_ops()) count += node->get_type_name() == type;
    return count;
}

/// Features, then logits.
std::vector<float> Run(CompiledParts& parts, CompiledParts::Requests& requests, std::vector<std::uint8_t>& windows,
                       std::size_t count, std::size_t side, std::vector<float>& text, std::size_t queries) {
    requests.front().set_tensor("windows", ov::Tensor(ov::element::u8, {count, side, side, 3}, windows.data()));
    requests.back().set_tensor("text", ov::Tensor(ov::element::f32, {queries, text.size() / queries}, text.data()));
    parts.Infer(requests);
    std::vector<float> values;
    for (const char* name : {"features", "logits"}) {
        const ov::Tensor tensor = requests.back().get_tensor(name);
        values.insert(values.end(), tensor.data<float>(), tensor.data<float>() + tensor.get_size());
    }
    return values;
}

}  // namespace

TEST_CASE("the anomaly stage is cut out whole, and the parts in float32 are the encoder") {
    const std::string bundle = Fixtures()["bundle"];
    const Manifest manifest = Bundle::Open(bundle).manifest();
    for (const bool whole : {false, true}) {
        CAPTURE(whole);
        const auto split = SplitEncoder(Read(bundle, whole));
        REQUIRE(split.has_value());
        // Distances (one product) and the two selections.
        CHECK(Count(*split->stage, "TopK") == 2);
        CHECK(Count(*split->stage, "MatMul") == 1);
        CHECK(Count(*split->trunk, "TopK") + Count(*split->tail, "TopK") == 0);
        CHECK(split->stage->outputs().size() == 1);
        const ov::CompiledModel stage = Compiled(split->stage);
        CHECK(NarrowNodes(stage).empty());

        CompiledParts one({Compiled(Read(bundle, whole))});
        CompiledParts three({Compiled(split->trunk), stage, Compiled(split->tail)});
        auto one_request = one.NewRequests(), requests = three.NewRequests();
        CHECK(requests.size() == 3);
        const auto side = static_cast<std::size_t>(manifest.window),
                   embed = static_cast<std::size_t>(manifest.embed_dim);
        for (const std::size_t count : {1U, 3U, 2U}) {  // a request's tensors follow the batch
            auto windows = Pattern(count * side * side * 3, count);
            std::vector<float> text(2 * embed);
            text[1] = text[embed + count] = 1;
            const auto expected = Run(one, one_request, windows, count, side, text, 2);
            const auto found = Run(three, requests, windows, count, side, text, 2);
            REQUIRE(found.size() == expected.size());
            float gap = 0;
            for (std::size_t i = 0; i < found.size(); ++i) gap = std::max(gap, std::abs(found[i] - expected[i]));
            CHECK(gap < 1e-5F);
        }
    }
}

TEST_CASE("an encoder without anomalies is not cut") {
    CHECK_FALSE(SplitEncoder(Read(FixturePath("bundles/sound"), false)).has_value());
}

TEST_CASE("nodes that run narrower than float32 are read back") {
    const auto input = std::make_shared<ov::op::v0::Parameter>(ov::element::f32, ov::PartialShape{1, 64});
    const auto narrow = std::make_shared<ov::op::v0::Convert>(input, ov::element::f16);
    const auto result = std::make_shared<ov::op::v0::Result>(narrow);
    const auto model = std::make_shared<ov::Model>(ov::ResultVector{result}, ov::ParameterVector{input}, "narrow");
    CHECK_FALSE(NarrowNodes(Compiled(model)).empty());
    if (Bf16Flag(ProcessorFlags()).empty()) return;
    const auto split = SplitEncoder(Read(Fixtures()["bundle"], false));
    CHECK_FALSE(NarrowNodes(Compiled(split->trunk, ov::element::bf16)).empty());
}
