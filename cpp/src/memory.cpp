#include "memory.hpp"

#include <algorithm>
#include <fstream>
#include <limits>

#include "errors.hpp"

namespace scclip {
namespace {

/// The first number of a file, or infinity ("max", or no such file).
double Limit(const std::string& path) {
    std::ifstream file(path);
    double number = 0;
    return file >> number ? number : std::numeric_limits<double>::infinity();
}

double MachineFree(const std::string& root) {
    std::ifstream file(root + "/proc/meminfo");
    for (std::string line; std::getline(file, line);) {
        if (line.compare(0, 13, "MemAvailable:") == 0) return std::stod(line.substr(13)) * 1024;
    }
    return std::numeric_limits<double>::infinity();
}

/// What is left of a container's limit; its own group is the root of what it sees.
double ContainerFree(const std::string& group, const char* limit, const char* used) {
    const double most = Limit(group + limit), now = Limit(group + used);
    return most < 1e18 && now < 1e18 ? std::max(0.0, most - now) : std::numeric_limits<double>::infinity();
}

}  // namespace

ModelSizes ModelSizes::Of(const Manifest& manifest, int batch) {
    return {manifest.patch_size, manifest.embed_dim, manifest.heads, manifest.width, batch};
}

double EstimatedBytes(const Tiling& tiling, std::int64_t height, std::int64_t width, const ModelSizes& model) {
    const double windows = tiling.size(), at_once = std::min(tiling.size(), model.batch);
    const double area = static_cast<double>(tiling.window_height) * tiling.window_width;
    const double patches = area / (static_cast<double>(model.patch) * model.patch);
    const double attention = (model.heads + 6.0) * patches * patches * sizeof(float);
    const double activations = 16.0 * patches * model.width * sizeof(float);
    const double pixels = 3.0 * (static_cast<double>(tiling.height) * tiling.width + windows * area);
    const double features = 2.0 * windows * patches * model.embed_dim * sizeof(float);
    return at_once * (attention + activations) + pixels + features +
           16.0 * static_cast<double>(height) * static_cast<double>(width);
}

double FreeMemory(const std::string& root) {
    const std::string groups = root + "/sys/fs/cgroup";
    return std::min({MachineFree(root), ContainerFree(groups, "/memory.max", "/memory.current"),
                     ContainerFree(groups, "/memory/memory.limit_in_bytes", "/memory/memory.usage_in_bytes")});
}

void CheckMemory(double needed, std::int64_t max_memory) {
    constexpr double kSmall = 256 << 20;  // not worth asking the system
    if (max_memory == 0 && needed < kSmall) return;
    const double most = max_memory > 0 ? static_cast<double>(max_memory) : FreeMemory() / 2;
    if (needed <= most) return;
    ThrowImage("the image would take about " + std::to_string(static_cast<std::int64_t>(needed / 1e6)) +
                   " MB, and max_memory is " + std::to_string(static_cast<std::int64_t>(most / 1e6)) +
                   " MB: lower short_side or batch, use windows instead of whole_image, or raise max_memory",
               "max_memory");
}

}  // namespace scclip
