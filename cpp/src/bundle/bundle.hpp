// Opening a bundle: docs/bundle.md's rules of reading, before a single graph is loaded.
#pragma once

#include <string>
#include <vector>

#include "bundle/manifest.hpp"

namespace scclip {

/// A bundle whose manifest, paths and sizes have been checked; hashes are checked when a file is used.
class Bundle {
  public:
    /// Throws Error(kBundle): whatever docs/bundle.md refuses, in one line that says what and where.
    static Bundle Open(const std::string& path, bool remember_hashes = true);

    const std::string& path() const { return path_; }
    const Manifest& manifest() const { return manifest_; }

    /// The path of a listed file whose content has its SHA-256. Throws Error(kBundle).
    std::string CheckedPath(const std::string& name) const;

    /// The content of such a file. Throws Error(kBundle).
    std::string Read(const std::string& name) const;

    /// The path of an ONNX file, with the weight files it refers to checked as well. Throws Error(kBundle).
    std::string CheckedGraph(const std::string& name) const;

    /// The weight files that an ONNX file of the bundle refers to. Throws Error(kBundle): one is not listed or outside.
    std::vector<std::string> DataFiles(const std::string& name) const;

  private:
    std::string path_;
    Manifest manifest_;
    bool remember_hashes_ = true;
};

}  // namespace scclip
