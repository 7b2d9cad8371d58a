// CLIP's own preparation of text: unescape HTML, repair what editors do to characters, collapse white space, lower
// case.
#pragma once

#include <string>
#include <vector>

namespace scclip {

using CodePoints = std::vector<char32_t>;

/// UTF-8 to code points and back. Throws Error(kVocabulary): not UTF-8.
CodePoints FromUtf8(const std::string& text);
std::string ToUtf8(const CodePoints& text);

/// Text as Python's `scclip_rt.vocabulary.tokenizer.clean` gives it (ftfy's rules, NFC, lower case). Throws
/// Error(kVocabulary) for what it would repair by guessing and this library does not: UTF-8 that was read as Latin-1 or
/// Windows-1252, rare HTML entities.
std::string Clean(const std::string& text);

/// Names that CLIP can't tell apart have one key.
std::string Key(const std::string& name);

bool IsLetter(char32_t c);
bool IsDigitLike(char32_t c);  ///< \p{N}

}  // namespace scclip
