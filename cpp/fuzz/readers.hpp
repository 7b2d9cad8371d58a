// The readers of files that nobody vouches for, one function each: any bytes are read, or refused with scclip::Error.
#pragma once

#include <map>
#include <string>

using Reader = void (*)(const std::string& bytes);

/// By name: the folders of corpus.tar.xz.
const std::map<std::string, Reader>& Readers();
