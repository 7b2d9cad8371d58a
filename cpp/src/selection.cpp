#include "selection.hpp"

#include <algorithm>

#include "error.hpp"
#include "text.hpp"

namespace scclip {
namespace {

using Specs = std::vector<const EncoderSpec*>;

void AddGrid(const Bundle& bundle, const char* kind, Specs* specs) {
    for (const EncoderSpec& spec : bundle.manifest().encoders) {
        if (spec.grid.kind == kind) specs->push_back(&spec);
    }
}

bool RunsOn(const EncoderSpec& spec, const std::string& kind) {
    return std::find(spec.runs_on.begin(), spec.runs_on.end(), kind) != spec.runs_on.end();
}

}  // namespace

std::vector<const EncoderSpec*> GridEncoders(const Bundle& bundle, bool whole_image) {
    Specs specs;
    if (!whole_image) {
        AddGrid(bundle, "window", &specs);
        return specs;
    }
    // A dynamic grid keeps the image's ratio, so it goes before a fixed one.
    AddGrid(bundle, "dynamic", &specs);
    AddGrid(bundle, "fixed", &specs);
    if (specs.empty()) {
        ThrowBackend(bundle.path() +
                     ": no encoder for whole images; export the bundle with `--dynamic-grid` (any size) or "
                     "`--image-size HxW` (one size), or leave out --whole-image");
    }
    return specs;
}

const EncoderSpec& ChooseEncoder(const Bundle& bundle, const std::vector<std::string>& precisions, DeviceKind kind,
                                 bool whole_image) {
    const std::string device = kind == DeviceKind::kCpu ? "cpu" : "cuda";
    const Specs wanted = GridEncoders(bundle, whole_image);
    for (const std::string& precision : precisions) {
        for (const EncoderSpec* spec : wanted) {
            if (spec->precision == precision && RunsOn(*spec, device)) return *spec;
        }
    }
    std::vector<std::string> have, asked;
    for (const EncoderSpec* spec : wanted) have.push_back(spec->precision + " for " + Join(spec->runs_on, "/"));
    for (const std::string& precision : precisions) asked.push_back(Quote(precision));
    ThrowBackend(bundle.path() + ": no " + (whole_image ? "whole" : "window") + " encoder in precision " +
                 Join(asked, " or ") + " for " + device + "; the bundle has: " + (have.empty() ? "none" : Join(have)) +
                 ". Choose one with --precision, or export the bundle again with the one you need");
}

int BatchSize(const EncoderSpec& spec, int asked, DeviceKind kind) {
    // On a CPU the matrix products are at full speed from a few windows on, and memory grows with every further one; a
    // GPU wants more work at once. A dynamic grid can have thousands of patches, whose attention fills the memory.
    const std::int64_t patches = static_cast<std::int64_t>(spec.grid.rows) * spec.grid.columns;
    const std::int64_t budget = (kind == DeviceKind::kCpu ? 8 : 32) * 196;
    std::int64_t size = asked > 0 ? asked : (patches > 0 ? std::max<std::int64_t>(1, budget / patches) : 1);
    const Length& first = spec.Find(true, "windows")->shape[0];
    if (const auto* fixed = std::get_if<std::int64_t>(&first)) {
        size = std::min(size, *fixed);
    } else if (const auto axis = spec.axes.find(std::get<std::string>(first)); axis != spec.axes.end()) {
        if (axis->second.max) size = std::min(size, *axis->second.max);
    }
    return static_cast<int>(std::max<std::int64_t>(size, 1));
}

}  // namespace scclip
