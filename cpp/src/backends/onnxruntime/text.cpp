// The text encoder on ONNX Runtime, on the CPU: a vocabulary is embedded once.
#include "backends/text.hpp"

#include <string>
#include <utility>

#include "backends/onnxruntime/session.hpp"
#include "decode/threads.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

constexpr auto kFloat = ONNX_TENSOR_ELEMENT_DATA_TYPE_FLOAT;
constexpr auto kInt64 = ONNX_TENSOR_ELEMENT_DATA_TYPE_INT64;

std::int64_t Signed(std::size_t size) { return static_cast<std::int64_t>(size); }

class OrtText : public TextEncoder {
  public:
    OrtText(const Bundle& bundle, const GraphSpec& graph, int threads)
        : embed_dim_(static_cast<std::size_t>(bundle.manifest().embed_dim)),
          file_(graph.file),
          session_(LoadSession(bundle, graph, Provider(), threads > 0 ? threads : DefaultThreads())) {}

    std::vector<float> Encode(const TokenRows& tokens) const override {
        Run run(*this);
        run.Tokens(tokens);
        return run.Embeddings(tokens.rows);
    }

  protected:
    /// One run of the session: its tensors lie over memory that the caller keeps.
    class Run {
      public:
        explicit Run(const OrtText& text) : text_(text) {}

        void Tokens(const TokenRows& tokens) {
            Whole("tokens", tokens.ids, {Signed(tokens.rows), Signed(tokens.length())});
        }

        void Whole(const char* name, const std::vector<std::int64_t>& values, const std::vector<std::int64_t>& shape) {
            // ONNX Runtime takes inputs through a pointer that is not const, and does not write to them.
            Add(name, text_.tensors_.Over(const_cast<std::int64_t*>(values.data()), shape, kInt64, 8), &inputs_);
        }
        void Known(const KnownTokens& known) {
            const std::vector<std::int64_t> shape = {Signed(known.layers),         2,
                                                     Signed(known.lengths.size()), Signed(known.heads),
                                                     Signed(known.tokens),         Signed(known.width)};
            Add("past", text_.tensors_.Over(const_cast<float*>(known.values.data()), shape, kFloat, 4), &inputs_);
            Whole("past_lengths", known.lengths, {Signed(known.lengths.size())});
        }
        void Output(const std::string& name, float* data, const std::vector<std::int64_t>& shape) {
            Add(name, text_.tensors_.Over(data, shape, kFloat, 4), &outputs_);
        }
        std::vector<float> Embeddings(std::size_t rows) {
            std::vector<float> out(rows * text_.embed_dim_);
            Output("embeddings", out.data(), {Signed(rows), Signed(text_.embed_dim_)});
            Start();
            return out;
        }
        void Start() {
            const auto problem =
                TakeOrt(Api().Run(text_.session_.get(), nullptr, inputs_.names().data(), inputs_.values().data(),
                                  inputs_.size(), outputs_.names().data(), outputs_.size(), outputs_.values().data()));
            if (!problem.empty()) ThrowBackend(text_.file_ + ": ONNX Runtime failed: " + problem, text_.file_);
        }

      private:
        struct Named {
            std::vector<std::string> strings;
            std::vector<Owned<OrtValue>> owned;

            std::size_t size() const { return strings.size(); }
            std::vector<const char*> names() const {
                std::vector<const char*> pointers;
                for (const std::string& name : strings) pointers.push_back(name.c_str());
                return pointers;
            }
            std::vector<OrtValue*> values() const {
                std::vector<OrtValue*> pointers;
                for (const auto& value : owned) pointers.push_back(value.get());
                return pointers;
            }
        };
        static void Add(const std::string& name, Owned<OrtValue> value, Named* named) {
            named->strings.push_back(name);
            named->owned.push_back(std::move(value));
        }

        const OrtText& text_;
        Named inputs_, outputs_;
    };

  private:
    std::size_t embed_dim_;
    std::string file_;
    Owned<OrtSession> session_;
    HostTensors tensors_;
};

class OrtResumingText final : public OrtText {
  public:
    OrtResumingText(const Bundle& bundle, const GraphSpec& graph, int threads) : OrtText(bundle, graph, threads) {
        const std::vector<Length>& past = graph.Find(true, "past")->shape;
        const auto size = [&](std::size_t axis) {
            return static_cast<std::size_t>(std::get<std::int64_t>(past[axis]));
        };
        nothing_.layers = size(0), nothing_.heads = size(3), nothing_.width = size(5), nothing_.tokens = 1;
        nothing_.lengths = {0};
        nothing_.values.resize(nothing_.layers * 2 * nothing_.heads * nothing_.width);
    }

    bool resumes() const override { return true; }

    std::vector<float> Encode(const TokenRows& tokens) const override {
        return Resume(tokens, nothing_, std::vector<std::int64_t>(tokens.rows));
    }

    KnownTokens KeysAndValues(const TokenRows& tokens) const override {
        KnownTokens known{{}, {}, nothing_.layers, nothing_.heads, tokens.length(), nothing_.width};
        const std::size_t each = tokens.rows * known.heads * known.tokens * known.width;
        known.values.resize(known.layers * 2 * each);
        const std::vector<std::int64_t> beginnings(tokens.rows);
        Run run(*this);
        Feed(tokens, nothing_, beginnings, &run);
        float* to = known.values.data();
        for (std::size_t layer = 0; layer < known.layers; ++layer) {
            for (const char* part : {".key", ".value"}) {
                run.Output("present." + std::to_string(layer) + part, to,
                           {Signed(tokens.rows), Signed(known.heads), Signed(known.tokens), Signed(known.width)});
                to += each;
            }
        }
        run.Start();
        return known;
    }

    std::vector<float> Resume(const TokenRows& tokens, const KnownTokens& known,
                              const std::vector<std::int64_t>& beginnings) const override {
        Run run(*this);
        Feed(tokens, known, beginnings, &run);
        return run.Embeddings(tokens.rows);
    }

  private:
    KnownTokens nothing_;  // a beginning of no tokens

    static void Feed(const TokenRows& tokens, const KnownTokens& known, const std::vector<std::int64_t>& beginnings,
                     Run* run) {
        run->Tokens(tokens);
        run->Known(known);
        run->Whole("beginnings", beginnings, {Signed(beginnings.size())});
    }
};

}  // namespace

std::unique_ptr<TextEncoder> OpenTextEncoder(const Bundle& bundle, const TextGraphs& graphs, int threads) {
    if (graphs.resumed) return std::make_unique<OrtResumingText>(bundle, *graphs.resumed, threads);
    return std::make_unique<OrtText>(bundle, graphs, threads);
}

}  // namespace scclip
