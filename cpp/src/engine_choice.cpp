#include "engine_choice.hpp"

#include <exception>
#include <set>

#include "error.hpp"
#include "selection.hpp"
#include "text.hpp"

namespace scclip {

EngineChoice FittingEngine(const Bundle& bundle, const OpenOptions& options, const HostFinder& tensorrt) {
    std::set<std::string> held;
    for (const ReadEngine& read : ReadEngines(bundle)) {
        if (read.engine) held.insert(read.engine->library);
    }
    if (held.empty()) return {"", "the bundle holds no engine", "auto"};
    std::vector<std::string> reasons;
    if (held.count("tensorrt") != 0) {
        if (!tensorrt) {
            reasons.emplace_back("this build has no tensorrt");
        } else {
            try {
                const EngineHost host = tensorrt(GpuNumber(options.device).value_or(0));
                const Engine engine = ChooseForGrids(bundle, host.machine, options.precision, options.whole_image);
                return {"tensorrt", engine.file + " fits " + host.gpu, engine.precision};
            } catch (const Error& error) {
                reasons.emplace_back(error.what());
            }
        }
    }
    if (held.count("tensorrt-rtx") != 0) reasons.emplace_back("tensorrt-rtx is in the Python runtime alone");
    return {"", Join(reasons, "; "), "auto"};
}

Engine ChooseForGrids(const Bundle& bundle, const Machine& machine, const std::string& precision, bool whole_image) {
    std::exception_ptr failure;
    for (const EncoderSpec* spec : GridEncoders(bundle, whole_image)) {
        Wanted wanted;
        wanted.grid = spec->grid;
        wanted.precision = precision;
        try {
            return ChooseEngine(bundle, machine, wanted);
        } catch (const Error&) {
            if (!failure) failure = std::current_exception();
        }
    }
    if (failure) std::rethrow_exception(failure);
    ThrowBackend(bundle.path() + ": no " + (whole_image ? "whole" : "window") + " encoder");
}

std::optional<int> GpuNumber(const std::string& device) {
    if (device == "auto" || device == "cuda") return 0;
    const bool numbered = device.size() > 5 && device.size() < 10 && device.compare(0, 5, "cuda:") == 0 &&
                          device.find_first_not_of("0123456789", 5) == std::string::npos;
    if (!numbered) return std::nullopt;
    return std::stoi(device.substr(5));
}

}  // namespace scclip
