#include "bundle/hashes.hpp"

#include <fcntl.h>
#include <openssl/evp.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <system_error>
#include <vector>

namespace scclip {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;  // the oldest entries go first

constexpr std::size_t kMaxEntries = 2000;
std::mutex memory_mutex;

fs::path MemoryFile() {
    const std::string folder = CacheFolder();
    return folder.empty() ? fs::path() : fs::path(folder) / "hashes.json";
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

/// An open file, closed when it goes.
class Descriptor {
  public:
    explicit Descriptor(const std::string& path) {
        // O_NONBLOCK: a pipe that took a file's name must not wait for a writer.
        number_ = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (number_ < 0) throw std::system_error(errno, std::generic_category());
        struct stat status{};
        if (::fstat(number_, &status) == 0 && S_ISREG(status.st_mode)) return;
        ::close(number_);
        throw std::system_error(EINVAL, std::generic_category());
    }
    ~Descriptor() { ::close(number_); }
    Descriptor(const Descriptor&) = delete;
    Descriptor& operator=(const Descriptor&) = delete;
    int number() const { return number_; }

  private:
    int number_;
};

}  // namespace

std::string CacheFolder() {
    const char* root = std::getenv("XDG_CACHE_HOME");
    // The XDG specification says that a relative value is to be ignored.
    if (root != nullptr && root[0] == '/') return (fs::path(root) / "scclip-rt").string();
    const char* home = std::getenv("HOME");
    return home == nullptr ? "" : (fs::path(home) / ".cache" / "scclip-rt").string();
}

struct Sha256::Context {
    EVP_MD_CTX* md = EVP_MD_CTX_new();
    ~Context() { EVP_MD_CTX_free(md); }
};

Sha256::Sha256() : context_(std::make_unique<Context>()) {
    if (EVP_DigestInit_ex(context_->md, EVP_sha256(), nullptr) != 1) throw std::runtime_error("OpenSSL has no SHA-256");
}

Sha256::~Sha256() = default;

void Sha256::Update(const void* data, std::size_t size) { EVP_DigestUpdate(context_->md, data, size); }

std::string Sha256::HexDigest() {
    unsigned char digest[32];
    EVP_DigestFinal_ex(context_->md, digest, nullptr);
    std::string text;
    for (const unsigned char byte : digest) {
        for (const int nibble : {byte >> 4, byte & 15}) text += "0123456789abcdef"[nibble];
    }
    return text;
}

std::string Sha256OfFile(const std::string& path) {
    const Descriptor file(path);
    std::vector<char> buffer(std::size_t{1} << 20U);
    Sha256 digest;
    for (;;) {
        const ssize_t count = ::read(file.number(), buffer.data(), buffer.size());
        if (count < 0 && errno == EINTR) continue;
        if (count < 0) throw std::system_error(errno, std::generic_category());
        if (count == 0) return digest.HexDigest();
        digest.Update(buffer.data(), static_cast<std::size_t>(count));
    }
}

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
