#include "exif.hpp"

#include <array>
#include <set>
#include <stdexcept>

namespace {

constexpr std::uint16_t kOrientation = 0x0112;
constexpr std::size_t kEntry = 12;  // bytes of a tag: number, type, count, value or its place

// By TIFF's number of a type: bytes of a value, 0 if it is unknown.
constexpr std::array<std::uint8_t, 17> kSizes = {0, 1, 1, 2, 4, 8, 1, 1, 2, 4, 8, 4, 8, 4, 0, 0, 8};

/// Bytes that are read in the file's order; asking for more than there are is refused.
struct Reader {
    const std::uint8_t* data;
    std::size_t size;
    bool big;

    bool Has(std::uint64_t at, std::uint64_t count) const { return at <= size && count <= size - at; }
    std::uint64_t Number(std::uint64_t at, std::size_t bytes) const {
        std::uint64_t number = 0;
        for (std::size_t i = 0; i < bytes; ++i) {
            number |= std::uint64_t{data[at + (big ? bytes - 1 - i : i)]} << (8 * i);
        }
        return number;
    }
};

/// The first of the values at a place; 0 for a type that is no whole number.
std::int64_t Value(const Reader& file, std::uint64_t at, std::uint64_t type) {
    switch (type) {
        case 3:
            return static_cast<std::int64_t>(file.Number(at, 2));
        case 4:
        case 13:
            return static_cast<std::int64_t>(file.Number(at, 4));
        case 6:
            return static_cast<std::int8_t>(file.Number(at, 1));
        case 8:
            return static_cast<std::int16_t>(file.Number(at, 2));
        case 9:
            return static_cast<std::int32_t>(file.Number(at, 4));
        case 16:
            return static_cast<std::int64_t>(file.Number(at, 8));
        default:
            return 0;
    }
}

}  // namespace

std::optional<std::int64_t> ExifOrientation(const std::uint8_t* data, std::size_t size) {
    const std::string prefix("Exif\0\0", 6);
    for (int i = 0; i < 2 && size >= 6 && prefix.compare(0, 6, reinterpret_cast<const char*>(data), 6) == 0; ++i) {
        data += 6, size -= 6;
    }
    if (size == 0) return std::nullopt;
    const bool little = size >= 8 && data[0] == 'I' && data[1] == 'I';
    const bool big = size >= 8 && data[0] == 'M' && data[1] == 'M';
    const Reader file{data, size, big};
    // 42 in either order of bytes: files are found with the wrong one.
    if (!(little || big) || !(file.Number(2, 2) == 42 || file.Number(2, 2) == 42U << 8U)) {
        throw std::runtime_error("no TIFF file");
    }
    std::uint64_t at = file.Number(4, 4), outside = 0;
    if (!file.Has(at, 2)) return std::nullopt;
    const std::uint64_t tags = file.Number(at, 2);
    std::set<std::uint64_t> seen;
    at += 2;
    // A directory that is cut off counts as far as it goes.
    for (std::uint64_t i = 0; i < tags && file.Has(at, kEntry); ++i, at += kEntry) {
        const std::uint64_t tag = file.Number(at, 2), type = file.Number(at + 2, 2);
        if (seen.count(tag) != 0 || type >= kSizes.size() || kSizes[type] == 0) continue;
        const std::uint64_t bytes = file.Number(at + 4, 4) * kSizes[type];
        std::uint64_t place = at + 8;
        if (bytes > 4) {
            outside += bytes;
            if (outside > size) continue;
            place = file.Number(place, 4);
            if (!file.Has(place, bytes)) return std::nullopt;  // Pillow reads no further
        }
        if (bytes == 0) continue;
        if (tag == kOrientation) return Value(file, place, type);
        seen.insert(tag);
    }
    return std::nullopt;
}

std::optional<std::int64_t> XmpOrientation(const std::string& xmp) {
    const std::string name = "tiff:Orientation";
    for (std::size_t at = xmp.find(name); at != std::string::npos; at = xmp.find(name, at + 1)) {
        std::size_t digit = at + name.size();
        if (xmp.compare(digit, 2, "=\"") == 0) {
            digit += 2;
        } else if (xmp.compare(digit, 1, ">") == 0) {
            digit += 1;
        } else {
            continue;
        }
        if (digit < xmp.size() && xmp[digit] >= '0' && xmp[digit] <= '9') return xmp[digit] - '0';
    }
    return std::nullopt;
}

int Orientation(const std::string& exif, const std::string& xmp) {
    try {
        auto found = ExifOrientation(reinterpret_cast<const std::uint8_t*>(exif.data()), exif.size());
        if (!found) found = XmpOrientation(xmp);
        return found && *found >= 1 && *found <= 8 ? static_cast<int>(*found) : 1;
    } catch (const std::runtime_error&) {
        return 1;  // a damaged block: viewers show such images as stored
    }
}
