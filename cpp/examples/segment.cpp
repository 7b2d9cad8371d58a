// scclip-segment-cpp: segment one image file, or time it.
#include <scclip/segmenter.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <map>
#include <nlohmann/json.hpp>
#include <stdexcept>

#include "image_files.hpp"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

constexpr const char* kUsage =
    "usage: scclip-segment-cpp BUNDLE IMAGE [--vocabulary FILE] [--output DIR] [--backend NAME] [--device NAME]\n"
    "         [--threads N] [--batch N] [--short-side N] [--whole-image] [--repeat N] [--json]\n"
    "Labels go to DIR/STEM.labels.png; --repeat N times N runs after one that is not counted.\n";

struct Arguments {
    std::vector<std::string> positional;
    std::string vocabulary, output;
    scclip::OpenOptions open;
    int repeat = 1;
    bool json = false;
};

int Number(const std::string& flag, const std::string& text) {
    std::size_t used = 0;
    int number = 0;
    try {
        number = std::stoi(text, &used);
    } catch (const std::exception&) {
        used = 0;
    }
    if (used == 0 || used != text.size() || number < 1) {
        throw std::runtime_error(flag + " must be a whole number of at least 1; got '" + text + "'");
    }
    return number;
}

Arguments Parse(int argc, char** argv) {
    Arguments arguments;
    const std::map<std::string, std::string*> texts = {{"--vocabulary", &arguments.vocabulary},
                                                       {"--output", &arguments.output},
                                                       {"--backend", &arguments.open.backend},
                                                       {"--device", &arguments.open.device}};
    const std::map<std::string, int*> numbers = {{"--threads", &arguments.open.threads},
                                                 {"--batch", &arguments.open.batch},
                                                 {"--short-side", &arguments.open.short_side},
                                                 {"--repeat", &arguments.repeat}};
    for (int i = 1; i < argc; ++i) {
        const std::string flag = argv[i];
        const auto text = texts.find(flag);
        const auto number = numbers.find(flag);
        if (flag == "--json" || flag == "--whole-image") {
            (flag == "--json" ? arguments.json : arguments.open.whole_image) = true;
        } else if (text == texts.end() && number == numbers.end()) {
            if (flag.compare(0, 1, "-") == 0) throw std::runtime_error("unknown option " + flag + "\n" + kUsage);
            arguments.positional.push_back(flag);
        } else if (i + 1 == argc) {
            throw std::runtime_error(flag + " needs a value");
        } else if (text != texts.end()) {
            *text->second = argv[++i];
        } else {
            *number->second = Number(flag, argv[++i]);
        }
    }
    if (arguments.positional.size() != 2) throw std::runtime_error(kUsage);
    return arguments;
}

/// Nearest rank.
double Percentile(std::vector<double> values, double share) {
    std::sort(values.begin(), values.end());
    const double rank = std::ceil(share * static_cast<double>(values.size()));
    return values[static_cast<std::size_t>(std::max(rank, 1.0)) - 1];
}

Json Percentiles(const std::vector<double>& values) {
    return {{"p50", Percentile(values, 0.5)}, {"p90", Percentile(values, 0.9)}, {"p99", Percentile(values, 0.99)}};
}

Json Shares(const scclip::Segmentation& result) {
    std::vector<std::size_t> counts(std::size_t{65536});
    const std::size_t pixels = result.labels.size() + result.wide_labels.size();
    for (int y = 0; y < result.height; ++y) {
        for (int x = 0; x < result.width; ++x) ++counts[result.at(y, x)];
    }
    Json shares = Json::object();
    for (std::size_t i = 0; i < result.classes->size(); ++i) {
        if (counts[i] > 0) shares[(*result.classes)[i]] = static_cast<double>(counts[i]) / static_cast<double>(pixels);
    }
    return shares;
}

template <typename T>
T Checked(scclip::Result<T> result) {
    if (!result) throw std::runtime_error(result.status().message());
    return std::move(result).value();
}

int Run(const Arguments& arguments) {
    const Image image = ReadImage(arguments.positional[1]);
    scclip::Segmenter segmenter = Checked(scclip::Segmenter::Open(arguments.positional[0], arguments.open));
    if (!arguments.vocabulary.empty()) {
        const scclip::Status status = segmenter.SetVocabulary(arguments.vocabulary);
        if (!status) throw std::runtime_error(status.message());
    }
    const scclip::ImageView view{image.pixels.data(), image.height, image.width, 0, scclip::PixelFormat::kRgb};
    scclip::Segmentation result;
    std::map<std::string, std::vector<double>> times;
    for (int run = arguments.repeat > 1 ? -1 : 0; run < arguments.repeat; ++run) {
        const auto start = std::chrono::steady_clock::now();
        result = Checked(segmenter.Segment(view));
        const std::chrono::duration<double, std::milli> total = std::chrono::steady_clock::now() - start;
        if (run < 0) continue;
        times["total"].push_back(total.count());
        times["prepare"].push_back(result.timings.prepare);
        times["encode"].push_back(result.timings.encode);
        times["decode"].push_back(result.timings.decode);
    }
    std::string labels;
    if (!arguments.output.empty()) {
        fs::create_directories(arguments.output);
        labels =
            (fs::path(arguments.output) / (fs::path(arguments.positional[1]).stem().string() + ".labels.png")).string();
        WritePng(labels, result.height, result.width, result.labels, result.wide_labels);
    }
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    const scclip::BackendInfo info = segmenter.Describe();
    Json report = {{"image", arguments.positional[1]},
                   {"height", result.height},
                   {"width", result.width},
                   {"labels", labels},
                   {"shares", Shares(result)},
                   {"backend", info.backend},
                   {"version", info.version},
                   {"provider", info.provider},
                   {"device", info.device},
                   {"precision", info.precision},
                   {"threads", info.threads},
                   {"runs", arguments.repeat}};
    for (const auto& [stage, values] : times) report["milliseconds"][stage] = Percentiles(values);
    report["peak_memory_mb"] = static_cast<double>(usage.ru_maxrss) / 1024;
    if (arguments.json) {
        std::printf("%s\n", report.dump(2).c_str());
        return 0;
    }
    for (const auto& share : report["shares"].items()) {
        std::printf("%6.2f %%  %s\n", 100 * share.value().get<double>(), share.key().c_str());
    }
    for (const auto& stage : report["milliseconds"].items()) {
        std::printf("%-8s p50 %8.2f  p90 %8.2f  p99 %8.2f ms\n", stage.key().c_str(),
                    stage.value()["p50"].get<double>(), stage.value()["p90"].get<double>(),
                    stage.value()["p99"].get<double>());
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        return Run(Parse(argc, argv));
    } catch (const std::exception& error) {
        std::fprintf(stderr, "scclip-segment-cpp: %s\n", error.what());
        return 2;
    }
}
