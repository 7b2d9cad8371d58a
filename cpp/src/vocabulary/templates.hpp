// Prompts around a class name: the 80 that CLIP's authors used for ImageNet, or the bare name.
#pragma once

#include <string>
#include <vector>

namespace scclip {

/// The patterns of `imagenet` or `none`, one `{}` in each. Throws Error(kVocabulary): another name.
const std::vector<std::string>& Templates(const std::string& name);

/// The pattern with the name in it.
std::string Filled(const std::string& pattern, const std::string& name);

}  // namespace scclip
