// How an image file says that it is to be turned: EXIF, else XMP; read as Pillow 13 reads them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>

/// The value of the orientation tag in an EXIF block: a TIFF file, with or without the prefix "Exif\0\0". Nothing if
/// there is none, 0 if it is no whole number. Never reads outside `data`. Throws std::runtime_error: no TIFF file.
std::optional<std::int64_t> ExifOrientation(const std::uint8_t* data, std::size_t size);

/// The same from an XMP packet.
std::optional<std::int64_t> XmpOrientation(const std::string& xmp);

/// What both together say: 1 to 8; 1, as stored, where nothing sound is said.
int Orientation(const std::string& exif, const std::string& xmp);
