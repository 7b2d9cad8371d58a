// Any bytes as an image's EXIF block, and as its XMP packet: an orientation from 1 to 8; anything else is a finding.
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <string>

#include "../examples/exif.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    const std::string text(reinterpret_cast<const char*>(data), size);
    const int turned = Orientation(text, text);
    if (turned < 1 || turned > 8) std::abort();
    return 0;
}
