// The text encoder on ONNX Runtime, on the CPU: a vocabulary is embedded once.
#include "backends/text.hpp"
#include "backends/onnxruntime/session.hpp"
#include "decode/threads.hpp"
#include "errors.hpp"

namespace scclip {

EncodeText OpenTextEncoder(const Bundle& bundle, int threads) {
    const TextEncoderSpec& spec = bundle.manifest().text_encoder;
    const std::shared_ptr<OrtSession> session(
        LoadSession(bundle, spec, Provider(), threads > 0 ? threads : DefaultThreads()));
    const auto embed_dim = static_cast<std::size_t>(bundle.manifest().embed_dim);
    return [session, embed_dim, file = spec.file](const std::vector<std::int64_t>& tokens, std::size_t rows) {
        const HostTensors tensors;
        const auto count = static_cast<std::int64_t>(rows), length = static_cast<std::int64_t>(tokens.size()) / count;
        std::vector<float> out(rows * embed_dim);
        // ONNX Runtime takes inputs through a pointer that is not const, and does not write to them.
        const Owned<OrtValue> input = tensors.Over(const_cast<std::int64_t*>(tokens.data()), {count, length},
                                                   ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64, 8);
        const Owned<OrtValue> output = tensors.Over(out.data(), {count, static_cast<std::int64_t>(embed_dim)},
                                                    ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT, 4);
        const char *input_name = "tokens", *output_name = "embeddings";
        const OrtValue* inputs[] = {input.get()};
        OrtValue* outputs[] = {output.get()};
        const std::string problem =
            TakeOrt(Api().Run(session.get(), nullptr, &input_name, inputs, 1, &output_name, 1, outputs));
        if (!problem.empty()) ThrowBackend(file + ": ONNX Runtime failed: " + problem, file);
        return out;
    };
}

}  // namespace scclip
