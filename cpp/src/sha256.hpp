// SHA-256 (FIPS 180-4), so that the core needs no cryptography library.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>

namespace scclip {

class Sha256 {
  public:
    Sha256();
    void Update(const void* data, std::size_t size);
    /// 64 lower-case hexadecimal digits; the object is then used up.
    std::string HexDigest();

  private:
    std::array<std::uint32_t, 8> state_;
    std::array<std::uint8_t, 64> block_{};
    std::size_t held_ = 0;
    std::uint64_t total_ = 0;
};

/// Of a whole file. Throws std::system_error if it can't be read.
std::string Sha256OfFile(const std::string& path);

}  // namespace scclip
