// Any bytes as kernels.json: read, or refused with scclip::Error; anything else is a finding.
#include <cstddef>
#include <cstdint>
#include <string>

#include "error.hpp"
#include "kernel_list.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    try {
        (void)scclip::ParseKernelList(std::string(reinterpret_cast<const char*>(data), size));
    } catch (const scclip::Error&) {
        return 0;
    }
    return 0;
}
