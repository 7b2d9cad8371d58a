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

#include "arguments.hpp"
#include "image_files.hpp"

namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

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

/// One class without a background gets every pixel. Mostly it was meant as several, with commas between.
void TellOfOnlyClass(const std::vector<std::string>& classes, const Arguments& arguments) {
    const bool background = classes[0] == "background" || arguments.background.value_or("none") != "none";
    if (classes.size() != 1 || background) return;
    std::string several = arguments.classes;
    std::replace(several.begin(), several.end(), ',', ';');
    if (several == arguments.classes) several += "; background";
    std::fprintf(stderr,
                 "scclip-segment-cpp: note: one class, '%s', gets every pixel: commas separate synonyms, semicolons "
                 "separate classes, such as \"%s\"\n",
                 classes[0].c_str(), several.c_str());
}

scclip::Segmenter Open(const Arguments& arguments) {
    scclip::Segmenter segmenter = Checked(scclip::Segmenter::Open(arguments.bundle, arguments.open));
    if (!arguments.classes.empty()) {
        scclip::EmbedOptions options;
        options.background = arguments.background;
        const scclip::Status status = segmenter.SetClasses(arguments.classes, options);
        if (!status) throw std::runtime_error(status.message());
        TellOfOnlyClass(segmenter.Classes(), arguments);
        return segmenter;
    }
    if (arguments.vocabulary.empty() && segmenter.Classes().empty()) {
        throw std::runtime_error("no classes: pass --classes NAMES or --vocabulary FILE (" + arguments.bundle +
                                 " carries no vocabulary of its own)");
    }
    if (!arguments.vocabulary.empty() || arguments.background) {
        const scclip::Status status = segmenter.SetVocabulary(arguments.vocabulary, arguments.background);
        if (!status) throw std::runtime_error(status.message());
    }
    return segmenter;
}

using Times = std::map<std::string, std::vector<double>>;  // milliseconds of each stage

scclip::Segmentation Measure(const scclip::Segmenter& segmenter, const Image& image, const Arguments& arguments,
                             Times* times) {
    const scclip::ImageView view{image.pixels.data(), image.height, image.width, 0, scclip::PixelFormat::kRgb};
    scclip::Segmentation result;
    for (int run = arguments.repeat > 1 ? -1 : 0; run < arguments.repeat; ++run) {
        const auto start = std::chrono::steady_clock::now();
        result = Checked(segmenter.Segment(view, arguments.segment));
        const std::chrono::duration<double, std::milli> total = std::chrono::steady_clock::now() - start;
        if (run < 0) continue;
        (*times)["total"].push_back(total.count());
        (*times)["prepare"].push_back(result.timings.prepare);
        (*times)["encode"].push_back(result.timings.encode);
        (*times)["decode"].push_back(result.timings.decode);
    }
    return result;
}

/// The path of the labels, written; empty without --output.
std::string Save(const scclip::Segmentation& result, const Arguments& arguments) {
    if (arguments.output.empty()) return "";
    fs::create_directories(arguments.output);
    const std::string stem = fs::path(arguments.image).stem().string();
    const std::string labels = (fs::path(arguments.output) / (stem + ".labels.png")).string();
    WritePng(labels, result.height, result.width, result.labels, result.wide_labels);
    return labels;
}

Json Report(const scclip::Segmentation& result, const scclip::BackendInfo& info, const Arguments& arguments,
            const std::string& labels, const Times& times) {
    rusage usage{};
    getrusage(RUSAGE_SELF, &usage);
    Json report = {{"image", arguments.image}, {"height", result.height},
                   {"width", result.width},    {"labels", labels},
                   {"shares", Shares(result)}, {"backend", info.backend},
                   {"version", info.version},  {"provider", info.provider},
                   {"device", info.device},    {"precision", info.precision},
                   {"encoder", info.encoder},  {"reason", info.reason},
                   {"decode", info.decode},    {"threads", info.threads},
                   {"batch", info.batch},      {"runs", arguments.repeat}};
    for (const auto& [stage, values] : times) report["milliseconds"][stage] = Percentiles(values);
    report["peak_memory_mb"] = static_cast<double>(usage.ru_maxrss) / 1024;
    return report;
}

void Print(const Json& report, const scclip::BackendInfo& info) {
    for (const auto& share : report["shares"].items()) {
        std::printf("%6.2f %%  %s\n", 100 * share.value().get<double>(), share.key().c_str());
    }
    for (const auto& stage : report["milliseconds"].items()) {
        std::printf("%-8s p50 %8.2f  p90 %8.2f  p99 %8.2f ms\n", stage.key().c_str(),
                    stage.value()["p50"].get<double>(), stage.value()["p90"].get<double>(),
                    stage.value()["p99"].get<double>());
    }
    const std::string threads = std::to_string(info.threads) + (info.threads == 1 ? " thread" : " threads");
    std::printf("encoded by %s %s in %s on %s (%s)\n", info.backend.c_str(), info.version.c_str(),
                info.precision.c_str(), info.device == "cpu" ? ("the CPU, " + threads).c_str() : info.device.c_str(),
                info.reason.c_str());
}

int Run(const Arguments& arguments) {
    if (!arguments.output.empty() && fs::exists(arguments.output) && !fs::is_directory(arguments.output)) {
        throw std::runtime_error(arguments.output + " is a file; --output names a folder");
    }
    const scclip::Segmenter segmenter = Open(arguments);
    const Image image = ReadImage(arguments.image, arguments.open.max_pixels);
    Times times;
    const scclip::Segmentation result = Measure(segmenter, image, arguments, &times);
    const std::string labels = Save(result, arguments);
    const scclip::BackendInfo info = segmenter.Describe();
    const Json report = Report(result, info, arguments, labels, times);
    if (arguments.json) {
        std::printf("%s\n", report.dump(2).c_str());
    } else {
        Print(report, info);
    }
    return 0;
}

}  // namespace

int main(int argc, char** argv) {
    try {
        Arguments arguments;
        if (const std::optional<int> code = ParseArguments(argc, argv, &arguments)) return *code;
        return Run(arguments);
    } catch (const std::exception& error) {
        std::fprintf(stderr, "scclip-segment-cpp: error: %s\n", error.what());
        return 2;
    }
}
