// SHA-256 of bundle files, remembered by path, size and modification time in the file the Python runtime keeps.
#pragma once

#include <cstddef>
#include <memory>
#include <string>

namespace scclip {

class Sha256 {
  public:
    Sha256();
    ~Sha256();
    Sha256(const Sha256&) = delete;
    Sha256& operator=(const Sha256&) = delete;
    void Update(const void* data, std::size_t size);
    /// 64 lower-case hexadecimal digits; the object is then used up.
    std::string HexDigest();

  private:
    struct Context;
    std::unique_ptr<Context> context_;
};

/// The folder for what may be lost, shared with the Python runtime: `$XDG_CACHE_HOME/scclip-rt`, else
/// `~/.cache/scclip-rt`; empty where there is no home.
std::string CacheFolder();

/// Of a whole file; one that is no regular file is not opened. Throws std::system_error if it can't be read.
std::string Sha256OfFile(const std::string& path);

/// SHA-256 of a file; with `remember`, from memory if it was hashed on this machine at this size and time. A
/// memory that can't be read or written is no error. Throws std::system_error if the file can't be read.
std::string RememberedSha256(const std::string& path, bool remember);

/// Drop a file from the memory, so that one that failed its check is read again next time.
void ForgetSha256(const std::string& path);

}  // namespace scclip
