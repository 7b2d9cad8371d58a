// A graph of a bundle for libraries that follow no link out of its folder.
#pragma once

#include <string>

#include "bundle/bundle.hpp"

namespace scclip {

/// The path of a checked graph. Where it or its weights are symbolic links (a download cache keeps files elsewhere),
/// they are brought together in a temporary folder, by hard links where the file system allows; it is removed with this
/// object, and what a library has mapped by then stays. Throws Error(kBundle), as Bundle::CheckedGraph.
class ResolvedGraph {
  public:
    ResolvedGraph(const Bundle& bundle, const std::string& name);
    ~ResolvedGraph();
    ResolvedGraph(const ResolvedGraph&) = delete;
    ResolvedGraph& operator=(const ResolvedGraph&) = delete;
    const std::string& path() const { return path_; }

  private:
    std::string folder_, path_;
};

}  // namespace scclip
