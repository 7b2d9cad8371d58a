#include "bundle/engine_sidecar.hpp"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <limits>
#include <nlohmann/json.hpp>
#include <set>

#include "bundle/hashes.hpp"
#include "bundle/json.hpp"
#include "bundle/schema.hpp"
#include "errors.hpp"
#include "words.hpp"

namespace scclip {
namespace {

using Json = nlohmann::json;

constexpr int kSidecarVersion = 1;

bool Truthy(const Json& value) {
    if (value.is_boolean()) return value.get<bool>();
    if (value.is_number()) return value.get<double>() != 0;
    if (value.is_string()) return !value.get_ref<const std::string&>().empty();
    return !value.empty();
}

bool IsVersion(const Json& value, int version) {
    if (value.is_boolean()) return value.get<bool>() == (version == 1);
    return value.is_number() && value.get<double>() == version;
}

/// A whole number of any size, cut to what its type holds: JSON has no limit.
template <typename T>
T Whole(const Json& value) {
    constexpr double most = std::min(9e15, static_cast<double>(std::numeric_limits<T>::max()));
    return static_cast<T>(std::min(value.get<double>(), most));
}

GridSpec Grid(const Json& grid) {
    GridSpec spec;
    spec.kind = grid["kind"];
    if (grid.contains("rows")) {
        spec.rows = Whole<int>(grid["rows"]);
        spec.columns = Whole<int>(grid["columns"]);
    }
    return spec;
}

Engine Fill(const std::string& sidecar, const Json& document) {
    Engine engine;
    engine.sidecar = sidecar;
    engine.file = document["file"];
    engine.sha256 = document["sha256"];
    engine.source = document["source"];
    engine.source_sha256 = document["source_sha256"];
    engine.library = document["library"];
    engine.library_version = document["library_version"];
    engine.compute_capabilities = document["compute_capabilities"].get<std::vector<std::string>>();
    engine.precision = document["precision"];
    engine.grid = Grid(document["grid"]);
    for (const auto& axis : document["profile"].items()) {
        for (std::size_t i = 0; i < 3; ++i) {
            engine.profile[axis.key()][i] = Whole<std::int64_t>(axis.value()[i]);
        }
    }
    const Json& options = document["options"];
    engine.version_compatible = options.contains("version_compatible") && Truthy(options["version_compatible"]);
    if (document.contains("device") && document["device"].is_string()) {
        engine.device = document["device"].get<std::string>();
    }
    return engine;
}

std::string Short(const std::string& sha256) { return sha256.substr(0, 12) + "…"; }

/// Why a sidecar's document can't be used; empty if it can.
std::string Flaw(const Json& document) {
    const Json version = document.is_object() ? document.value("format_version", Json()) : Json();
    if (!IsVersion(version, kSidecarVersion)) {
        return "has sidecar version " + Quote(version.dump()) + "; this runtime reads " +
               std::to_string(kSidecarVersion) + "; take a newer library, or build the engine again";
    }
    if (const auto error = CheckAgainstEngineSchema(document)) {
        return (error->place.empty() ? "" : error->place + " ") + OneLine(error->message, 160);
    }
    return "";
}

/// What bundle.json says of an engine's file, if that is not what its sidecar says.
std::string Unlisted(const Bundle& bundle, const Engine& engine) {
    const auto& files = bundle.manifest().files;
    const auto listed = files.find(engine.file);
    if (listed != files.end() && listed->second.sha256 == engine.sha256) return "";
    return "describes " + engine.file + " with SHA-256 " + Short(engine.sha256) + "; bundle.json lists it " +
           (listed == files.end() ? "not at all" : "with SHA-256 " + Short(listed->second.sha256));
}

ReadEngine Read(const Bundle& bundle, const std::string& sidecar) {
    std::string text;
    try {
        std::ifstream stream(bundle.CheckedPath(sidecar), std::ios::binary);
        text.assign(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
    } catch (const Error& error) {
        return {sidecar, std::nullopt, WithoutBundle(bundle, error.what())};
    }
    ReadEngine read = ParseSidecar(sidecar, text);
    if (!read.engine) return read;
    std::string reason = Unlisted(bundle, *read.engine);
    if (reason.empty()) return read;
    return {sidecar, std::nullopt, std::move(reason)};
}

}  // namespace

std::string Engine::ToString() const {
    const auto range = [&](const char* axis) {
        const auto& span = profile.at(axis);
        return std::to_string(span[0]) + "–" + std::to_string(span[2]);
    };
    return file + " (" + library + " " + library_version + ", " + precision + ", " + grid.ToString() +
           ", compute capability " + Join(compute_capabilities) + ", batch " + range("batch") + ", queries " +
           range("queries") + ")";
}

ReadEngine ParseSidecar(const std::string& sidecar, const std::string& text) {
    try {
        const Json document = ParseJson(text);
        std::string flaw = Flaw(document);
        if (!flaw.empty()) return {sidecar, std::nullopt, std::move(flaw)};
        return {sidecar, Fill(sidecar, document), ""};
    } catch (const JsonError& error) {
        return {sidecar, std::nullopt, "is not JSON (" + std::string(error.what()) + ")"};
    } catch (const nlohmann::json::exception& error) {
        return {sidecar, std::nullopt, "can't be used (" + std::string(error.what()) + ")"};
    }
}

std::vector<ReadEngine> ReadEngines(const Bundle& bundle) {
    std::vector<ReadEngine> engines;
    for (const std::string& sidecar : bundle.manifest().engines) engines.push_back(Read(bundle, sidecar));
    return engines;
}

std::string SourceSha256(const Bundle& bundle, const std::string& source) {
    std::set<std::string> names = {source};
    for (const std::string& data : bundle.DataFiles(source)) names.insert(data);
    Sha256 digest;
    for (const std::string& name : names) {
        const auto file = bundle.manifest().files.find(name);
        if (file == bundle.manifest().files.end()) {
            ThrowBundle(bundle.path() + ": " + Quote(name) + " is not listed in bundle.json", name);
        }
        const std::string line = file->second.sha256 + " " + name + "\n";
        digest.Update(line.data(), line.size());
    }
    return digest.HexDigest();
}

std::string WithoutBundle(const Bundle& bundle, const std::string& message) {
    const std::string prefix = bundle.path() + "/";
    const std::string rest = message.compare(0, prefix.size(), prefix) == 0 ? message.substr(prefix.size()) : message;
    return rest.substr(0, rest.find(';'));
}

}  // namespace scclip
