// Bundles and vocabularies: read, or refused with the code and the field of the table that Python reads as well.
#include "bundle/bundle.hpp"

#include <filesystem>
#include <set>

#include "bundle/hashes.hpp"
#include "bundle/onnx_weights.hpp"
#include "errors.hpp"
#include "fixtures.hpp"
#include "vocabulary/classes.hpp"
#include "vocabulary/file.hpp"

using namespace scclip;

TEST_CASE("bundles are read, or refused by code and field") {
    for (const auto& item : Refusals()["bundles"].items()) {
        CAPTURE(item.key());
        const std::string path = FixturePath("bundles/" + item.key() + ".scclip");
        CheckRefusal(item.value(), StatusOf([&] {
                         const Bundle bundle = Bundle::Open(path);
                         bundle.CheckedGraph(bundle.manifest().encoders[0].file);
                     }));
    }
    CHECK(Refusals()["bundles"].size() > 60);
}

TEST_CASE("vocabularies are read, or refused by code and field") {
    for (const auto& item : Refusals()["vocabularies"]["files"].items()) {
        CAPTURE(item.key());
        const std::string path = FixturePath("vocabularies/" + item.key());
        CheckRefusal(item.value(), StatusOf([&] { LoadVocabulary(path); }));
    }
    CHECK(StatusOf([&] { LoadVocabulary(FixturePath("vocabularies")); }).field() == "vocabulary");
    CHECK(Refusals()["vocabularies"]["files"].size() > 25);
}

TEST_CASE("a link is as good as the file that it leads to, and no better") {
    const std::string cache = FixturePath("cache_of_links"), root = cache + "/snapshot";
    std::filesystem::remove_all(cache);
    std::filesystem::create_directories(root);
    for (const auto& entry : std::filesystem::directory_iterator(FixturePath("bundles/sound"))) {
        const std::string name = entry.path().filename().string();
        std::filesystem::copy_file(entry.path(), cache + "/" + name + ".blob");
        std::filesystem::create_symlink("../" + name + ".blob", root + "/" + name);
    }
    const Bundle bundle = Bundle::Open(root, false);
    CHECK(bundle.CheckedGraph("encoder.fp32.onnx") == root + "/encoder.fp32.onnx");
    std::string bytes = ReadBytes(cache + "/encoder.fp32.onnx.data.blob");
    bytes[7] = static_cast<char>(bytes[7] ^ 1);
    std::ofstream(cache + "/encoder.fp32.onnx.data.blob", std::ios::binary) << bytes;
    CHECK(StatusOf([&] { bundle.CheckedGraph("encoder.fp32.onnx"); }).field() == "encoder.fp32.onnx.data");
}

TEST_CASE("forms of a reference to weights that readers take differently are refused") {
    const auto read = [](const std::string& bytes) {
        return ExternalLocationsIn(reinterpret_cast<const unsigned char*>(bytes.data()), bytes.size(), "x.onnx");
    };
    const auto field = [](char tag, const std::string& content) {
        return std::string(1, tag) + static_cast<char>(content.size()) + content;
    };
    const std::string key = field('\x0A', "location"), value = field('\x12', "w.data");
    const auto model = [&](const std::string& entry) { return field('\x3A', field('\x2A', field('\x6A', entry))); };
    CHECK(read(model(key + value)) == std::set<std::string>{"w.data"});
    CHECK(read(model(field('\x0A', "length") + field('\x12', "9"))).empty());
    for (const std::string& entry :
         {key + value + field('\x12', "stolen"), field('\x0A', "offset") + key + value, key, value,
          key + "\x92\x80" + std::string(1, '\0') + std::string("\x06w.data"),  // a tag longer than it need be
          key + "\x10\x05"}) {                                                  // a value that is a number
        CHECK(StatusOf([&] { read(model(entry)); }).code() == ErrorCode::kBundle);
    }
    // A tag of 2³² more, which a library of 32-bit tags takes for `graph`.
    const std::string graph = field('\x2A', field('\x6A', key + value));
    const std::string wide = std::string("\xBA\x80\x80\x80\x10") + static_cast<char>(graph.size()) + graph;
    CHECK(StatusOf([&] { read(wide); }).code() == ErrorCode::kBundle);
}

TEST_CASE("a sound bundle opens with typed views") {
    const std::string path = FixturePath("bundles/sound");
    const Bundle bundle = Bundle::Open(path + "/", false);
    CHECK(bundle.path() == path);
    const Manifest& manifest = bundle.manifest();
    CHECK(manifest.name == "tiny");
    CHECK(manifest.embed_dim == 8);
    CHECK(manifest.short_side == 128);
    CHECK(manifest.decoding.area_threshold == 0);
    REQUIRE(manifest.encoders.size() == 3);
    CHECK(manifest.encoders[0].grid.ToString() == "window 6×6");
    CHECK(manifest.encoders[1].grid.ToString() == "dynamic");
    CHECK(manifest.encoders[2].grid.ToString() == "fixed 8×12");
    CHECK(manifest.encoders[1].axes.at("height").multiple_of == 16);
    CHECK(ExternalLocations(path + "/encoder.fp32.onnx") == std::set<std::string>{"encoder.fp32.onnx.data"});
}

TEST_CASE("a changed file is found although its hash was remembered") {
    const std::string path = FixturePath("remembered.bin");
    for (const char* content : {"one", "longer"}) {
        std::ofstream(path, std::ios::binary) << content;
        const std::string expected = Sha256OfFile(path);
        CHECK(RememberedSha256(path, true) == expected);
        CHECK(RememberedSha256(path, true) == expected);
        CHECK(RememberedSha256(path, false) == expected);
    }
    ForgetSha256(path);
    CHECK(RememberedSha256(path, true) == Sha256OfFile(path));
}

TEST_CASE("a background is found by its name, or refused") {
    const std::vector<std::string> classes = {"Cat", "big  dog", "none of these"};
    CHECK(FindBackground(classes, "CAT ") == 0);
    CHECK(FindBackground(classes, "Big Dog") == 1);
    CHECK_FALSE(FindBackground(classes, "None").has_value());
    for (const std::string name : {"dog", "", "c\nat"}) {
        const Status found = StatusOf([&] { FindBackground(classes, name); });
        CHECK(found.code() == ErrorCode::kVocabulary);
        CHECK(found.field() == "background");
    }
}

TEST_CASE("another model's vocabulary is refused") {
    const Vocabulary vocabulary = LoadVocabulary(FixturePath("vocabularies/sound"));
    std::string sha;
    for (int i = 0; i < 32; ++i) sha += "ab";
    CheckModel(vocabulary, sha, 8, "v");
    CHECK(StatusOf([&] { CheckModel(vocabulary, std::string(64, 'c'), 8, "v"); }).field() == "text_model_sha256");
    CHECK(StatusOf([&] { CheckModel(vocabulary, sha, 512, "v"); }).field() == "embeddings");
}
