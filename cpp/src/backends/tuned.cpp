#include "backends/tuned.hpp"

#include <cstdio>
#include <filesystem>
#include <fstream>
#include <iterator>

#include "backends/processor.hpp"
#include "bundle/hashes.hpp"
#include "bundle/json.hpp"
#include "decode/threads.hpp"
#include "errors.hpp"
#include "options.hpp"

namespace scclip {
namespace {

using Json = nlohmann::json;

constexpr const char* kAgain = "run scclip tune again";
constexpr std::size_t kDigits = 16;
constexpr std::size_t kMostBytes = std::size_t{1} << 20U;

std::string Damaged() { return std::string("what scclip tune measured is damaged: ") + kAgain; }

Measured Row(const Json& item) {
    Measured row;
    row.grid = item.at("grid");
    row.precision = item.at("precision");
    row.backend = item.at("backend");
    row.milliseconds = item.at("milliseconds");
    const bool whole = item.at("threads").is_number_integer() && item.at("batch").is_number_integer();
    const bool known = (row.grid == "window" || row.grid == "whole") &&
                       (row.backend == "onnxruntime" || row.backend == "openvino") && item.size() == 6;
    if (!whole || !known || !(row.milliseconds > 0)) throw JsonError("no row");
    row.threads = static_cast<int>(InRange("threads", item.at("threads").get<double>()));
    row.batch = static_cast<int>(InRange("batch", item.at("batch").get<double>()));
    if (row.threads == 0 || row.batch == 0) throw JsonError("no row");
    return row;
}

/// What is not as it was when the file was written; empty where everything is.
std::string Difference(const Json& document, const std::string& bundle_sha256, int cores,
                       const std::map<std::string, std::string>& versions) {
    if (document.at("schema") != "scclip-tuned/1") return "its format is " + document.at("schema").dump();
    if (document.at("bundle") != bundle_sha256) return "it is of another bundle";
    if (document.at("cores") != cores) {
        return "it ran on " + document.at("cores").dump() + " cores, there are " + std::to_string(cores);
    }
    for (const auto& [name, version] : versions) {
        const std::string measured = document.at("versions").value(name, "not installed");
        if (measured != version) return "it ran with " + name + " " + measured + ", here is " + version;
    }
    return "";
}

}  // namespace

std::string Measured::ToString() const {
    char number[64];
    std::snprintf(number, sizeof number, "%.1f", milliseconds);
    const std::string at_once = grid == "window" ? ", " + std::to_string(batch) + " windows at once" : "";
    return number + std::string(" ms an image on ") + std::to_string(threads) + " threads" + at_once;
}

const Measured* Tuned::Best(const OpenOptions& options, const std::string& precision) const {
    const std::string grid = options.whole_image.value_or(false) ? "whole" : "window";
    const Measured* best = nullptr;
    for (const Measured& row : rows) {
        const bool agrees = row.grid == grid && (precision.empty() || row.precision == precision) &&
                            (options.backend == "auto" || row.backend == options.backend) &&
                            (options.threads == 0 || row.threads == options.threads) &&
                            (options.batch == 0 || row.batch == options.batch);
        if (agrees && (best == nullptr || row.milliseconds < best->milliseconds)) best = &row;
    }
    return best;
}

Tuned ParseTuned(const std::string& text, const std::string& bundle_sha256, int cores,
                 const std::map<std::string, std::string>& versions) {
    Tuned tuned;
    try {
        const Json document = ParseJson(text);
        for (const Json& item : document.at("rows")) {
            Measured row = Row(item);
            if (versions.count(row.backend) != 0) tuned.rows.push_back(std::move(row));
        }
        const std::string difference = Difference(document, bundle_sha256, cores, versions);
        if (difference.empty()) return tuned;
        return {{}, "what scclip tune measured is not used: " + difference + "; " + kAgain};
    } catch (const JsonError&) {
    } catch (const Json::exception&) {
    } catch (const Error&) {
    }
    return {{}, Damaged()};
}

std::string TunedFile(const std::string& bundle_sha256) {
    const std::string folder = CacheFolder();
    if (folder.empty()) return "";
    Sha256 processor;
    const std::string identity = ProcessorIdentity();
    processor.Update(identity.data(), identity.size());
    return folder + "/tuned/" + bundle_sha256.substr(0, kDigits) + "-" + processor.HexDigest().substr(0, kDigits) +
           ".json";
}

Tuned ReadTuned(const Bundle& bundle, const std::map<std::string, std::string>& versions) {
    const std::string sha256 = Sha256OfFile(bundle.path() + "/bundle.json");
    const std::string path = TunedFile(sha256);
    std::error_code error;
    if (path.empty() || !std::filesystem::is_regular_file(path, error)) return {};
    if (std::filesystem::file_size(path, error) > kMostBytes) return {{}, Damaged()};
    std::ifstream stream(path, std::ios::binary);
    const std::string text((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    return ParseTuned(text, sha256, DefaultThreads(), versions);
}

}  // namespace scclip
