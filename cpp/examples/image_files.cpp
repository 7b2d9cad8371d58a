#include "image_files.hpp"

#include <cstdio>  // before jpeglib.h, which needs FILE

#include <jpeglib.h>
#include <png.h>

#include <cerrno>
#include <csetjmp>
#include <cstring>
#include <memory>
#include <stdexcept>

namespace {

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

void JpegQuiet(j_common_ptr) {}

/// libjpeg reports errors by longjmp: nothing in here may need a destructor.
bool DecodeJpeg(std::FILE* file, Image* image, JpegErrors* errors) {
    jpeg_decompress_struct info;
    info.err = jpeg_std_error(&errors->manager);
    errors->manager.error_exit = JpegFailed;
    errors->manager.output_message = JpegQuiet;
    if (setjmp(errors->jump) != 0) {
        jpeg_destroy_decompress(&info);
        return false;
    }
    jpeg_create_decompress(&info);
    jpeg_stdio_src(&info, file);
    jpeg_read_header(&info, TRUE);
    info.out_color_space = JCS_RGB;
    jpeg_start_decompress(&info);
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

Image ReadPng(const std::string& path) {
    png_image png{};
    png.version = PNG_IMAGE_VERSION;
    if (png_image_begin_read_from_file(&png, path.c_str()) == 0) {
        throw std::runtime_error("can't read " + path + ": " + png.message);
    }
    png.format = PNG_FORMAT_RGB;
    Image image{static_cast<int>(png.height), static_cast<int>(png.width), {}};
    image.pixels.resize(PNG_IMAGE_SIZE(png));
    const png_color white{255, 255, 255};
    if (png_image_finish_read(&png, &white, image.pixels.data(), 0, nullptr) == 0) {
        throw std::runtime_error("can't decode " + path + ": " + png.message);
    }
    return image;
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

Image ReadImage(const std::string& path) {
    const File file = OpenFile(path, "rb");
    unsigned char magic[8] = {};
    const std::size_t size = std::fread(magic, 1, sizeof magic, file.get());
    if (size == sizeof magic && png_sig_cmp(magic, 0, sizeof magic) == 0) return ReadPng(path);
    if (size < 2 || magic[0] != 0xFF || magic[1] != 0xD8) {
        throw std::runtime_error("can't read " + path + ": neither a JPEG nor a PNG file");
    }
    std::rewind(file.get());
    Image image;
    JpegErrors errors{};
    if (!DecodeJpeg(file.get(), &image, &errors)) {
        throw std::runtime_error("can't decode " + path + ": " + errors.message);
    }
    return image;
}

void WritePng(const std::string& path, int height, int width, const std::vector<std::uint8_t>& labels,
              const std::vector<std::uint16_t>& wide_labels) {
    const File file = OpenFile(path, "wb");
    std::vector<png_const_bytep> rows;
    for (int y = 0; y < height; ++y) {
        const std::size_t at = static_cast<std::size_t>(y) * static_cast<std::size_t>(width);
        const void* row = labels.empty() ? static_cast<const void*>(wide_labels.data() + at) : labels.data() + at;
        rows.push_back(static_cast<png_const_bytep>(row));
    }
    if (!EncodePng(file.get(), width, labels.empty() ? 16 : 8, rows)) throw std::runtime_error("can't write " + path);
}
