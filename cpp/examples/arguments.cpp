#include "arguments.hpp"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <functional>
#include <limits>
#include <stdexcept>
#include <vector>

namespace {

constexpr const char* kSee = " (see `scclip-segment-cpp --help`)";

[[noreturn]] void Refuse(const std::string& message) { throw std::runtime_error(message); }

int Whole(const std::string& flag, const std::string& text) {
    char* end = nullptr;
    errno = 0;
    const long number = std::strtol(text.c_str(), &end, 10);
    if (text.empty() || *end != '\0' || errno != 0 || number > std::numeric_limits<int>::max()) {
        Refuse("argument " + flag + ": invalid int value: '" + text + "'" + kSee);
    }
    return static_cast<int>(number);
}

double Real(const std::string& flag, const std::string& text) {
    char* end = nullptr;
    const double number = std::strtod(text.c_str(), &end);
    if (text.empty() || *end != '\0') Refuse("argument " + flag + ": invalid float value: '" + text + "'" + kSee);
    return number;
}

/// One option: how it is written and explained, and what takes its value. A switch has no `value`.
struct Flag {
    std::string name, value, help;
    std::function<void(const std::string&)> take;
};

Flag Text(const char* name, const char* value, const char* help, std::string* to) {
    return {name, value, help, [to](const std::string& text) { *to = text; }};
}

/// 0 means "not given" to the library, so that it is refused here, as `refusal` in Python's words.
Flag Count(const char* name, const char* value, const char* help, const char* refusal, int* to) {
    const std::string flag = name;
    return {name, value, help, [flag, refusal, to](const std::string& text) {
                *to = Whole(flag, text);
                if (*to < 1) Refuse(refusal + std::string(" at least 1; got ") + std::to_string(*to));
            }};
}

Flag Number(const char* name, const char* value, const char* help, std::optional<double>* to) {
    const std::string flag = name;
    return {name, value, help, [flag, to](const std::string& text) { *to = Real(flag, text); }};
}

Flag Switch(const char* name, const char* help, bool* to) {
    return {name, "", help, [to](const std::string&) { *to = true; }};
}

std::vector<Flag> Flags(Arguments* a) {
    return {
        Text("--vocabulary", "FILE", "embedded classes, written by `scclip embed` (default: the bundle's own)",
             &a->vocabulary),
        {"--background", "NAME", "the class that takes what no class claims, or \"none\" (default: the vocabulary's)",
         [a](const std::string& text) { a->background = text; }},
        Text("--output", "DIR", "write DIR/STEM.labels.png, replacing it (default: write nothing)", &a->output),
        Text("--backend", "NAME", "onnxruntime, openvino, tensorrt as compiled in, or auto (default: auto)",
             &a->open.backend),
        Text("--device", "NAME", "auto, cpu or cuda:N (default: auto, the CPU or the GPU that an engine fits)",
             &a->open.device),
        Text("--precision", "NAME",
             "fp32, bf16, fp16, int8 as the bundle and the backend have them; auto: the most accurate that suits the "
             "device; fast: the fastest there is (default: auto)",
             &a->open.precision),
        Text("--ort-provider", "NAME", "ONNX Runtime's provider: cpu, cuda or tensorrt (default: as --device)",
             &a->open.ort_provider),
        Count("--threads", "N", "CPU threads (default: the cores this process may use)", "threads must be",
              &a->open.threads),
        Count("--batch", "N", "most windows encoded at once (default: the backend's)", "batch must be", &a->open.batch),
        Count("--short-side", "PIXELS", "resize the short side to this (default: the bundle's)",
              "short_side must be a whole number of", &a->open.short_side),
        Count("--stride", "PIXELS", "distance between windows (default: the bundle's)",
              "stride must be a whole number of", &a->open.stride),
        Switch("--whole-image", "encode the image in one pass; the bundle must have an encoder for that",
               &a->open.whole_image),
        {"--refine", "NAME", "pamr follows the image's edges more closely, at some cost (default: off)",
         [a](const std::string& text) {
             if (text != "pamr") {
                 Refuse("argument --refine: invalid choice: '" + text + "' (choose from 'pamr')" + kSee);
             }
             a->segment.refine = scclip::Refinement::kPamr;
         }},
        Number("--logit-scale", "X", "factor on cosines before the softmax (default: the bundle's)",
               &a->segment.logit_scale),
        Number("--prob-threshold", "P", "pixels of lower probability become background, or unlabelled",
               &a->segment.prob_threshold),
        Number("--area-threshold", "SHARE", "drop classes of at most this share of the foreground",
               &a->segment.area_threshold),
        Count("--repeat", "N", "time N runs, after one that is not counted", "repeat must be", &a->repeat),
        Switch("--json", "tell what was done as JSON", &a->json),
        Switch("--help", "print this", &a->help),
    };
}

}  // namespace

Arguments ParseArguments(int argc, char** argv) {
    Arguments arguments;
    const std::vector<Flag> flags = Flags(&arguments);
    std::vector<std::string> positional;
    for (int i = 1; i < argc; ++i) {
        const std::string given = argv[i], name = given.substr(0, given.find('='));
        if (given.size() < 2 || given[0] != '-') {
            positional.push_back(given);
            continue;
        }
        const Flag* flag = nullptr;
        for (const Flag& known : flags) flag = known.name == name ? &known : flag;
        const bool joined = name.size() < given.size();
        if (flag == nullptr || (joined && flag->value.empty())) Refuse("unrecognized arguments: " + given + kSee);
        const bool follows = !flag->value.empty() && !joined;
        const bool option_next = i + 1 < argc && std::string(argv[i + 1]).compare(0, 2, "--") == 0;
        if (follows && (i + 1 == argc || option_next)) Refuse("argument " + name + ": expected one argument" + kSee);
        flag->take(joined ? given.substr(name.size() + 1) : follows ? argv[++i] : "");
    }
    if (arguments.help) return arguments;
    if (positional.size() < 2) {
        Refuse(std::string("the following arguments are required: ") +
               (positional.empty() ? "BUNDLE, IMAGE" : "IMAGE") + kSee);
    }
    if (positional.size() > 2) Refuse("unrecognized arguments: " + positional[2] + kSee);
    arguments.bundle = positional[0];
    arguments.image = positional[1];
    return arguments;
}

std::string HelpText() {
    std::string text =
        "usage: scclip-segment-cpp BUNDLE IMAGE [options]\n\n"
        "Segment one JPEG or PNG file, or time it: every pixel gets the class whose name fits it best.\n\n";
    Arguments unused;
    for (const Flag& flag : Flags(&unused)) {
        std::string left = "  " + flag.name + (flag.value.empty() ? "" : " " + flag.value);
        left.resize(std::max<std::size_t>(left.size() + 2, 26), ' ');
        text += left + flag.help + "\n";
    }
    return text + "\nExit codes: 0 done, 2 an error told in one line.\n";
}
