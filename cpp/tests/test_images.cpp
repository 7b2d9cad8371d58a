// The example's image files: read as the Python runtime reads them, or refused in its words.
#include <algorithm>
#include <stdexcept>

#include "../examples/exif.hpp"
#include "../examples/image_files.hpp"
#include "fixtures.hpp"

TEST_CASE("files give Python's pixels, turned as they say") {
    for (const auto& item : Fixtures()["image_files"]) {
        const std::string path = item["path"];
        CAPTURE(path);
        const Image image = ReadImage(path);
        const auto expected = Array<std::uint8_t>(item["pixels"]);
        CHECK(image.height == item["pixels"]["shape"][0].get<int>());
        CHECK(image.width == item["pixels"]["shape"][1].get<int>());
        REQUIRE(image.pixels.size() == expected.size());
        int gap = 0;
        for (std::size_t i = 0; i < expected.size(); ++i) gap = std::max(gap, std::abs(image.pixels[i] - expected[i]));
        CHECK(gap <= item["tolerance"].get<int>());
    }
    CHECK(Fixtures()["image_files"].size() > 35);
}

TEST_CASE("what is no image is refused in Python's words") {
    for (const auto& item : Fixtures()["image_refusals"]) {
        const std::string path = item["path"], expected = item["message"];
        std::string found;
        try {
            ReadImage(path);
        } catch (const std::runtime_error& error) {
            found = error.what();
        }
        // The reason is the decoder's own, and so is the list of formats.
        const std::string decode = "can't decode " + path + ": ", unknown = "not an image in a known format";
        if (expected.compare(0, decode.size(), decode) == 0) {
            const std::string hint = "; the file may be damaged or cut off";
            CHECK(found.compare(0, decode.size(), decode) == 0);
            CHECK(found.substr(found.find(';')) == hint);
        } else if (expected.find(unknown) != std::string::npos) {
            CHECK(found.substr(0, found.find(" (")) == expected.substr(0, expected.find(" (")));
        } else {
            CHECK(found == expected);
        }
    }
}

TEST_CASE("EXIF blocks, damaged ones too, say what Pillow finds in them") {
    const std::string bytes = ReadBytes(FixturePath("exif/blocks"));
    std::size_t at = 0, turned = 0;
    for (const auto& item : Fixtures()["exif"]) {
        const std::string block = bytes.substr(at, item[0].get<std::size_t>());
        at += block.size();
        CAPTURE(at);
        CHECK(Orientation(block, "") == item[1].get<int>());
        turned += item[1] != 1;
    }
    CHECK(at == bytes.size());
    CHECK(turned > 300);
    CHECK(Fixtures()["exif"].size() - turned > 300);
}

TEST_CASE("XMP is asked where EXIF says nothing") {
    const std::string exif("Exif\0\0II*\0\x08\0\0\0\0\0", 16);
    CHECK(Orientation(exif, "tiff:Orientation=\"6\"") == 6);
    CHECK(Orientation("", "tiff:Orientation tiff:Orientation>3<") == 3);
    CHECK(Orientation("", "tiff:Orientation=\"9\"") == 1);
    CHECK(Orientation("", "tiff:Orientation=\"") == 1);
    CHECK(Orientation("damaged", "tiff:Orientation=\"6\"") == 1);
}
