#include "hashes.hpp"

#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <system_error>

#include "sha256.hpp"

namespace scclip {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // the oldest entries go first

constexpr std::size_t kMaxEntries = 2000;
std::mutex memory_mutex;

fs::path MemoryFile() {
    const char* root = std::getenv("XDG_CACHE_HOME");
    // The XDG specification says that a relative value is to be ignored.
    if (root != nullptr && root[0] == '/') return fs::path(root) / "scclip-rt" / "hashes.json";
    const char* home = std::getenv("HOME");
    return home == nullptr ? fs::path() : fs::path(home) / ".cache" / "scclip-rt" / "hashes.json";
}

Json ReadMemory() {
    std::ifstream stream(MemoryFile(), std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    Json entries = Json::parse(text, nullptr, false);
    return entries.is_object() ? entries : Json::object();
}

void WriteMemory(const Json& entries) {
    const fs::path file = MemoryFile();
    std::error_code error;
    fs::create_directories(file.parent_path(), error);
    std::string temporary = file.parent_path().string() + "/.tmp-XXXXXX";
    const int descriptor = ::mkstemp(temporary.data());
    if (descriptor < 0) return;
    const std::string text = entries.dump();
    const bool written = ::write(descriptor, text.data(), text.size()) == static_cast<ssize_t>(text.size());
    ::close(descriptor);
    // Renamed whole: at worst another process's entry is lost, and that file is hashed again.
    if (!written || std::rename(temporary.c_str(), file.c_str()) != 0) ::unlink(temporary.c_str());
}

struct stat Status(const std::string& path) {
    struct stat status{};
    if (::stat(path.c_str(), &status) != 0) throw std::system_error(errno, std::generic_category());
    return status;
}

std::string Stamp(const struct stat& status) {
    const long long nanoseconds = static_cast<long long>(status.st_mtim.tv_sec) * 1000000000LL + status.st_mtim.tv_nsec;
    return std::to_string(status.st_size) + ":" + std::to_string(nanoseconds);
}

std::string RealPath(const std::string& path) {
    std::error_code error;
    const fs::path real = fs::canonical(path, error);
    if (error) throw std::system_error(error);
    return real.string();
}

}  // namespace

std::string RememberedSha256(const std::string& path, bool remember) {
    if (!remember) return Sha256OfFile(path);
    const std::string real = RealPath(path);
    const std::string stamp = Stamp(Status(real));
    const std::lock_guard<std::mutex> lock(memory_mutex);
    Json entries = ReadMemory();
    const auto known = entries.find(real);
    if (known != entries.end() && known->is_object() && known->value("stamp", Json()) == stamp &&
        known->value("sha256", Json()).is_string()) {
        return (*known)["sha256"];
    }
    const std::string digest = Sha256OfFile(real);
    if (Stamp(Status(real)) == stamp) {
        entries.erase(real);
        while (entries.size() >= kMaxEntries) entries.erase(entries.begin());
        entries[real] = {{"stamp", stamp}, {"sha256", digest}};
        WriteMemory(entries);
    }
    return digest;
}

void ForgetSha256(const std::string& path) {
    const std::lock_guard<std::mutex> lock(memory_mutex);
    Json entries = ReadMemory();
    std::error_code error;
    if (entries.erase(fs::canonical(path, error).string()) > 0) WriteMemory(entries);
}

}  // namespace scclip
