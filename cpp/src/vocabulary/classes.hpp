// Class names: read from text, compared, found.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace scclip {

/// For each class its names; the first one is the class's.
using ClassNames = std::vector<std::vector<std::string>>;

/// Read a list such as "sky; grass, lawn": classes between semicolons or line ends, their names between commas. It is
/// always names, never a file. Throws Error(kVocabulary): no class, an empty name, a name that two classes claim.
ClassNames ParseClasses(const std::string& list);

/// The same checks for names that are given one by one; a class's own repetitions are dropped.
ClassNames CheckedClasses(const ClassNames& classes);

/// The index of the class of that first name (white space and case aside); none for `none`. Throws Error(kVocabulary):
/// no class has that name.
std::optional<std::int64_t> FindBackground(const std::vector<std::string>& classes, const std::string& background);

}  // namespace scclip
