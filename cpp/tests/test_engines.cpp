// Engines and compiled kernels of a bundle: chosen, or refused as the Python runtime does.
#include <cstdlib>
#include <filesystem>

#include "backends/choose.hpp"
#include "backends/processor.hpp"
#include "errors.hpp"
#include "fixtures.hpp"

using namespace scclip;

namespace {

/// A sound bundle in which every encoder has a form with ONNX's Attention before it, marked as the exporter does.
Bundle WithAttention() {
    const std::string root = FixturePath("with_attention.scclip");
    std::filesystem::remove_all(root);
    std::filesystem::copy(FixturePath("bundles/sound"), root, std::filesystem::copy_options::recursive);
    auto document = nlohmann::json::parse(ReadBytes(root + "/bundle.json"));
    auto encoders = nlohmann::json::array();
    for (const auto& plain : document["encoders"]) {
        const std::string file = plain["file"], form = "encoder.fp32.opset23" + file.substr(12);
        std::filesystem::copy_file(root + "/" + file, root + "/" + form);
        document["files"][form] = document["files"][file];
        auto entry = plain;
        entry.update({{"file", form}, {"opset", 23}, {"runs_on", {"tensorrt"}}});
        encoders.push_back(entry);
        encoders.push_back(plain);
    }
    document["encoders"] = encoders;
    std::ofstream(root + "/bundle.json") << document;
    return Bundle::Open(root, false);
}

}  // namespace

TEST_CASE("ONNX Runtime's CUDA provider gets the form with Attention where it has the operator") {
    const Bundle bundle = WithAttention();
    std::vector<std::string> opened;
    bool refuse = false;
    const auto open = [&](const EncoderSpec& spec) {
        opened.push_back(spec.file);
        if (refuse && spec.HasAttention()) ThrowBackend("a node is on the CPU");
    };
    const EncoderSpec& window = ChooseEncoder(bundle, {"fp32"}, DeviceKind::kCuda, false);
    const std::string plain = "encoder.fp32.onnx", form = "encoder.fp32.opset23.onnx";
    CHECK(window.file == plain);  // what a runtime takes that doesn't know better
    for (const std::string version : {"1.31.0", "1.32.0.dev1", "2.0"}) {
        const OpenedEncoder taken = OpenForCuda(bundle, window, version, open);
        CHECK(taken.spec->file == form);
        CHECK(taken.why == "ONNX Runtime " + version + " has the Attention of " + form + " on CUDA");
    }
    CHECK(opened == std::vector<std::string>(3, form));
    opened.clear();
    for (const std::string version : {"1.9.0", "1.24.4", "1.30.2"}) {
        const OpenedEncoder taken = OpenForCuda(bundle, window, version, open);
        CHECK(taken.spec == &window);
        CHECK(taken.why == form + " is for ONNX Runtime 1.31 and later, this is " + version);
    }
    CHECK(opened == std::vector<std::string>(3, plain));
    opened.clear();
    refuse = true;
    const OpenedEncoder refused = OpenForCuda(bundle, window, "1.32.0", open);
    CHECK(refused.spec == &window);
    CHECK(refused.why == form + " was refused (a node is on the CPU)");
    CHECK(opened == std::vector<std::string>{form, plain});
    refuse = false;
    for (const EncoderSpec& spec : bundle.manifest().encoders) {
        if (spec.HasAttention()) continue;
        const OpenedEncoder taken = OpenForCuda(bundle, spec, "1.32.0", open);
        CHECK(taken.spec->HasAttention() == (spec.grid.kind != "dynamic"));
        CHECK(taken.spec->grid.ToString() == spec.grid.ToString());
    }
    const Bundle without = Bundle::Open(FixturePath("bundles/sound"), false);
    const OpenedEncoder only = OpenForCuda(without, without.manifest().encoders[0], "1.32.0", open);
    CHECK(only.spec == &without.manifest().encoders[0]);
    CHECK(only.why.empty());
}

TEST_CASE("the engine that fits is Python's choice") {
    std::size_t chosen = 0, refused = 0;
    for (const auto& item : Fixtures()["engines"]) {
        const auto& from = item["machine"];
        Machine machine{from[0], from[1], from[2], std::nullopt};
        if (!from[3].is_null()) machine.device = from[3].get<std::string>();
        Wanted wanted;
        for (const auto& [key, value] : item["wanted"].items()) {
            if (key == "precision") wanted.precision = value;
            if (key == "batch") wanted.batch = value.get<std::int64_t>();
            if (key == "queries") wanted.queries = value.get<std::int64_t>();
            if (key == "grid") wanted.grid = GridSpec{value[0], value[1], value[2]};
        }
        const Bundle bundle = Bundle::Open(item["path"], false);
        std::string file;
        try {
            const Engine engine = ChooseEngine(bundle, machine, wanted);
            file = engine.file;
            CHECK(EnginePath(bundle, engine) == bundle.path() + "/" + file);
            CHECK(EncoderOf(bundle, engine).file == engine.source);
            ++chosen;
        } catch (const Error& error) {
            CHECK(error.code == ErrorCode::kBackend);
            CHECK(error.field == "engines");
            CHECK(std::string(error.what()).find("evil") == std::string::npos);
            ++refused;
        }
        CHECK(file == item["file"].get<std::string>());
    }
    CHECK(chosen > 20);
    CHECK(refused > 500);
}

TEST_CASE("what auto and fast pick on a CPU is Python's choice") {
    for (const auto& item : Fixtures()["choices"]) {
        OpenOptions options;
        options.device = "cpu";
        options.backend = item["options"][0];
        options.precision = item["options"][1];
        options.ort_provider = item["options"][2];
        std::set<std::string> compiled = {"onnxruntime", "tensorrt"};
        if (item["openvino"].get<bool>()) compiled.insert("openvino");
        const Choice choice = Choose(options, item["held"].get<std::set<std::string>>(),
                                     item["flags"].get<std::set<std::string>>(), item["vendor"], compiled, [] {
                                         FAIL("a GPU was looked for");
                                         return EngineChoice{};
                                     });
        CAPTURE(item.dump());
        CHECK(choice.backend == item["choice"][0].get<std::string>());
        CHECK(choice.precision == item["choice"][1].get<std::string>());
        CHECK(choice.reason == item["choice"][2].get<std::string>());
    }
    CHECK(Fixtures()["choices"].size() == 1120);
    CHECK_FALSE(ProcessorFlags().empty());
}

TEST_CASE("oneDNN can be held from bf16") {
    setenv("ONEDNN_MAX_CPU_ISA", "avx2", 1);
    CHECK(Bf16Flag(ProcessorFlags()).empty());
    unsetenv("ONEDNN_MAX_CPU_ISA");
}

TEST_CASE("where the bundle may hold an engine, auto picks Python's choice") {
    std::size_t on_engine = 0;
    for (const auto& item : Fixtures()["engine_choices"]) {
        CAPTURE(item.dump());
        const Bundle bundle = Bundle::Open(item["path"], false);
        OpenOptions options;
        options.device = item["options"][0];
        options.precision = item["options"][1];
        const std::string host = item["host"], failure = item["failure"];
        HostFinder find = [&](int device) {
            if (!failure.empty()) throw Error(ErrorCode::kBackend, failure);
            return EngineHost{{"tensorrt", "10.14.1.48", "8.9", "NVIDIA L4"},
                              "cuda:" + std::to_string(device) + " (NVIDIA L4, sm_89)"};
        };
        if (host == "not installed") find = nullptr;
        const Choice choice = Choose(options, {"fp32"}, {"avx2"}, "", {"onnxruntime", "openvino", "tensorrt"},
                                     [&] { return FittingEngine(bundle, options, find); });
        CHECK(choice.backend == item["choice"][0].get<std::string>());
        CHECK(choice.precision == item["choice"][1].get<std::string>());
        on_engine += choice.backend == "tensorrt";
    }
    CHECK(on_engine >= 30);
}

TEST_CASE("compute capabilities") {
    for (const auto& item : Fixtures()["capabilities"]) {
        CAPTURE(item.dump());
        CHECK(Supports(item[0].get<std::vector<std::string>>(), item[1]) == item[2].get<bool>());
    }
}

TEST_CASE("an engine that was damaged after the choice comes with the command") {
    const Bundle bundle = Bundle::Open(FixturePath("engines/one.scclip"), false);
    Engine engine = *ReadEngines(bundle).at(0).engine;
    CHECK(engine.ToString() ==
          "engines/one.engine (tensorrt 10.14.1.48, fp32, window 6×6, compute capability 8.9, batch 1–16, queries "
          "1–1024)");
    engine.file = "engines/two.engine";
    CHECK_THROWS_WITH_AS(EnginePath(bundle, engine), doctest::Contains("Build it again with `scclip-export --bundle "),
                         Error);
    engine.source = "encoder.fp16.onnx";
    CHECK_THROWS_AS(EncoderOf(bundle, engine), Error);
}
