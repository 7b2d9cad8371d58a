// Class names to a vocabulary: every name in every template, encoded and averaged (METHOD §3).
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "vocabulary/classes.hpp"
#include "vocabulary/file.hpp"
#include "vocabulary/prompts.hpp"
#include "vocabulary/tokenizer.hpp"

namespace scclip {

/// `embed_dim` floats for each prompt.
using EncodePrompts = std::function<std::vector<float>(const std::vector<Prompt>& prompts)>;

struct TextModel {
    const Tokenizer& tokenizer;
    EncodePrompts encode;
    std::size_t embed_dim = 0, context_length = 0;
    std::string model_sha256;
};

/// Embed checked class names. `alone`: one class without a background is compared with the empty text, as CLIP Surgery
/// does. Throws Error(kVocabulary): a name has no tokens or too many, no such background, or an embedding that is not
/// finite.
Vocabulary EmbedClasses(const ClassNames& classes, const TextModel& model, const std::string& templates,
                        const std::optional<std::string>& background, bool alone);

}  // namespace scclip
