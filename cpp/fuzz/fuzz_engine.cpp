// Any bytes as an engine's sidecar: read, or a reason why not; anything else is a finding.
#include <cstddef>
#include <cstdint>
#include <string>

#include "engine_sidecar.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const auto read = scclip::ParseSidecar("fuzz", std::string(reinterpret_cast<const char*>(data), size));
    if (read.engine) (void)read.engine->ToString();
    return 0;
}
