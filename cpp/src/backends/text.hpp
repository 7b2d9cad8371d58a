// The bundle's text encoder.
#pragma once

#include <memory>

#include "bundle/bundle.hpp"
#include "vocabulary/prompts.hpp"

namespace scclip {

/// Load a text encoder of a bundle, the one that resumes if there is one; only where ONNX Runtime is compiled in.
/// `threads` 0: the cores of this process. Throws Error(kBackend) or Error(kBundle).
std::unique_ptr<TextEncoder> OpenTextEncoder(const Bundle& bundle, const TextGraphs& graphs, int threads);

}  // namespace scclip
