// Prompts to vectors: in batches of like length, and what they begin with only once.
//
// The text tower is causal, so the keys and values of a template's words before the class name are the same for every
// name. They are computed once; then a prompt costs its name, what follows it and the end token.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <vector>

namespace scclip {

/// Token ids, start and end tokens included, of which the first `beginning` are the same for other names.
struct Prompt {
    std::vector<std::int64_t> ids;
    std::size_t beginning = 0;
};

/// Rows of token ids of one length, zeros after the end.
struct TokenRows {
    std::vector<std::int64_t> ids;
    std::size_t rows = 0;

    std::size_t length() const { return rows == 0 ? 0 : ids.size() / rows; }
};

/// What the text encoder computed of the beginnings of texts.
struct KnownTokens {
    std::vector<float> values;          ///< (layers, 2, beginnings, heads, tokens, width): keys and values, padded
    std::vector<std::int64_t> lengths;  ///< tokens of each beginning
    std::size_t layers = 0, heads = 0, tokens = 0, width = 0;

    /// These beginnings, and then the others.
    KnownTokens Joined(const KnownTokens& other) const;
};

/// A bundle's text encoder, loaded. Vectors have unit length.
class TextEncoder {
  public:
    virtual ~TextEncoder() = default;

    /// Whole texts: (rows, length) to `embed_dim` floats a row. Throws Error(kBackend).
    virtual std::vector<float> Encode(const TokenRows& tokens) const = 0;

    /// Whether the two functions below are there.
    virtual bool resumes() const { return false; }

    /// Beginnings of texts; zeros stand behind the shorter ones. Throws Error(kBackend).
    virtual KnownTokens KeysAndValues(const TokenRows& tokens) const;

    /// Texts whose beginnings are known: what follows them, and which of them each row goes on from. Throws
    /// Error(kBackend).
    virtual std::vector<float> Resume(const TokenRows& tokens, const KnownTokens& known,
                                      const std::vector<std::int64_t>& beginnings) const;
};

/// A text encoder with the beginnings that it has met.
class PromptEncoder {
  public:
    explicit PromptEncoder(const TextEncoder& text, std::size_t embed_dim) : text_(text), embed_dim_(embed_dim) {}

    /// `embed_dim` floats for each prompt, in their order. Throws Error(kBackend).
    std::vector<float> operator()(const std::vector<Prompt>& prompts);

  private:
    const TextEncoder& text_;
    std::size_t embed_dim_;
    std::map<std::vector<std::int64_t>, std::int64_t> place_;
    KnownTokens known_;

    std::vector<float> Batch(const std::vector<const Prompt*>& prompts);
    void Learn(const std::vector<std::vector<std::int64_t>>& beginnings);
};

}  // namespace scclip
