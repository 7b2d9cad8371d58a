// What `scclip tune` remembered, in the file that Python wrote.
#include "backends/choose.hpp"
#include "backends/tuned.hpp"
#include "bundle/hashes.hpp"
#include "fixtures.hpp"
#include "scclip/segmenter.hpp"

using namespace scclip;

namespace {

const std::string& Written() {
    static const std::string text = ReadBytes(FixturePath("cache/" + Fixtures()["tuned"]["file"].get<std::string>()));
    return text;
}

std::string BundleSha256() { return Sha256OfFile(Fixtures()["bundle"].get<std::string>() + "/bundle.json"); }

Tuned Parsed(const nlohmann::json& document, std::map<std::string, std::string> versions) {
    return ParseTuned(document.dump(), BundleSha256(), Fixtures()["tuned"]["cores"], versions);
}

std::map<std::string, std::string> Versions() {
    return Fixtures()["tuned"]["versions"].get<std::map<std::string, std::string>>();
}

}  // namespace

TEST_CASE("the file is where Python writes it") {
    ::setenv("XDG_CACHE_HOME", FixturePath("cache").c_str(), 1);
    CHECK(TunedFile(BundleSha256()) == FixturePath("cache/" + Fixtures()["tuned"]["file"].get<std::string>()));
    const Bundle bundle = Bundle::Open(Fixtures()["bundle"].get<std::string>(), false);
    const Tuned tuned = ReadTuned(bundle, Versions());
    CHECK(tuned.stale.empty());
    CHECK(tuned.rows.size() == Versions().count("openvino") + 1);
    ::setenv("XDG_CACHE_HOME", "relative", 1);
    ::setenv("HOME", FixturePath("nobody").c_str(), 1);
    CHECK(ReadTuned(bundle, Versions()).rows.empty());
}

#if defined(SCCLIP_TEST_ONNXRUNTIME)
TEST_CASE("a segmenter runs what was measured, and what is asked for") {
    ::setenv("XDG_CACHE_HOME", FixturePath("cache").c_str(), 1);
    OpenOptions options;
    options.backend = "onnxruntime";
    const auto opened = Segmenter::Open(Fixtures()["bundle"], options);
    REQUIRE(opened.ok());
    const BackendInfo info = opened->Describe();
    CHECK(info.threads == 1);
    CHECK(info.batch == 3);
    CHECK(info.reason.find("scclip tune measured: 20.5 ms an image on 1 threads, 3 windows at once") !=
          std::string::npos);
    options.threads = 2;
    const auto asked = Segmenter::Open(Fixtures()["bundle"], options);
    REQUIRE(asked.ok());
    CHECK(asked->Describe().threads == 2);
    CHECK(asked->Describe().reason.find("measured") == std::string::npos);
}
#endif

TEST_CASE("of the rows that agree with what is asked, the fastest") {
    const Tuned tuned{{{"window", "fp32", "onnxruntime", 1, 8, 1000},
                       {"window", "fp32", "openvino", 1, 2, 900},
                       {"window", "int8", "openvino", 2, 4, 300},
                       {"window", "int8", "onnxruntime", 2, 8, 200},
                       {"whole", "int8", "openvino", 2, 1, 100}},
                      ""};
    const auto choice = [&](const OpenOptions& options) {
        return Choose(
            options, {"fp32", "int8"}, {"avx512_vnni"}, "", {"onnxruntime", "openvino"}, [] { return EngineChoice{}; },
            tuned);
    };
    OpenOptions options;
    CHECK(choice(options).backend == "openvino");
    CHECK(choice(options).precision == "fp32");
    CHECK(choice(options).batch == 2);
    options.precision = "fast";
    CHECK(choice(options).backend == "onnxruntime");
    CHECK(choice(options).precision == "int8");
    CHECK(choice(options).threads == 2);
    options.threads = 1;
    CHECK(choice(options).precision == "int8");  // that fp32 alone was measured so makes it no faster
    CHECK(choice(options).threads == 0);
    options.threads = 7;  // not measured
    CHECK(choice(options).threads == 0);
    CHECK(choice(options).precision == "int8");
    options.threads = 0;
    options.whole_image = true;
    CHECK(choice(options).backend == "openvino");
    CHECK(choice(options).batch == 1);
}

TEST_CASE("a row that can not run here does not count") {
    const auto precision = [](const Measured& row, const std::set<std::string>& flags) {
        OpenOptions options;
        options.precision = "fast";
        const Tuned tuned{{{"window", "fp32", "onnxruntime", 1, 8, 1000}, row}, ""};
        return Choose(
                   options, {"fp32"}, flags, "", {"onnxruntime", "openvino"}, [] { return EngineChoice{}; }, tuned)
            .precision;
    };
    CHECK(precision({"window", "bf16", "openvino", 1, 8, 1}, {"avx512_bf16"}) == "bf16");
    CHECK(precision({"window", "bf16", "openvino", 1, 8, 1}, {"avx2"}) == "fp32");
    CHECK(precision({"window", "bf16", "onnxruntime", 1, 8, 1}, {"avx512_bf16"}) == "fp32");
    CHECK(precision({"window", "int8", "onnxruntime", 1, 8, 1}, {}) == "fp32");  // the bundle has none
    CHECK(precision({"window", "fp16", "onnxruntime", 1, 8, 1}, {}) == "fp32");
    CHECK(precision({"window", "int4", "onnxruntime", 1, 8, 1}, {}) == "fp32");
}

TEST_CASE("a stale or damaged answer is not used, and told") {
    const auto document = nlohmann::json::parse(Written());
    CHECK(Parsed(document, Versions()).stale.empty());
    const auto refused = [&](const char* pointer, const nlohmann::json& value, const std::string& words) {
        auto changed = document;
        changed[nlohmann::json::json_pointer(pointer)] = value;
        const Tuned tuned = Parsed(changed, Versions());
        CAPTURE(tuned.stale);
        CHECK(tuned.rows.empty());
        CHECK(tuned.stale.find(words) != std::string::npos);
        CHECK(tuned.stale.find("run scclip tune again") != std::string::npos);
        const Choice choice = Choose({}, {"fp32"}, {}, "", {"onnxruntime"}, [] { return EngineChoice{}; }, tuned);
        CHECK(choice.reason.find(tuned.stale) != std::string::npos);
    };
    refused("/cores", 999, "ran on 999 cores");
    refused("/versions/onnxruntime", "1.0", "with onnxruntime 1.0");
    refused("/bundle", std::string(64, '0'), "another bundle");
    refused("/schema", "scclip-tuned/9", "its format");
    refused("/rows/0/threads", 0, "damaged");
    refused("/rows/0/threads", "1", "damaged");
    refused("/rows/0/batch", 1e9, "damaged");
    refused("/rows/0/backend", "/tmp/evil.so", "damaged");
    refused("/rows/0/milliseconds", -1, "damaged");
    refused("/rows/0/more", 1, "damaged");
    refused("/rows", 7, "damaged");
    auto newer = Versions();
    newer["openvino"] = "9999";
    CHECK(Parsed(document, newer).stale.find("here is 9999") != std::string::npos);
    for (const std::string text : {"", "[]", "{", "null"}) {
        CHECK(ParseTuned(text, BundleSha256(), 1, {}).stale.find("damaged") != std::string::npos);
    }
    auto without = Versions();
    without.erase("openvino");
    CHECK(Parsed(document, without).rows.size() == 1);
}
