// Engines and compiled kernels of a bundle: chosen, or refused as the Python runtime does.
#include <cstdlib>

#include "backends/choose.hpp"
#include "backends/processor.hpp"
#include "errors.hpp"
#include "fixtures.hpp"

using namespace scclip;

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
                                     item["flags"].get<std::set<std::string>>(), compiled, [] {
                                         FAIL("a GPU was looked for");
                                         return EngineChoice{};
                                     });
        CAPTURE(item.dump());
        CHECK(choice.backend == item["choice"][0].get<std::string>());
        CHECK(choice.precision == item["choice"][1].get<std::string>());
        CHECK_FALSE(choice.reason.empty());
    }
    CHECK(Fixtures()["choices"].size() == 800);
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
        const Choice choice = Choose(options, {"fp32"}, {"avx2"}, {"onnxruntime", "openvino", "tensorrt"},
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
