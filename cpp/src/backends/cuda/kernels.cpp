#include "backends/cuda/kernels.hpp"

#include <algorithm>
#include <array>
#include <set>
#include <tuple>

#include "bundle/json.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

using Json = nlohmann::json;

constexpr const char* kList = "kernels/kernels.json";
constexpr unsigned kMaxWarps = 32, kMaxShared = 1U << 20U, kMaxHidden = 16;

unsigned Whole(const Json& item, const char* key, unsigned most) {
    const Json& value = item.at(key);
    if (!value.is_number_unsigned() || value.get<std::uint64_t>() > most) {
        throw std::runtime_error(std::string(key) + " is no number from 0 to " + std::to_string(most));
    }
    return value.get<unsigned>();
}

void ReadCapability(const std::string& text, KernelSpec* spec) {
    const std::size_t point = text.find('.');
    const auto digits = [](const std::string& part) {
        return !part.empty() && part.size() < 4 && part.find_first_not_of("0123456789") == std::string::npos;
    };
    if (point == std::string::npos || !digits(text.substr(0, point)) || !digits(text.substr(point + 1))) {
        throw std::runtime_error("compute_capability is not like 8.9");
    }
    spec->major = std::stoi(text.substr(0, point));
    spec->minor = std::stoi(text.substr(point + 1));
}

void CheckType(const std::string& type) {
    static const std::set<std::string> known = {"i1", "i8",  "i16", "i32", "i64",  "u1",
                                                "u8", "u16", "u32", "u64", "fp32", "fp64"};
    if (type.empty() || (type[0] != '*' && known.count(type) == 0)) {
        throw std::runtime_error("a parameter has the unknown type '" + type + "'");
    }
}

KernelSpec Kernel(const Json& item) {
    KernelSpec spec;
    spec.name = item.at("name");
    spec.file = item.at("file");
    spec.entry = item.at("entry");
    ReadCapability(item.at("compute_capability"), &spec);
    spec.num_warps = Whole(item, "num_warps", kMaxWarps);
    spec.shared_bytes = Whole(item, "shared_bytes", kMaxShared);
    spec.hidden_pointers = Whole(item, "hidden_pointers", kMaxHidden);
    for (const Json& parameter : item.at("parameters")) {
        spec.parameters.emplace_back(parameter.at(0), parameter.at(1));
        CheckType(spec.parameters.back().second);
    }
    spec.constants = item.at("constants");
    if (!spec.constants.is_object()) throw std::runtime_error("constants is no object");
    return spec;
}

}  // namespace

bool KernelSpec::RunsOn(int gpu_major, int gpu_minor) const {
    if (major >= 9) return gpu_major == major && gpu_minor == minor;
    return gpu_major == major && gpu_minor >= minor;
}

unsigned KernelSpec::Constant(const char* name) const {
    const auto found = constants.find(name);
    if (found == constants.end() || !found->is_number_unsigned() || found->get<std::uint64_t>() - 1 >= 1U << 20U) {
        ThrowBundle(std::string(kList) + ": kernel '" + this->name + "' has no usable " + name +
                    "; export the bundle again");
    }
    return found->get<unsigned>();
}

const KernelSpec* KernelChoice::Find(const std::string& name, const std::map<std::string, std::string>& types,
                                     const std::map<std::string, bool>& constants) const {
    for (const KernelSpec& kernel : kernels) {
        if (kernel.name != name) continue;
        const bool typed = std::all_of(types.begin(), types.end(), [&](const auto& type) {
            return std::find(kernel.parameters.begin(), kernel.parameters.end(),
                             std::pair<std::string, std::string>(type)) != kernel.parameters.end();
        });
        const bool fixed = std::all_of(constants.begin(), constants.end(), [&](const auto& constant) {
            return kernel.constants.value(constant.first, Json()) == Json(constant.second);
        });
        if (typed && fixed) return &kernel;
    }
    return nullptr;
}

std::vector<KernelSpec> ParseKernelList(const std::string& text) {
    try {
        const Json document = ParseJson(text);
        if (!document.is_array()) throw std::runtime_error("no list");
        std::vector<KernelSpec> specs;
        for (const Json& item : document) specs.push_back(Kernel(item));
        return specs;
    } catch (const std::exception& error) {
        ThrowBundle(std::string(kList) + ": not a list of kernels (" + error.what() + "); export the bundle again");
    }
}

KernelChoice ChooseKernels(const Bundle& bundle, int gpu_major, int gpu_minor) {
    KernelChoice choice;
    if (bundle.manifest().files.count(kList) == 0) {
        choice.reason = "the bundle holds no compiled kernels";
        return choice;
    }
    std::map<std::string, std::pair<int, int>> newest;
    std::set<std::string> have;
    const std::vector<KernelSpec> specs = ParseKernelList(bundle.Read(kList));
    for (const KernelSpec& spec : specs) {
        if (bundle.manifest().files.count(spec.file) == 0) {
            ThrowBundle(bundle.path() + "/" + kList + ": '" + spec.file + "' is not listed in bundle.json");
        }
        have.insert("sm_" + std::to_string(spec.major) + std::to_string(spec.minor));
        auto& best = newest[spec.name];
        if (spec.RunsOn(gpu_major, gpu_minor)) best = std::max(best, std::pair{spec.major, spec.minor});
    }
    for (const KernelSpec& spec : specs) {
        if (newest[spec.name] == std::pair{spec.major, spec.minor}) choice.kernels.push_back(spec);
    }
    if (choice.kernels.empty()) {
        const std::string list = Join({have.begin(), have.end()});
        choice.reason = "the bundle's kernels are for " + (list.empty() ? "nothing" : list) + ", this GPU is sm_" +
                        std::to_string(gpu_major) + std::to_string(gpu_minor);
    }
    return choice;
}

}  // namespace scclip
