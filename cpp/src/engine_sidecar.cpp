#include "engine_sidecar.hpp"

#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <set>

#include "error.hpp"
#include "json_depth.hpp"
#include "schema.hpp"
#include "sha256.hpp"
#include "text.hpp"

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

GridSpec Grid(const Json& grid) {
    GridSpec spec;
    spec.kind = grid["kind"];
    if (grid.contains("rows")) {
        spec.rows = static_cast<int>(grid["rows"].get<double>());
        spec.columns = static_cast<int>(grid["columns"].get<double>());
    }
    return spec;
}

Engine Fill(const std::string& sidecar, const Json& document) {
    Engine engine;
    engine.sidecar = sidecar;
    engine.file = document["file"];
    engine.source = document["source"];
    engine.source_sha256 = document["source_sha256"];
    engine.library = document["library"];
    engine.library_version = document["library_version"];
    engine.compute_capabilities = document["compute_capabilities"].get<std::vector<std::string>>();
    engine.precision = document["precision"];
    engine.grid = Grid(document["grid"]);
    for (const auto& axis : document["profile"].items()) {
        for (std::size_t i = 0; i < 3; ++i) {
            engine.profile[axis.key()][i] = static_cast<std::int64_t>(axis.value()[i].get<double>());
        }
    }
    const Json& options = document["options"];
    engine.version_compatible = options.contains("version_compatible") && Truthy(options["version_compatible"]);
    engine.command = document["command"];
    if (document.contains("device") && document["device"].is_string()) {
        engine.device = document["device"].get<std::string>();
    }
    return engine;
}

std::string Short(const std::string& sha256) { return sha256.substr(0, 12) + "…"; }

/// Why a sidecar's document can't be used; empty if it can.
std::string Flaw(const Json& document, const Bundle& bundle) {
    const Json version = document.is_object() ? document.value("format_version", Json()) : Json();
    if (!IsVersion(version, kSidecarVersion)) {
        return "has sidecar version " + Repr(version) + "; this runtime reads " + std::to_string(kSidecarVersion) +
               ". Upgrade scclip-rt or build the engine again";
    }
    if (const auto error = CheckAgainstEngineSchema(document)) {
        return error->place + ": " + OneLine(error->message, 160);
    }
    const std::string file = document["file"], sha256 = document["sha256"];
    const auto& files = bundle.manifest().files;
    const auto listed = files.find(file);
    if (listed != files.end() && listed->second.sha256 == sha256) return "";
    return "describes " + file + " with SHA-256 " + Short(sha256) + "; bundle.json lists it " +
           (listed == files.end() ? "not at all" : "with SHA-256 " + Short(listed->second.sha256));
}

ReadEngine Read(const Bundle& bundle, const std::string& sidecar) {
    Json document;
    try {
        std::ifstream stream(bundle.CheckedPath(sidecar), std::ios::binary);
        document = ParseJson(std::string(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>()));
    } catch (const Error& error) {
        return {sidecar, std::nullopt, WithoutBundle(bundle, error.what())};
    } catch (const JsonError& error) {
        return {sidecar, std::nullopt, "is not JSON (" + std::string(error.what()) + ")"};
    }
    std::string flaw = Flaw(document, bundle);
    if (!flaw.empty()) return {sidecar, std::nullopt, std::move(flaw)};
    return {sidecar, Fill(sidecar, document), ""};
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
            ThrowBundle(bundle.path() + ": " + Quote(name) + " is not listed in bundle.json");
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
