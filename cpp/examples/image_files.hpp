// Image files for the example; the library itself takes pixels.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

struct Image {
    int height = 0, width = 0;
    std::vector<std::uint8_t> pixels;  ///< (height, width, 3) RGB
};

/// Read a JPEG or PNG file as the Python runtime does: RGB of 8 bits, transparency over white, turned as EXIF says
/// (Python also looks into XMP). The size is checked before pixels are decoded. Throws std::runtime_error.
Image ReadImage(const std::string& path, std::int64_t max_pixels);

/// Write (height, width) labels as a grey PNG of 8 bits, or 16; whole or not at all. Throws std::runtime_error.
void WritePng(const std::string& path, int height, int width, const std::vector<std::uint8_t>& labels,
              const std::vector<std::uint16_t>& wide_labels);
