// A vocabulary file (docs/bundle.md): classes, and a unit vector for each of their names.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace scclip {

struct Vocabulary {
    std::vector<float> embeddings;  ///< (queries, embed_dim), unit rows
    std::size_t embed_dim = 0;
    std::vector<std::string> classes;       ///< the first name of each class
    std::vector<std::string> queries;       ///< the name that each row embeds
    std::vector<std::int64_t> query_class;  ///< the class of each row
    std::optional<std::int64_t> background;
    std::string templates, text_model_sha256;

    /// Whether one class is the empty text, which CLIP Surgery compares a single class with, without weights.
    bool HasEmptyText() const { return std::find(queries.begin(), queries.end(), "") != queries.end(); }
};

/// Read and check a vocabulary file. Throws Error(kVocabulary): missing, damaged, of another format, or unsound;
/// the message names the file.
Vocabulary LoadVocabulary(const std::string& path);

/// The same for bytes in memory; messages without the file.
Vocabulary ParseVocabulary(const std::string& bytes);

/// Refuse a vocabulary that another model made. Throws Error(kVocabulary).
void CheckModel(const Vocabulary& vocabulary, const std::string& text_model_sha256, std::size_t embed_dim,
                const std::string& name);

}  // namespace scclip
