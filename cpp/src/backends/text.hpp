// The bundle's text encoder.
#pragma once

#include "bundle/bundle.hpp"
#include "vocabulary/embedding.hpp"

namespace scclip {

/// Load the text encoder of a bundle; only where ONNX Runtime is compiled in. `threads` 0: the cores of this process.
/// Throws Error(kBackend) or Error(kBundle).
EncodeText OpenTextEncoder(const Bundle& bundle, int threads);

}  // namespace scclip
