// The range of every numeric option, in one table; what lies outside is refused when it is given.
#pragma once

#include <cstdint>
#include <string>

#include "scclip/segmenter.hpp"

namespace scclip {

struct OptionRange {
    const char* name;
    double least, most;
    bool whole;          ///< whole numbers alone
    bool zero_is_unset;  ///< 0 stands for "the default" in OpenOptions
};

/// The range of an option, null if it has none.
const OptionRange* FindRange(const std::string& name);

/// The value, if it lies in the option's range. Throws Error(kOption).
double InRange(const std::string& name, double value);

/// Check every number that a bundle is opened with. Throws Error(kOption).
void CheckRanges(const OpenOptions& options);

}  // namespace scclip
