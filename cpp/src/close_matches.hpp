// "Did you mean …": the names that Python's difflib.get_close_matches finds, in its order.
#pragma once

#include <string>
#include <vector>

namespace scclip {

/// Up to three of `names` that are alike (ratio of at least 0.6), the most alike first.
std::vector<std::string> CloseMatches(const std::string& name, const std::vector<std::string>& names);

}  // namespace scclip
