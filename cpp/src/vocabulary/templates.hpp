// Prompts around a class name: those of scclip_rt/vocabulary/templates.json, which is compiled in.
#pragma once

#include <string>
#include <vector>

namespace scclip {

/// The patterns of `imagenet`, `surgery`, `photo` or `none`, one `{}` in each. Throws Error(kVocabulary): another name.
const std::vector<std::string>& Templates(const std::string& name);

/// The pattern with the name in it.
std::string Filled(const std::string& pattern, const std::string& name);

/// The file.
extern const char* const kTemplates;

}  // namespace scclip
