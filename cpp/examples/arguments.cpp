#include "arguments.hpp"

#include <CLI/CLI.hpp>
#include <limits>

namespace {

constexpr int kMost = std::numeric_limits<int>::max();

/// Every option, bound to `arguments`. The library checks the ranges again; 0 means "not given" to it.
void Bind(CLI::App* app, Arguments* a) {
    const auto count = [&](const char* name, int* to, const char* help) {
        app->add_option(name, *to, help)->check(CLI::Range(1, kMost))->type_name("N");
    };
    const auto real = [&](const char* name, std::optional<double>* to, const char* help) {
        app->add_option(name, *to, help)->type_name("X");
    };
    app->add_option("bundle", a->bundle, "the bundle's folder")->required()->type_name("FOLDER");
    app->add_option("image", a->image, "a JPEG or PNG file")->required()->type_name("FILE");
    auto* classes = app->add_option("--classes", a->classes, "names such as \"sky; grass, lawn\", embedded first");
    app->add_option("--vocabulary", a->vocabulary,
                    "embedded classes, written by `scclip embed` (default: the bundle's own)")
        ->excludes(classes);
    app->add_option("--background", a->background,
                    "the class that takes what no class claims, or \"none\" (default: the vocabulary's)");
    app->add_option("--text-precision", a->open.text_precision,
                    "with --classes: of the text encoder, fp32, or int8 if the bundle has it (default: fp32)");
    app->add_option("--output,-o", a->output, "write DIR/STEM.labels.png, replacing it (default: write nothing)");
    app->add_option("--backend", a->open.backend, "onnxruntime, openvino, tensorrt as compiled in, or auto");
    app->add_option("--device", a->open.device, "auto, cpu or cuda:N");
    app->add_option(
        "--precision", a->open.precision,
        "fp32, bf16, fp16, int8 as the bundle and the backend have them; auto: the most accurate that suits "
        "the device; fast: the fastest there is");
    app->add_option("--ort-provider", a->open.ort_provider, "ONNX Runtime's provider: cpu, cuda or tensorrt");
    count("--threads", &a->open.threads, "CPU threads (default: the cores this process may use)");
    count("--batch", &a->open.batch, "most windows encoded at once (default: the backend's)");
    count("--short-side", &a->open.short_side, "resize the short side to so many pixels (default: the bundle's)");
    count("--stride", &a->open.stride, "pixels between windows (default: the bundle's)");
    app->add_option("--max-pixels", a->open.max_pixels, "largest image taken")->check(CLI::PositiveNumber);
    app->add_option("--max-memory", a->open.max_memory, "most bytes for one image (default: half of what is free)")
        ->check(CLI::PositiveNumber);
    app->add_flag_function(
        "--whole-image,!--no-whole-image", [a](std::int64_t given) { a->open.whole_image = given > 0; },
        "encode the image in one pass; the bundle must have an encoder for that");
    app->add_option("--preset", a->open.preset,
                    "a benchmark of the bundle, exact, balanced or fast, or one of each: voc21,fast");
    const std::map<std::string, scclip::Refinement> refinements = {{"pamr", scclip::Refinement::kPamr},
                                                                   {"none", scclip::Refinement::kNone}};
    app->add_option("--refine", a->segment.refine,
                    "pamr follows the image's edges more closely, at some cost; none doesn't (default: the bundle's)")
        ->transform(CLI::CheckedTransformer(refinements));
    real("--logit-scale", &a->segment.logit_scale, "factor on cosines before the softmax (default: the bundle's)");
    real("--prob-threshold", &a->segment.prob_threshold,
         "pixels of lower probability become background, or unlabelled");
    real("--area-threshold", &a->segment.area_threshold, "drop classes of at most this share of the foreground");
    app->add_option("--class-threshold", a->segment.class_threshold,
                    "drop classes whose best pixel in the image has a lower probability");
    count("--repeat", &a->repeat, "time N runs, after one that is not counted");
    app->add_flag("--json", a->json, "tell what was done as JSON");
}

}  // namespace

std::optional<int> ParseArguments(int argc, char** argv, Arguments* arguments) {
    CLI::App app(
        "Segment one JPEG or PNG file, or time it: every pixel gets the class whose name fits it best.\n"
        "Exit codes: 0 done, 2 an error told in one line.",
        "scclip-segment-cpp");
    Bind(&app, arguments);
    app.failure_message([](const CLI::App*, const CLI::Error& error) {
        return "scclip-segment-cpp: error: " + std::string(error.what()) + " (see --help)\n";
    });
    try {
        app.parse(argc, argv);
        return std::nullopt;
    } catch (const CLI::ParseError& error) {
        return app.exit(error) == 0 ? 0 : 2;
    }
}
