// libFuzzer's entry for the reader that SCCLIP_FUZZ names.
#include <cstddef>
#include <cstdint>

#include "readers.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    static const Reader reader = Readers().at(SCCLIP_FUZZ);
    reader(std::string(reinterpret_cast<const char*>(data), size));
    return 0;
}
