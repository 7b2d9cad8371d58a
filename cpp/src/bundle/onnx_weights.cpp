#include "bundle/onnx_weights.hpp"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <map>
#include <stdexcept>
#include <system_error>
#include <vector>

#include "errors.hpp"

namespace scclip {
namespace {

enum class Kind { kModel, kTraining, kFunction, kGraph, kNode, kAttribute, kSparse, kTensor, kEntry };

// Message type → field number → type of the nested message (onnx.proto, stable since IR version 3).
const std::map<std::uint64_t, Kind>& Nested(Kind kind) {
    static const std::map<Kind, std::map<std::uint64_t, Kind>> kNested = {
        {Kind::kModel, {{7, Kind::kGraph}, {20, Kind::kTraining}, {25, Kind::kFunction}}},
        {Kind::kTraining, {{1, Kind::kGraph}, {2, Kind::kGraph}}},
        {Kind::kFunction, {{7, Kind::kNode}, {11, Kind::kAttribute}}},
        {Kind::kGraph, {{1, Kind::kNode}, {5, Kind::kTensor}, {15, Kind::kSparse}}},
        {Kind::kNode, {{5, Kind::kAttribute}}},
        {Kind::kAttribute,
         {{5, Kind::kTensor},
          {6, Kind::kGraph},
          {10, Kind::kTensor},
          {11, Kind::kGraph},
          {22, Kind::kSparse},
          {23, Kind::kSparse}}},
        {Kind::kSparse, {{1, Kind::kTensor}, {2, Kind::kTensor}}},
        {Kind::kTensor, {{13, Kind::kEntry}}},
    };
    return kNested.at(kind);
}

struct Span {
    Kind kind;
    std::size_t start, end;
};

class Reader {
  public:
    Reader(const unsigned char* data, std::size_t size) : data_(data), size_(size) {}

    std::set<std::string> Locations() const {
        std::set<std::string> found;
        // A stack instead of recursion: nested graphs in a hostile file must not exhaust ours.
        std::vector<Span> stack = {{Kind::kModel, 0, size_}};
        while (!stack.empty()) {
            const Span span = stack.back();
            stack.pop_back();
            if (span.kind == Kind::kEntry) {
                Entry(span, &found);
                continue;
            }
            const auto& nested = Nested(span.kind);
            Fields(span, [&](std::uint64_t field, std::size_t first, std::size_t last) {
                const auto kind = nested.find(field);
                if (kind != nested.end()) stack.push_back({kind->second, first, last});
            });
        }
        return found;
    }

  private:
    const unsigned char* data_;
    std::size_t size_;

    /// A StringStringEntryProto: one key and one value, or whoever reads it next might take another of them.
    void Entry(const Span& span, std::set<std::string>* found) const {
        std::string parts[2];
        int seen[2] = {0, 0};
        Fields(span, [&](std::uint64_t field, std::size_t first, std::size_t last) {
            if (field != 1 && field != 2) return;
            parts[field - 1].assign(reinterpret_cast<const char*>(data_) + first, last - first);
            ++seen[field - 1];
        });
        if (seen[0] != 1 || seen[1] != 1)
            throw std::runtime_error("an entry of a tensor's data has not one key and one value");
        if (parts[0] == "location") found->insert(parts[1]);
    }

    /// Calls `visit` with the fields that have a length. Other forms than protobuf's writers give are refused: readers
    /// differ on them, so that a file could name weights to a library that it does not name here.
    void Fields(const Span& span, const std::function<void(std::uint64_t, std::size_t, std::size_t)>& visit) const {
        const bool is_entry = span.kind == Kind::kEntry;
        std::size_t position = span.start;
        while (position < span.end) {
            const std::uint64_t tag = Varint(&position), field = tag >> 3U, type = tag & 7U;
            if (field == 0 || field >= 1U << 29U)
                throw std::runtime_error("no field has the number " + std::to_string(field));
            const bool message = is_entry ? field <= 2 : Nested(span.kind).count(field) != 0;
            if (type == 3 || type == 4 || type > 5 || (message && type != 2)) {
                throw std::runtime_error("field " + std::to_string(field) + " has wire type " + std::to_string(type));
            }
            std::uint64_t length = type == 1 ? 8 : type == 5 ? 4 : 0;
            if (type == 0) Varint(&position, false);
            if (type == 2) length = Varint(&position);
            if (position > span.end || length > span.end - position) {
                throw std::runtime_error("field " + std::to_string(field) + " at byte " + std::to_string(position) +
                                         " runs past its message");
            }
            const auto size = static_cast<std::size_t>(length);
            if (type == 2) visit(field, position, position + size);
            position += size;
        }
    }

    /// A number of at most ten bytes; tags and lengths in their shortest form.
    std::uint64_t Varint(std::size_t* position, bool shortest = true) const {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 70; shift += 7) {
            if (*position >= size_) throw std::runtime_error("it ends inside a number");
            const unsigned char byte = data_[(*position)++];
            if (shift < 64) value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
            if (byte < 0x80) {
                if (shortest && byte == 0 && shift > 0) throw std::runtime_error("a number is longer than it need be");
                return value;
            }
        }
        throw std::runtime_error("a number of more than ten bytes at byte " + std::to_string(*position));
    }
};

/// A file mapped for reading: the weights inside are stepped over without being read.
class Mapping {
  public:
    explicit Mapping(const std::string& path) {
        const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
        if (file < 0) throw std::system_error(errno, std::generic_category());
        struct stat status{};
        int problem = ::fstat(file, &status) != 0 ? errno : S_ISREG(status.st_mode) ? 0 : EINVAL;
        size_ = static_cast<std::size_t>(status.st_size);
        if (problem == 0 && size_ > 0) {
            data_ = ::mmap(nullptr, size_, PROT_READ, MAP_PRIVATE, file, 0);
            if (data_ == MAP_FAILED) problem = errno;
        }
        ::close(file);
        if (problem != 0) throw std::system_error(problem, std::generic_category());
    }
    ~Mapping() {
        if (size_ > 0) ::munmap(data_, size_);
    }
    Mapping(const Mapping&) = delete;
    Mapping& operator=(const Mapping&) = delete;
    const unsigned char* data() const { return static_cast<const unsigned char*>(data_); }
    std::size_t size() const { return size_; }

  private:
    void* data_ = nullptr;
    std::size_t size_ = 0;
};

}  // namespace

std::set<std::string> ExternalLocationsIn(const unsigned char* data, std::size_t size, const std::string& name) {
    if (size == 0) ThrowBundle(name + " is empty; copy or export the bundle again", name);
    try {
        return Reader(data, size).Locations();
    } catch (const std::runtime_error& error) {
        ThrowBundle(name + " is no ONNX file (" + error.what() + "); copy or export the bundle again", name);
    }
}

std::set<std::string> ExternalLocations(const std::string& path) {
    const Mapping file(path);
    return ExternalLocationsIn(file.data(), file.size(), std::filesystem::path(path).filename().string());
}

}  // namespace scclip
