// Hashes, words, sizes and pixels.
#include <cmath>
#include <filesystem>

#include "bundle/hashes.hpp"
#include "decode/interpolation.hpp"
#include "decode/threads.hpp"
#include "fixtures.hpp"
#include "image/geometry.hpp"
#include "image/resize.hpp"
#include "memory.hpp"
#include "words.hpp"

using namespace scclip;

namespace {

std::string Digest(const std::string& text) {
    Sha256 digest;
    digest.Update(text.data(), text.size());
    return digest.HexDigest();
}

}  // namespace

TEST_CASE("SHA-256 of memory and of files") {
    CHECK(Digest("") == "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    CHECK(Digest("abc") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    const std::string path = FixturePath("digest.bin"), bytes(3 << 20, 'a');
    std::ofstream(path, std::ios::binary) << bytes;
    CHECK(Sha256OfFile(path) == Digest(bytes));
    CHECK_THROWS_AS(Sha256OfFile(FixturePath("")), std::system_error);
}

TEST_CASE("words in messages are printable and short") {
    CHECK(Quote("a\"'\n") == "'a\"'?'");
    CHECK(Printable("\x1b[31mred\x7f\xc2\x9b \u2028\u202e\u2066 \u00e4\u2026\u20ac") ==
          "?[31mred?? ??? \u00e4\u2026\u20ac");
    CHECK(Number(40) == "40");
    CHECK(Number(0.1) == "0.1");
    CHECK(Shorten(std::string(81, 'x')) == std::string(79, 'x') + "…");
    CHECK(Shorten(std::string(79, 'x')) == std::string(79, 'x'));
    CHECK(OneLine("  a \n b\t", 10) == "a b");
    CHECK(First("äöü", 2) == "äö");
}

TEST_CASE("a container's quota counts, in both versions of control groups and on every level") {
    namespace fs = std::filesystem;
    const std::string root = FixturePath("cgroup");
    const auto write = [&](const std::string& name, const std::string& text) {
        fs::create_directories(fs::path(root + name).parent_path());
        std::ofstream(root + name) << text;
    };
    const auto cpus = [&](const std::string& groups) {
        write("/proc/self/cgroup", groups);
        return CgroupCpus(root);
    };
    fs::remove_all(root);
    CHECK(CgroupCpus(root) == 0);
    CHECK(cpus("0::/a/b\n") == 0);
    write("/sys/fs/cgroup/a/b/cpu.max", "max 100000\n");
    CHECK(cpus("0::/a/b\n") == 0);
    write("/sys/fs/cgroup/a/cpu.max", "250000 100000\n");
    CHECK(cpus("0::/a/b\n") == 2.5);
    write("/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    CHECK(cpus("0::/a/b\n") == 0.5);
    write("/sys/fs/cgroup/cpu.max", "400000 100000\n");
    CHECK(cpus("0::/\n") == 4);
    CHECK(cpus("0::/../elsewhere\n") == 4);
    write("/sys/fs/cgroup/cpu/docker/1/cpu.cfs_quota_us", "-1\n");
    write("/sys/fs/cgroup/cpu/docker/1/cpu.cfs_period_us", "100000\n");
    CHECK(cpus("4:cpu,cpuacct:/docker/1\n3:cpuset:/x\n") == 0);
    write("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "300000\n");
    write("/sys/fs/cgroup/cpu/cpu.cfs_period_us", "100000\n");
    CHECK(cpus("4:cpu,cpuacct:/docker/1\n") == 3);
    CHECK(cpus("damaged\n::\n4:cpu\n") == 4);  // "::" is version 2's root
    CHECK(UsableCpus() >= 1);
    CHECK(DefaultThreads() <= UsableCpus());
    CHECK(WorkerThreads(3) == 3);
    CHECK(WorkerThreads(0) == UsableCpus());
}

TEST_CASE("memory is estimated, and what is free is found") {
    namespace fs = std::filesystem;
    const std::string root = FixturePath("memory");
    const auto write = [&](const std::string& name, const std::string& text) {
        fs::create_directories(fs::path(root + name).parent_path());
        std::ofstream(root + name) << text;
    };
    fs::remove_all(root);
    CHECK(std::isinf(FreeMemory(root)));
    write("/proc/meminfo", "MemTotal: 9000 kB\nMemAvailable:    4000 kB\n");
    CHECK(FreeMemory(root) == 4000 * 1024);
    write("/sys/fs/cgroup/memory.max", "max\n");
    write("/sys/fs/cgroup/memory.current", "1000\n");
    CHECK(FreeMemory(root) == 4000 * 1024);
    write("/sys/fs/cgroup/memory.max", "5000\n");
    CHECK(FreeMemory(root) == 4000);
    write("/sys/fs/cgroup/memory/memory.limit_in_bytes", "1500\n");
    write("/sys/fs/cgroup/memory/memory.usage_in_bytes", "2000\n");
    CHECK(FreeMemory(root) == 0);
    // As was measured: 8,040 patches of ViT-B/16 encoded whole took 4.8 GB.
    const Tiling whole{1072, 1920, {0}, {0}, 1072, 1920};
    const ModelSizes base{16, 512, 12, 768, 8};
    CHECK(EstimatedBytes(whole, 2160, 3840, base) == doctest::Approx(5.2e9).epsilon(0.1));
    CHECK(StatusOf([] { CheckMemory(2000, 1999); }).field() == "max_memory");
    CHECK(StatusOf([] { CheckMemory(2000, 2000); }).ok());
    CHECK(StatusOf([] { CheckMemory(1e18, 0); }).code() == ErrorCode::kImage);
    CHECK(StatusOf([] { CheckMemory(1000, 0); }).ok());
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
    std::vector<std::uint8_t> bgra, rgba;
    for (std::size_t i = 0; i < rgb.size(); i += 3) {
        bgra.insert(bgra.end(), {rgb[i + 2], rgb[i + 1], rgb[i], static_cast<std::uint8_t>(i)});
        rgba.insert(rgba.end(), {rgb[i], rgb[i + 1], rgb[i + 2], static_cast<std::uint8_t>(i)});
    }
    const auto plain = Resize({rgb.data(), height, width, 0, PixelFormat::kRgb}, 18, 26);
    CHECK(Resize({bgra.data(), height, width, 0, PixelFormat::kBgra}, 18, 26) == plain);
    CHECK(Resize({rgba.data(), height, width, 0, PixelFormat::kRgba}, 18, 26) == plain);
    const auto even = Pattern(36 * 52 * 3, 2);
    CHECK(Resize({even.data(), 36, 52, 0, PixelFormat::kRgb}, 18, 26).size() == 18 * 26 * 3);
}

TEST_CASE("NV12 becomes OpenCV's RGB") {
    const auto& item = Fixtures()["nv12"];
    const int height = item["height"], width = item["width"];
    const auto frame = Array<std::uint8_t>(item["frame"]), expected = Array<std::uint8_t>(item["rgb"]);
    CHECK(Resize({frame.data(), height, width, 0, PixelFormat::kNv12}, height, width) == expected);
    std::vector<std::uint8_t> light, chroma;  // two planes with padded rows
    const std::ptrdiff_t stride = width + 13;
    for (int row = 0; row < height + height / 2; ++row) {
        auto& plane = row < height ? light : chroma;
        plane.insert(plane.end(), frame.begin() + row * width, frame.begin() + (row + 1) * width);
        plane.resize(plane.size() + 13);
    }
    CHECK(Resize({light.data(), height, width, stride, PixelFormat::kNv12, chroma.data()}, height, width) == expected);
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
