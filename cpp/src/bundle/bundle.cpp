#include "bundle/bundle.hpp"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "bundle/hashes.hpp"
#include "bundle/onnx_weights.hpp"
#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

namespace fs = std::filesystem;

// A manifest is some 10 kB; a bound keeps a mistaken path (a disk image, /dev/zero) from filling the memory.
constexpr std::size_t kMaxManifestBytes = 16U << 20U;

std::string Directory(const std::string& path) {
    // As Python's pathlib writes it: no slash at the end.
    std::string root = path;
    while (root.size() > 1 && root.back() == '/') root.pop_back();
    std::error_code error;
    if (root.empty() || !fs::exists(root, error)) {
        ThrowBundle(root + ": no such bundle; make one with `scclip-export --output BUNDLE`", "bundle");
    }
    if (!fs::is_directory(root, error)) {
        ThrowBundle(root + " is a file; a bundle is a directory with a bundle.json in it", "bundle");
    }
    return root;
}

/// A regular file is there; a pipe or a device is not even opened.
bool IsFile(const std::string& path) {
    std::error_code error;
    return fs::is_regular_file(path, error);
}

std::string ReadManifest(const std::string& root) {
    const std::string file = root + "/bundle.json";
    std::error_code error;
    if (!fs::exists(file, error))
        ThrowBundle("no bundle.json in it: not a bundle, or an incomplete copy", "bundle.json");
    if (!IsFile(file)) ThrowBundle("bundle.json is no regular file", "bundle.json");
    std::ifstream stream(file, std::ios::binary);
    std::string text(kMaxManifestBytes + 1, '\0');
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (!stream.is_open() || stream.bad()) ThrowBundle("bundle.json can't be read", "bundle.json");
    text.resize(static_cast<std::size_t>(stream.gcount()));
    if (text.size() > kMaxManifestBytes)
        ThrowBundle("bundle.json is larger than 16 MiB; not a manifest", "bundle.json");
    text.shrink_to_fit();
    return text;
}

/// What lies here is made for particular GPUs. A copy may leave it out, and a damaged one must not keep the other
/// backends from working: whoever uses such a file checks it then (CheckedPath).
bool IsOptional(const std::string& name) {
    return name.compare(0, 8, "engines/") == 0 || name.compare(0, 8, "kernels/") == 0;
}

/// Refuse a name that is absolute or climbs out. A symbolic link may lead anywhere (a download cache keeps its files
/// elsewhere): what it leads to must have the listed hash before it is used.
void CheckInside(const std::string& name) {
    const fs::path pure(name);
    const bool climbs = std::find(pure.begin(), pure.end(), "..") != pure.end();
    if (pure.is_absolute() || climbs || name.find('\\') != std::string::npos || name.find('\0') != std::string::npos) {
        ThrowBundle("path " + Quote(name) + " leaves the bundle; refused", name);
    }
}

void CheckSize(const std::string& path, const std::string& name, const FileSpec& spec) {
    if (!IsFile(path)) ThrowBundle(name + " is missing or no regular file; copy or export the bundle again", name);
    std::error_code error;
    const std::uintmax_t size = fs::file_size(path, error);
    if (error || size != spec.bytes) {
        ThrowBundle(name + " has " + std::to_string(size) + " bytes, bundle.json says " + std::to_string(spec.bytes) +
                        ": truncated or changed; copy or export the bundle again",
                    name);
    }
}

void CheckFiles(const std::string& root, const Manifest& manifest) {
    for (const auto& [name, spec] : manifest.files) {
        CheckInside(name);
        if (!IsOptional(name)) CheckSize(root + "/" + name, name, spec);
    }
    for (const std::string& name : manifest.References()) {
        CheckInside(name);
        if (manifest.files.count(name) == 0) {
            ThrowBundle("bundle.json names " + Quote(name) + " but does not list it in `files`; export it again", name);
        }
    }
}

[[noreturn]] void ThrowWrongHash(const std::string& path, const std::string& name, const FileSpec& spec,
                                 const std::string& found) {
    ThrowBundle(path + ": SHA-256 is " + found.substr(0, 12) + "…, bundle.json says " + spec.sha256.substr(0, 12) +
                    "…: the file was changed or damaged; copy or export the bundle again",
                name);
}

}  // namespace

Bundle Bundle::Open(const std::string& path, bool remember_hashes) {
    Bundle bundle;
    bundle.path_ = Directory(path);
    bundle.remember_hashes_ = remember_hashes;
    try {
        bundle.manifest_ = ParseManifest(ReadManifest(bundle.path_));
        CheckFiles(bundle.path_, bundle.manifest_);
    } catch (const Error& error) {
        ThrowBundle(bundle.path_ + ": " + error.what(), error.field);
    }
    return bundle;
}

std::string Bundle::CheckedPath(const std::string& name) const {
    const auto spec = manifest_.files.find(name);
    if (spec == manifest_.files.end()) ThrowBundle(path_ + ": " + Quote(name) + " is not listed in bundle.json", name);
    std::string path = path_ + "/" + name;
    if (!IsFile(path)) ThrowBundle(path + ": missing or no regular file; copy or export the bundle again", name);
    std::string found;
    try {
        found = RememberedSha256(path, remember_hashes_);
    } catch (const std::system_error& error) {
        ThrowBundle(path + ": " + error.code().message(), name);
    }
    if (found != spec->second.sha256) {
        if (remember_hashes_) ForgetSha256(path);
        ThrowWrongHash(path, name, spec->second, found);
    }
    return path;
}

std::string Bundle::Read(const std::string& name) const {
    std::ifstream stream(CheckedPath(name), std::ios::binary);
    return {std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()};
}

std::string Bundle::CheckedGraph(const std::string& name) const {
    std::string path = CheckedPath(name);
    for (const std::string& data : DataFiles(name)) CheckedPath(data);
    return path;
}

std::vector<std::string> Bundle::DataFiles(const std::string& name) const {
    const std::string path = path_ + "/" + name;
    std::vector<std::string> names;
    try {
        for (const std::string& location : ExternalLocations(path)) {
            const fs::path pure(location);
            const std::string relative = (fs::path(name).parent_path() / pure).lexically_normal().string();
            // Only the plain form: what "sub/../x" means depends on where links lead.
            if (pure.is_absolute() || pure.lexically_normal() != pure || *pure.begin() == "..") {
                ThrowBundle(path + ": its weights: path " + Quote(location) + " leaves the bundle; refused", name);
            }
            if (manifest_.files.count(relative) == 0) {
                ThrowBundle(path + ": its weights: " + Quote(location) + " is not listed in bundle.json", name);
            }
            CheckInside(relative);
            names.push_back(relative);
        }
    } catch (const std::system_error& error) {
        ThrowBundle(path + ": " + error.code().message(), name);
    }
    return names;
}

}  // namespace scclip
