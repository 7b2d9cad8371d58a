// What the processor can do.
#pragma once

#include <set>
#include <string>

namespace scclip {

/// The processor's instruction sets as the kernel names them; empty where unknown.
std::set<std::string> ProcessorFlags();

/// "AuthenticAMD", "GenuineIntel", …; empty where the kernel doesn't say.
std::string ProcessorVendor();

/// Text that is another for another kind of processor: its names and its instruction sets, as in Python.
std::string ProcessorIdentity();

/// The first of the flags with bf16 arithmetic, or with int8 products; empty if there is none.
std::string Bf16Flag(const std::set<std::string>& flags);
std::string Int8Flag(const std::set<std::string>& flags);

/// The first of the flags that make a model faster in bf16 than in float32, by Python's rule (docs/backends.md).
std::string GainingBf16Flag(const std::set<std::string>& flags, const std::string& vendor);

}  // namespace scclip
