#include "onnx_external.hpp"

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

#include "error.hpp"

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

    void Entry(const Span& span, std::set<std::string>* found) const {
        std::string key, value;  // the fields of StringStringEntryProto
        Fields(span, [&](std::uint64_t field, std::size_t first, std::size_t last) {
            std::string text(reinterpret_cast<const char*>(data_) + first, last - first);
            if (field == 1)
                key = std::move(text);
            else if (field == 2)
                value = std::move(text);
        });
        if (key == "location") found->insert(value);
    }

    void Fields(const Span& span, const std::function<void(std::uint64_t, std::size_t, std::size_t)>& visit) const {
        std::size_t position = span.start;
        while (position < span.end) {
            const std::uint64_t tag = Varint(&position), field = tag >> 3U;
            std::uint64_t length = 0;
            switch (tag & 7U) {
                case 0:
                    Varint(&position);
                    break;
                case 1:
                    length = 8;
                    break;
                case 2:
                    length = Varint(&position);
                    break;
                case 5:
                    length = 4;
                    break;
                default:
                    throw std::runtime_error("wire type " + std::to_string(tag & 7U) + " at byte " +
                                             std::to_string(position));
            }
            if (position > span.end || length > span.end - position) {
                throw std::runtime_error("field " + std::to_string(field) + " at byte " + std::to_string(position) +
                                         " runs past its message");
            }
            const auto size = static_cast<std::size_t>(length);
            if ((tag & 7U) == 2) visit(field, position, position + size);
            position += size;
        }
    }

    std::uint64_t Varint(std::size_t* position) const {
        std::uint64_t value = 0;
        for (unsigned shift = 0; shift < 70; shift += 7) {
            if (*position >= size_) throw std::runtime_error("it ends inside a number");
            const unsigned char byte = data_[(*position)++];
            if (shift < 64) value |= static_cast<std::uint64_t>(byte & 0x7FU) << shift;
            if (byte < 0x80) return value;
        }
        throw std::runtime_error("a number of more than ten bytes at byte " + std::to_string(*position));
    }
};

/// A file mapped for reading: the weights inside are stepped over without being read.
class Mapping {
  public:
    explicit Mapping(const std::string& path) {
        const int file = ::open(path.c_str(), O_RDONLY | O_CLOEXEC);
        if (file < 0) throw std::system_error(errno, std::generic_category());
        struct stat status{};
        int problem = ::fstat(file, &status) == 0 ? 0 : errno;
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
    if (size == 0) ThrowBundle(name + " is empty; copy or export the bundle again");
    try {
        return Reader(data, size).Locations();
    } catch (const std::runtime_error& error) {
        ThrowBundle(name + " is no ONNX file (" + error.what() + "); copy or export the bundle again");
    }
}

std::set<std::string> ExternalLocations(const std::string& path) {
    const Mapping file(path);
    return ExternalLocationsIn(file.data(), file.size(), std::filesystem::path(path).filename().string());
}

}  // namespace scclip
