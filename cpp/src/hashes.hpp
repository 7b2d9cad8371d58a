// SHA-256 of bundle files, remembered by path, size and modification time in the file the Python runtime keeps.
#pragma once

#include <string>

namespace scclip {

/// SHA-256 of a file; with `remember`, from memory if it was hashed on this machine at this size and time. A
/// memory that can't be read or written is no error. Throws std::system_error if the file can't be read.
std::string RememberedSha256(const std::string& path, bool remember);

/// Drop a file from the memory, so that one that failed its check is read again next time.
void ForgetSha256(const std::string& path);

}  // namespace scclip
