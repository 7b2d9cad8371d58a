#include "image_files.hpp"

#include <cstdio>  // before jpeglib.h, which needs FILE

#include <jerror.h>
#include <jpeglib.h>
#include <libexif/exif-data.h>
#include <png.h>

#include <cerrno>
#include <csetjmp>
#include <cstring>
#include <filesystem>
#include <memory>
#include <stdexcept>

namespace {

namespace fs = std::filesystem;

/// An image as it is stored, and what the file says about turning it.
struct Stored {
    Image image;
    std::string exif;
    std::vector<std::uint8_t> raw;  ///< of a PNG: rows as libpng gives them
    int channels = 3, depth = 8;    ///< of `raw`: 1 of 16 bits, or 4 of 8
};

using File = std::unique_ptr<std::FILE, int (*)(std::FILE*)>;

File OpenFile(const std::string& path, const char* mode) {
    File file(std::fopen(path.c_str(), mode), std::fclose);
    if (!file) throw std::runtime_error("can't open " + path + ": " + std::strerror(errno));
    return file;
}

struct JpegErrors {
    jpeg_error_mgr manager;
    std::jmp_buf jump;
    char message[JMSG_LENGTH_MAX];
};

void JpegFailed(j_common_ptr info) {
    auto* errors = reinterpret_cast<JpegErrors*>(info->err);
    (*info->err->format_message)(info, errors->message);
    std::longjmp(errors->jump, 1);
}

/// Warnings are taken in silence, but for a file that ends early: the rest of it would be grey.
void JpegWarned(j_common_ptr info, int level) {
    if (level < 0 && info->err->msg_code == JWRN_JPEG_EOF) JpegFailed(info);
}

/// EXIF may be spread over several markers; the prefix stays on the first.
void KeepMarker(const jpeg_marker_struct& marker, Stored* stored) {
    const std::string data(reinterpret_cast<const char*>(marker.data), marker.data_length);
    const std::string exif("Exif\0\0", 6);
    if (data.compare(0, exif.size(), exif) != 0) return;
    stored->exif += stored->exif.empty() ? data : data.substr(exif.size());
}

/// Before a single pixel is decoded: a header of a few bytes may claim gigabytes.
bool Fits(std::uint64_t height, std::uint64_t width, std::int64_t max_pixels, char* message) {
    if (height * width <= static_cast<std::uint64_t>(max_pixels)) return true;
    std::snprintf(message, JMSG_LENGTH_MAX, "it has %llux%llu pixels, more than --max-pixels %lld",
                  static_cast<unsigned long long>(width), static_cast<unsigned long long>(height),
                  static_cast<long long>(max_pixels));
    return false;
}

/// libjpeg reports errors by longjmp: nothing in here may need a destructor.
bool DecodeJpeg(std::FILE* file, std::int64_t max_pixels, Stored* stored, JpegErrors* errors) {
    jpeg_decompress_struct info;
    info.err = jpeg_std_error(&errors->manager);
    errors->manager.error_exit = JpegFailed;
    errors->manager.emit_message = JpegWarned;
    if (setjmp(errors->jump) != 0) {
        jpeg_destroy_decompress(&info);
        return false;
    }
    jpeg_create_decompress(&info);
    jpeg_stdio_src(&info, file);
    jpeg_save_markers(&info, JPEG_APP0 + 1, 0xFFFF);
    jpeg_read_header(&info, TRUE);
    if (!Fits(info.image_height, info.image_width, max_pixels, errors->message)) std::longjmp(errors->jump, 1);
    for (jpeg_saved_marker_ptr marker = info.marker_list; marker != nullptr; marker = marker->next) {
        KeepMarker(*marker, stored);
    }
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
    Image* image = &stored->image;
    image->height = static_cast<int>(info.output_height);
    image->width = static_cast<int>(info.output_width);
    const std::size_t row = static_cast<std::size_t>(info.output_width) * 3;
    image->pixels.resize(row * info.output_height);
    while (info.output_scanline < info.output_height) {
        JSAMPROW to = image->pixels.data() + row * info.output_scanline;
        jpeg_read_scanlines(&info, &to, 1);
    }
    jpeg_finish_decompress(&info);
    jpeg_destroy_decompress(&info);
    return true;
}

void PngFailed(png_structp png, png_const_charp message) {
    std::snprintf(static_cast<char*>(png_get_error_ptr(png)), JMSG_LENGTH_MAX, "%s", message);
    png_longjmp(png, 1);
}

void PngWarned(png_structp, png_const_charp) {}

/// EXIF may stand before the pixels or after them.
void KeepExif(png_structp png, png_infop info, Stored* stored) {
    png_bytep exif = nullptr;
    png_uint_32 bytes = 0;
    if (png_get_eXIf_1(png, info, &bytes, &exif) == 0) return;
    stored->exif.assign("Exif\0\0", 6);  // which JPEG writes before it, PNG does not, and libexif wants
    stored->exif.append(reinterpret_cast<const char*>(exif), bytes);
}

/// To one channel of 16 bits, or to four of 8. The simplified interface would apply the file's gamma, which Pillow does
/// not. libpng reports errors by longjmp: nothing in here may need a destructor.
bool DecodePng(std::FILE* file, std::int64_t max_pixels, Stored* stored, std::vector<png_bytep>* rows, char* message) {
    png_structp png = png_create_read_struct(PNG_LIBPNG_VER_STRING, message, PngFailed, PngWarned);
    png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr || setjmp(png_jmpbuf(png)) != 0) {
        png_destroy_read_struct(&png, &info, nullptr);
        return false;
    }
    png_init_io(png, file);
    png_read_info(png, info);
    if (!Fits(png_get_image_height(png, info), png_get_image_width(png, info), max_pixels, message)) {
        png_longjmp(png, 1);
    }
    const bool deep = png_get_color_type(png, info) == PNG_COLOR_TYPE_GRAY && png_get_bit_depth(png, info) == 16;
    if (!deep) {
        png_set_strip_16(png);
        png_set_expand(png);
        png_set_gray_to_rgb(png);
        png_set_add_alpha(png, 0xFF, PNG_FILLER_AFTER);
    }
    png_read_update_info(png, info);
    stored->channels = deep ? 1 : 4;
    stored->depth = deep ? 16 : 8;
    stored->image.height = static_cast<int>(png_get_image_height(png, info));
    stored->image.width = static_cast<int>(png_get_image_width(png, info));
    const std::size_t row = png_get_rowbytes(png, info);
    stored->raw.resize(row * static_cast<std::size_t>(stored->image.height));
    for (int y = 0; y < stored->image.height; ++y)
        rows->push_back(stored->raw.data() + row * static_cast<std::size_t>(y));
    png_read_image(png, rows->data());
    png_read_end(png, info);
    KeepExif(png, info, stored);
    png_destroy_read_struct(&png, &info, nullptr);
    return true;
}

/// Over white, in the whole-number arithmetic of Pillow's alpha_composite.
std::uint8_t OverWhite(unsigned value, unsigned alpha) {
    const unsigned sum = (value * alpha + 255 * (255 - alpha) + 128) << 7U;
    return static_cast<std::uint8_t>((((sum >> 8U) + sum) >> 8U) >> 7U);
}

void ToRgb(Stored* stored) {
    const std::vector<std::uint8_t>& raw = stored->raw;
    const std::size_t pixels =
        static_cast<std::size_t>(stored->image.height) * static_cast<std::size_t>(stored->image.width);
    std::vector<std::uint8_t>& rgb = stored->image.pixels;
    rgb.resize(pixels * 3);
    for (std::size_t i = 0; i < pixels; ++i) {
        if (stored->depth == 16) {
            const unsigned grey = raw[2 * i] * 256U + raw[2 * i + 1];
            rgb[3 * i] = rgb[3 * i + 1] = rgb[3 * i + 2] = static_cast<std::uint8_t>((grey * 255 + 32767) / 65535);
            continue;
        }
        for (std::size_t c = 0; c < 3; ++c) rgb[3 * i + c] = OverWhite(raw[4 * i + c], raw[4 * i + 3]);
    }
}

/// The orientation in an EXIF block, 1 to 8; 1, as stored, where it says nothing sound.
int Orientation(const std::string& exif) {
    const std::unique_ptr<ExifData, void (*)(ExifData*)> data(
        exif_data_new_from_data(reinterpret_cast<const unsigned char*>(exif.data()),
                                static_cast<unsigned>(exif.size())),
        exif_data_unref);
    const ExifEntry* entry =
        data == nullptr ? nullptr : exif_content_get_entry(data->ifd[EXIF_IFD_0], EXIF_TAG_ORIENTATION);
    if (entry == nullptr || entry->format != EXIF_FORMAT_SHORT || entry->size < 2) return 1;
    const int value = exif_get_short(entry->data, exif_data_get_byte_order(data.get()));
    return value >= 1 && value <= 8 ? value : 1;
}

/// Turn an image as EXIF's `orientation` says.
Image Upright(Image image, int orientation) {
    if (orientation < 2 || orientation > 8) return image;
    const bool transposed = orientation >= 5;
    const bool rows_back = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
    const bool columns_back = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
    Image turned{transposed ? image.width : image.height, transposed ? image.height : image.width, {}};
    turned.pixels.resize(image.pixels.size());
    std::uint8_t* to = turned.pixels.data();
    for (int y = 0; y < turned.height; ++y) {
        for (int x = 0; x < turned.width; ++x, to += 3) {
            int row = transposed ? x : y, column = transposed ? y : x;
            if (rows_back) row = image.height - 1 - row;
            if (columns_back) column = image.width - 1 - column;
            const std::size_t at = static_cast<std::size_t>(row) * static_cast<std::size_t>(image.width) +
                                   static_cast<std::size_t>(column);
            std::memcpy(to, image.pixels.data() + 3 * at, 3);
        }
    }
    return turned;
}

/// The simplified interface would treat 16 bits as linear light; labels are numbers, so the full one is used. libpng
/// reports errors by longjmp: nothing in here may need a destructor.
bool EncodePng(std::FILE* file, int width, int depth, const std::vector<png_const_bytep>& rows) {
    png_structp png = png_create_write_struct(PNG_LIBPNG_VER_STRING, nullptr, nullptr, nullptr);
    png_infop info = png == nullptr ? nullptr : png_create_info_struct(png);
    if (info == nullptr || setjmp(png_jmpbuf(png)) != 0) {
        png_destroy_write_struct(&png, &info);
        return false;
    }
    png_init_io(png, file);
    png_set_IHDR(png, info, static_cast<png_uint_32>(width), static_cast<png_uint_32>(rows.size()), depth,
                 PNG_COLOR_TYPE_GRAY, PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    png_write_info(png, info);
    if (depth == 16) png_set_swap(png);
    for (const png_const_bytep row : rows) png_write_row(png, row);
    png_write_end(png, info);
    png_destroy_write_struct(&png, &info);
    return true;
}

}  // namespace

Image ReadImage(const std::string& path, std::int64_t max_pixels) {
    const fs::file_status status = fs::status(path);
    if (!fs::exists(status)) throw std::runtime_error("can't read the image " + path + ": there is no such file");
    if (!fs::is_regular_file(status)) {  // a pipe or a device would block
        throw std::runtime_error("can't read the image " + path + ": it is not a regular file");
    }
    const File file = OpenFile(path, "rb");
    unsigned char magic[8] = {};
    const std::size_t size = std::fread(magic, 1, sizeof magic, file.get());
    if (size == 0) throw std::runtime_error("can't read the image " + path + ": the file is empty");
    const bool png = size == sizeof magic && png_sig_cmp(magic, 0, sizeof magic) == 0;
    if (!png && (size < 3 || magic[0] != 0xFF || magic[1] != 0xD8 || magic[2] != 0xFF)) {
        throw std::runtime_error("can't read the image " + path + ": it is neither JPEG nor PNG");
    }
    std::rewind(file.get());
    Stored stored;
    JpegErrors errors{};
    std::vector<png_bytep> rows;
    const bool decoded = png ? DecodePng(file.get(), max_pixels, &stored, &rows, errors.message)
                             : DecodeJpeg(file.get(), max_pixels, &stored, &errors);
    if (!decoded) {
        throw std::runtime_error("can't decode the image " + path + ": " + errors.message);
    }
    if (png) ToRgb(&stored);
    return Upright(std::move(stored.image), Orientation(stored.exif));
}

void WritePng(const std::string& path, int height, int width, const std::vector<std::uint8_t>& labels,
              const std::vector<std::uint16_t>& wide_labels) {
    std::vector<png_const_bytep> rows;
    for (int y = 0; y < height; ++y) {
        const std::size_t at = static_cast<std::size_t>(y) * static_cast<std::size_t>(width);
        const void* row = labels.empty() ? static_cast<const void*>(wide_labels.data() + at) : labels.data() + at;
        rows.push_back(static_cast<png_const_bytep>(row));
    }
    const std::string part = path + ".part";  // so that no half of a file takes the name
    File file = OpenFile(part, "wb");
    const bool written = EncodePng(file.get(), width, labels.empty() ? 16 : 8, rows);
    if (std::fclose(file.release()) != 0 || !written) {
        fs::remove(part);
        throw std::runtime_error("can't write " + path);
    }
    fs::rename(part, path);
}
