// The example's image files: read as the Python runtime reads them, or refused.
#include <algorithm>
#include <stdexcept>

#include "../examples/image_files.hpp"
#include "fixtures.hpp"

TEST_CASE("files give Python's pixels, turned as they say") {
    for (const auto& item : Fixtures()["image_files"]) {
        const std::string path = item["path"];
        CAPTURE(path);
        const Image image = ReadImage(path, 1000000);
        const auto expected = Array<std::uint8_t>(item["pixels"]);
        CHECK(image.height == item["pixels"]["shape"][0].get<int>());
        CHECK(image.width == item["pixels"]["shape"][1].get<int>());
        REQUIRE(image.pixels.size() == expected.size());
        int gap = 0;
        for (std::size_t i = 0; i < expected.size(); ++i) gap = std::max(gap, std::abs(image.pixels[i] - expected[i]));
        CHECK(gap <= item["tolerance"].get<int>());
    }
    CHECK(Fixtures()["image_files"].size() > 30);
}

TEST_CASE("what is no image is refused, with its path") {
    for (const std::string path : Fixtures()["image_refusals"]) {
        CAPTURE(path);
        CHECK_THROWS_WITH_AS(ReadImage(path, 1000000), doctest::Contains(path.c_str()), std::runtime_error);
    }
    CHECK(Fixtures()["image_refusals"].size() == 7);
}

TEST_CASE("an image's size is checked before it is decoded") {
    for (const auto& item : Fixtures()["image_claims"]) {  // files of some bytes that claim 30,000 × 30,000 pixels
        const std::string path = item;
        CHECK_THROWS_WITH_AS(ReadImage(path, 128000000), doctest::Contains("30000x30000"), std::runtime_error);
    }
    CHECK(Fixtures()["image_claims"].size() == 2);
}
