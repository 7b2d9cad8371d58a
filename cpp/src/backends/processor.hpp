// What the processor can do.
#pragma once

#include <set>
#include <string>

namespace scclip {

/// The processor's instruction sets as the kernel names them; empty where unknown.
std::set<std::string> ProcessorFlags();

/// Text that is another for another kind of processor: its names and its instruction sets, as in Python.
std::string ProcessorIdentity();

/// The first of the flags with bf16 arithmetic, or with int8 products; empty if there is none.
std::string Bf16Flag(const std::set<std::string>& flags);
std::string Int8Flag(const std::set<std::string>& flags);

}  // namespace scclip
