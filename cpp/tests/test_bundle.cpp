// Bundles and vocabularies: read, or refused in the words of the Python runtime.
#include "bundle.hpp"
#include "error.hpp"
#include "fixtures.hpp"
#include "hashes.hpp"
#include "onnx_external.hpp"
#include "sha256.hpp"
#include "vocabulary.hpp"

using namespace scclip;

namespace {

template <typename Function>
std::string MessageOf(Function function) {
    try {
        function();
        return "";
    } catch (const Error& error) {
        return error.what();
    }
}

}  // namespace

TEST_CASE("bundles are read or refused as Python does") {
    for (const auto& item : Fixtures()["bundles"]) {
        const std::string path = item["path"], expected = item["message"];
        const std::string found = MessageOf([&] {
            const Bundle bundle = Bundle::Open(path);
            bundle.CheckedGraph(bundle.manifest().encoders[0].file);
        });
        CHECK(WithoutParserWords(found) == WithoutParserWords(expected));
        CHECK(found.find('\n') == std::string::npos);
    }
    CHECK(Fixtures()["bundles"].size() > 50);
}

TEST_CASE("vocabularies are read or refused as Python does") {
    for (const auto& item : Fixtures()["vocabularies"]) {
        const std::string path = item["path"], expected = item["message"];
        CHECK(WithoutParserWords(MessageOf([&] { LoadVocabulary(path); })) == WithoutParserWords(expected));
    }
    CHECK(Fixtures()["vocabularies"].size() > 25);
}

TEST_CASE("a sound bundle opens with typed views") {
    const std::string path = FixturePath("bundles/sound");
    const Bundle bundle = Bundle::Open(path + "/", false);
    CHECK(bundle.path() == path);
    const Manifest& manifest = bundle.manifest();
    CHECK(manifest.name == "tiny");
    CHECK(manifest.embed_dim == 8);
    CHECK(manifest.short_side == 128);
    CHECK(manifest.area_threshold == 0);
    REQUIRE(manifest.encoders.size() == 3);
    CHECK(manifest.encoders[0].grid.ToString() == "window 6×6");
    CHECK(manifest.encoders[1].grid.ToString() == "dynamic");
    CHECK(manifest.encoders[2].grid.ToString() == "fixed 8×12");
    CHECK(manifest.encoders[1].axes.at("height").multiple_of == 16);
    bundle.VerifyAll();
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

TEST_CASE("a background is found, or refused in Python's words") {
    for (const auto& item : Fixtures()["close"]) {
        const std::string name = item[0];
        const auto classes = item[1].get<std::vector<std::string>>();
        CAPTURE(name);
        if (item[2].is_string()) {
            CHECK(MessageOf([&] { FindBackground(classes, name); }) == item[2].get<std::string>());
            continue;
        }
        const auto index = FindBackground(classes, name);
        CHECK(index.has_value() == !item[2].is_null());
        if (index) CHECK(*index == item[2].get<std::int64_t>());
    }
}

TEST_CASE("another model's vocabulary is refused") {
    const Vocabulary vocabulary = LoadVocabulary(FixturePath("vocabularies/sound"));
    std::string sha;
    for (int i = 0; i < 32; ++i) sha += "ab";
    CheckModel(vocabulary, sha, 8, "v");
    CHECK_THROWS_WITH_AS(CheckModel(vocabulary, std::string(64, 'c'), 8, "mine.safetensors"),
                         "the vocabulary mine.safetensors was made by text model abababababab…, and this bundle has "
                         "cccccccccccc…. Make it again with 'scclip embed' and this bundle",
                         Error);
    CHECK_THROWS_WITH_AS(CheckModel(vocabulary, sha, 512, "v"), doctest::Contains("width 8"), Error);
}
