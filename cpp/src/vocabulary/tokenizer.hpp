// CLIP's byte-pair tokenizer, read from a bundle's tokenizer.json.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <unordered_map>
#include <vector>

#include "vocabulary/clean.hpp"

namespace scclip {

class Tokenizer {
  public:
    /// Read the contents of tokenizer.json. Throws Error(kBundle): not JSON, or another kind of tokenizer than CLIP's.
    static Tokenizer Parse(const std::string& json);

    /// Token ids of a text, cleaned first, start and end included, of any length. Throws Error(kVocabulary), as Clean.
    std::vector<std::int64_t> Encode(const std::string& text) const;

  private:
    std::unordered_map<std::string, std::int64_t> ids_;
    std::unordered_map<std::string, std::size_t> ranks_;  // of "first second"
    std::int64_t start_ = 0, end_ = 0;

    void AppendWord(const std::string& word, std::vector<std::int64_t>* out) const;
};

}  // namespace scclip
