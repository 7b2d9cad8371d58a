// What `scclip tune` measured on this machine: the file that the Python runtime writes (scclip_rt/backends/tuned.py).
#pragma once

#include <map>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"
#include "scclip/segmenter.hpp"

namespace scclip {

/// One way to run the encoder, and how long it took.
struct Measured {
    std::string grid;  ///< window or whole
    std::string precision, backend;
    int threads = 0, batch = 0;
    double milliseconds = 0;

    /// `310.2 ms an image on 2 threads, 8 windows at once`
    std::string ToString() const;
};

/// What counts here; `rows` is empty where nothing does, and `stale` says why, if anything was measured.
struct Tuned {
    std::vector<Measured> rows;
    std::string stale;

    /// The fastest row that agrees with the options, in this precision (empty: any); null if none does.
    const Measured* Best(const OpenOptions& options, const std::string& precision) const;
};

/// What was measured for a bundle on this processor, if it still counts. `versions`: of the libraries that are compiled
/// in, by backend; rows of others are left out.
Tuned ReadTuned(const Bundle& bundle, const std::map<std::string, std::string>& versions);

/// The text of such a file, held against what is here.
Tuned ParseTuned(const std::string& text, const std::string& bundle_sha256, int cores,
                 const std::map<std::string, std::string>& versions);

/// Where that file is: `tuned/BUNDLE-PROCESSOR.json` in the cache folder; empty where there is none.
std::string TunedFile(const std::string& bundle_sha256);

}  // namespace scclip
