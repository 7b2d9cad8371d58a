#include "bundle.hpp"

#include <sys/stat.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <system_error>

#include "error.hpp"
#include "hashes.hpp"
#include "onnx_external.hpp"
#include "sha256.hpp"
#include "text.hpp"

namespace scclip {
namespace {

namespace fs = std::filesystem;

// A manifest is some 10 kB; a bound keeps a mistaken path (a disk image, /dev/zero) from filling the memory.
constexpr std::size_t kMaxManifestBytes = 16U << 20U;

std::string Directory(const std::string& path) {
    // As Python's pathlib writes it: no slash at the end.
    std::string root = path;
    while (root.size() > 1 && root.back() == '/') root.pop_back();
    struct stat status{};
    if (root.empty() || ::lstat(root.c_str(), &status) != 0) {
        ThrowBundle(root + ": no such bundle; make one with `scclip-export … --output " +
                    fs::path(root).filename().string() + "`");
    }
    if (::stat(root.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) {
        ThrowBundle(root + " is a file; a bundle is a directory with a bundle.json in it");
    }
    return root;
}

std::string ReadManifest(const std::string& root) {
    const std::string file = root + "/bundle.json";
    errno = 0;
    std::ifstream stream(file, std::ios::binary);
    if (!stream && errno == ENOENT) ThrowBundle("no bundle.json in it: not a bundle, or an incomplete copy");
    if (!stream) ThrowBundle("bundle.json: " + std::string(std::strerror(errno)));
    std::string text(kMaxManifestBytes + 1, '\0');
    stream.read(text.data(), static_cast<std::streamsize>(text.size()));
    if (stream.bad()) ThrowBundle("bundle.json: " + std::string(std::strerror(errno)));
    text.resize(static_cast<std::size_t>(stream.gcount()));
    if (text.size() > kMaxManifestBytes) ThrowBundle("bundle.json is larger than 16 MiB; not a manifest");
    text.shrink_to_fit();
    return text;
}

/// What lies here is made for particular GPUs. A copy may leave it out, and a damaged one must not keep the other
/// backends from working: whoever uses such a file checks it then (CheckedPath).
bool IsOptional(const std::string& name) {
    return name.compare(0, 8, "engines/") == 0 || name.compare(0, 8, "kernels/") == 0;
}

bool IsWithin(const fs::path& path, const fs::path& root) {
    return std::mismatch(root.begin(), root.end(), path.begin(), path.end()).first == root.end();
}

/// Refuse a path that is absolute, climbs out, or leads outside through a symbolic link.
void CheckInside(const std::string& root, const std::string& name) {
    const fs::path pure(name);
    const bool climbs = std::find(pure.begin(), pure.end(), "..") != pure.end();
    if (pure.is_absolute() || climbs || name.find('\\') != std::string::npos || name.find('\0') != std::string::npos) {
        ThrowBundle("path " + Quote(name) + " leaves the bundle; refused");
    }
    std::error_code error;
    const fs::path base = fs::canonical(root, error);
    const fs::path real = error ? fs::path() : fs::weakly_canonical(fs::path(root) / pure, error);
    if (error) ThrowBundle("path " + Quote(name) + " can't be followed: " + error.message());
    if (!IsWithin(real, base)) {
        ThrowBundle("path " + Quote(name) + " leads out of the bundle through a symbolic link; refused");
    }
}

void CheckSize(const std::string& path, const std::string& name, const FileSpec& spec) {
    struct stat status{};
    const bool found = ::stat(path.c_str(), &status) == 0;
    if (!found && errno != ENOENT && errno != ENOTDIR) ThrowBundle(name + ": " + std::strerror(errno));
    if (!found || !S_ISREG(status.st_mode)) ThrowBundle(name + " is missing; copy or export the bundle again");
    const auto size = static_cast<std::uint64_t>(status.st_size);
    if (size != spec.bytes) {
        ThrowBundle(name + " has " + Thousands(size) + " bytes, bundle.json says " + Thousands(spec.bytes) +
                    ": truncated or changed; copy or export the bundle again");
    }
}

void CheckFiles(const std::string& root, const Manifest& manifest) {
    for (const auto& [name, spec] : manifest.files) {
        CheckInside(root, name);
        if (!IsOptional(name)) CheckSize(root + "/" + name, name, spec);
    }
    for (const std::string& name : manifest.References()) {
        CheckInside(root, name);
        if (manifest.files.count(name) == 0) {
            ThrowBundle("bundle.json names " + Quote(name) + " but does not list it in `files`; export it again");
        }
    }
}

[[noreturn]] void ThrowWrongHash(const std::string& path, const FileSpec& spec, const std::string& found) {
    ThrowBundle(path + ": SHA-256 is " + found.substr(0, 12) + "…, bundle.json says " + spec.sha256.substr(0, 12) +
                "…: the file was changed or damaged; copy or export the bundle again");
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
        ThrowBundle(bundle.path_ + ": " + error.what());
    }
    return bundle;
}

std::string Bundle::CheckedPath(const std::string& name) const {
    const auto spec = manifest_.files.find(name);
    if (spec == manifest_.files.end()) ThrowBundle(path_ + ": " + Quote(name) + " is not listed in bundle.json");
    std::string path = path_ + "/" + name;
    std::string found;
    try {
        found = RememberedSha256(path, remember_hashes_);
    } catch (const std::system_error& error) {
        ThrowBundle(path + ": " + error.code().message());
    }
    if (found != spec->second.sha256) {
        if (remember_hashes_) ForgetSha256(path);
        ThrowWrongHash(path, spec->second, found);
    }
    return path;
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
            const bool absolute = fs::path(location).is_absolute();
            const std::string relative = (fs::path(name).parent_path() / location).lexically_normal().string();
            try {
                CheckInside(path_, absolute ? location : relative);
                if (manifest_.files.count(relative) == 0) {
                    ThrowBundle(Quote(location) + " is not listed in bundle.json");
                }
            } catch (const Error& error) {
                ThrowBundle(path + ": its weights: " + error.what());
            }
            names.push_back(relative);
        }
    } catch (const std::system_error& error) {
        ThrowBundle(path + ": " + error.code().message());
    }
    return names;
}

void Bundle::VerifyAll() const {
    for (const auto& [name, spec] : manifest_.files) {
        const std::string path = path_ + "/" + name;
        struct stat status{};
        if (IsOptional(name) && ::lstat(path.c_str(), &status) != 0) continue;
        std::string found;
        try {
            found = Sha256OfFile(path);
        } catch (const std::system_error& error) {
            ThrowBundle(path + ": " + error.code().message());
        }
        if (found != spec.sha256) ThrowWrongHash(path, spec, found);
    }
    for (const EncoderSpec& encoder : manifest_.encoders) DataFiles(encoder.file);
    DataFiles(manifest_.text_encoder.file);
}

}  // namespace scclip
