// Hashes, words, sizes and pixels.
#include "fixtures.hpp"
#include "geometry.hpp"
#include "interpolation.hpp"
#include "resize.hpp"
#include "sha256.hpp"
#include "text.hpp"

using namespace scclip;

namespace {

std::string Digest(const std::string& text) {
    Sha256 digest;
    digest.Update(text.data(), text.size());
    return digest.HexDigest();
}

}  // namespace

TEST_CASE("SHA-256 gives the standard's examples") {
    CHECK(Digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(Digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    CHECK(Digest("abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq") ==
          "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1");
    CHECK(Digest(std::string(1000000, 'a')) == "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0");
}

TEST_CASE("SHA-256 does not depend on how the bytes arrive") {
    const auto bytes = Pattern(1000, 3);
    const std::string text(bytes.begin(), bytes.end());
    for (std::size_t step = 1; step < 200; step += 7) {
        Sha256 digest;
        for (std::size_t at = 0; at < text.size(); at += step) {
            digest.Update(text.data() + at, std::min(step, text.size() - at));
        }
        CHECK(digest.HexDigest() == Digest(text));
    }
}

TEST_CASE("words are formatted as Python formats them") {
    CHECK(Quote("it's") == "\"it's\"");
    CHECK(Quote("a\"'\n") == "'a\"\\'\\n'");
    CHECK(Quote(std::string("a\0b", 3)) == "'a\\x00b'");
    CHECK(FloatRepr(40) == "40.0");
    CHECK(FloatRepr(0.1) == "0.1");
    CHECK(FloatRepr(1e16) == "1e+16");
    CHECK(FloatRepr(123456.75) == "123456.75");
    CHECK(FloatRepr(0.00001) == "1e-05");
    CHECK(Thousands(0) == "0");
    CHECK(Thousands(1234567) == "1,234,567");
    CHECK(Millions(1.28e8) == "128.0");
    CHECK(Millions(1.2345e9) == "1,234.5");
    CHECK(Repr(nlohmann::json::parse(R"([null, true, 1, 2.0, "x", {"a": []}])")) ==
          "[None, True, 1, 2.0, 'x', {'a': []}]");
    CHECK(Shorten(std::string(41, 'x')) == std::string(39, 'x') + "…");
    CHECK(OneLine("  a \n b\t", 10) == "a b");
    CHECK(First("äöü", 2) == "äö");
    CHECK(Last("äöü", 2) == "öü");
}

TEST_CASE("of ONNX Runtime's words the reason is kept") {
    CHECK(OrtReason("provider_bridge_ort.cc:2043 Get() [ONNXRuntimeError] : 1 : FAIL : Failed to load library "
                    "/opt/libonnxruntime_providers_cuda.so with error: libcudnn.so.9: cannot open shared object") ==
          "libcudnn.so.9: cannot open shared object");
    const std::string before =
        "/src/cuda_execution_provider_info.cc:63 static Info Info::FromProviderOptions(const ProviderOptions&) "
        "[ONNXRuntimeError] : 1 : FAIL : provider_options_utils.h:187 Parse Failed to parse provider option "
        "\"device_id\": ";
    const std::string invalid = "Invalid device ID: 63, must be between 0 (inclusive) and 1 (exclusive).";
    CHECK(OrtReason(before + invalid) == invalid);
    CHECK(OrtReason(before + "/src/cuda_execution_provider_info.cc:71 operator() " + invalid) == invalid);
    CHECK(OrtReason(before + "CUDA failure 100: no CUDA-capable device is detected ; GPU=-1 ; hostname=a ; file=b") ==
          "CUDA failure 100: no CUDA-capable device is detected");
    CHECK(OrtReason("/src/file.cc:7 void Function(int) count == 1 was false. Too many.") == "Too many.");
    CHECK(OrtReason("no more than this") == "no more than this");
}

TEST_CASE("resizing equals OpenCV's to the last bit") {
    int wrong = 0;
    for (const auto& item : Fixtures()["resize"]) {
        const int height = item[0], width = item[1], to_height = item[2], to_width = item[3];
        const auto pixels = Pattern(static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3, item[4]);
        const auto resized = Resize({pixels.data(), height, width, 0, PixelFormat::kRgb}, to_height, to_width);
        Sha256 digest;
        digest.Update(resized.data(), resized.size());
        const bool same = digest.HexDigest() == item[5];
        if (!same && wrong++ < 5) MESSAGE(height << "×" << width << " to " << to_height << "×" << to_width);
    }
    CHECK(Fixtures()["resize"].size() > 4000);
    CHECK(wrong == 0);
}

TEST_CASE("strides and pixel formats name the same picture") {
    const int height = 37, width = 53;
    const auto rgb = Pattern(height * width * 3, 1);
    std::vector<std::uint8_t> padded(height * 200, 99), grey(height * width), tripled;
    for (int y = 0; y < height; ++y) {
        for (int x = 0; x < width; ++x) {
            for (int c = 0; c < 3; ++c) {
                padded[static_cast<std::size_t>(y * 200 + x * 3 + c)] =
                    rgb[static_cast<std::size_t>((y * width + x) * 3 + 2 - c)];
            }
            const std::uint8_t value = rgb[static_cast<std::size_t>((y * width + x) * 3)];
            grey[static_cast<std::size_t>(y * width + x)] = value;
            tripled.insert(tripled.end(), 3, value);
        }
    }
    for (const auto& [to_height, to_width] : {std::pair{37, 53}, {60, 20}, {18, 26}}) {
        const auto expected = Resize({rgb.data(), height, width, 0, PixelFormat::kRgb}, to_height, to_width);
        CHECK(Resize({padded.data(), height, width, 200, PixelFormat::kBgr}, to_height, to_width) == expected);
        CHECK(Resize({grey.data(), height, width, width, PixelFormat::kGray}, to_height, to_width) ==
              Resize({tripled.data(), height, width, 0, PixelFormat::kRgb}, to_height, to_width));
    }
    const auto even = Pattern(36 * 52 * 3, 2);
    CHECK(Resize({even.data(), 36, 52, 0, PixelFormat::kRgb}, 18, 26).size() == 18 * 26 * 3);
}

TEST_CASE("windows cover an axis and end at its border") {
    CHECK(WindowStarts(448, 224, 112) == std::vector<int>{0, 112, 224});
    CHECK(WindowStarts(224, 224, 112) == std::vector<int>{0});
    CHECK(WindowStarts(300, 224, 112) == std::vector<int>{0, 76});
    const Shape shape = ResizeShape(375, 500, 336, 2048, 224);
    CHECK(shape.height == 336);
    CHECK(shape.width == 448);
    CHECK(ResizeShape(10, 20000, 336, 2048, 224).height == 224);
}

TEST_CASE("an axis's weights sum to one at every pixel") {
    const std::vector<int> starts = WindowStarts(650, 224, 100);
    const Axis axis = InterpolationAxis(starts, 224, 14, 650, 333, 32);
    REQUIRE(axis.length() == 333);
    for (int i = 0; i < axis.length(); ++i) {
        float sum = 0;
        for (std::size_t t = axis.begin[static_cast<std::size_t>(i)]; t < axis.begin[static_cast<std::size_t>(i) + 1];
             ++t) {
            sum += axis.weights[t].weight;
        }
        CHECK(sum == doctest::Approx(1).epsilon(1e-6));
    }
}
