// Any bytes as an ONNX file: read, or refused with scclip::Error; anything else is a finding.
#include <cstddef>
#include <cstdint>
#include <string>

#include "error.hpp"
#include "onnx_external.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        (void)scclip::ExternalLocationsIn(data, size, "fuzz");
    } catch (const scclip::Error&) {
        return 0;
    }
    return 0;
}
