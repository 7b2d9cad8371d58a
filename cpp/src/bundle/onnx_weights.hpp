// Which data files an ONNX file refers to, found without loading it: a walk over the protobuf wire format that
// steps over weights and needs no protobuf library.
#pragma once

#include <set>
#include <string>

namespace scclip {

/// The `location` of every tensor stored outside an ONNX file, exactly as written in it.
/// Throws Error(kBundle) if the file is empty or no protobuf message, std::system_error if it can't be read.
std::set<std::string> ExternalLocations(const std::string& path);

/// The same for bytes in memory; `name` is for messages.
std::set<std::string> ExternalLocationsIn(const unsigned char* data, std::size_t size, const std::string& name);

}  // namespace scclip
