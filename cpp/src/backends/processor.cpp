#include "backends/processor.hpp"

#include <fstream>
#include <initializer_list>
#include <sstream>

namespace scclip {
namespace {

std::string FirstOf(std::initializer_list<const char*> wanted, const std::set<std::string>& flags) {
    for (const char* flag : wanted) {
        if (flags.count(flag) != 0) return flag;
    }
    return "";
}

}  // namespace

std::set<std::string> ProcessorFlags() {
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        if (line.compare(0, 5, "flags") != 0 && line.compare(0, 8, "Features") != 0) continue;
        std::istringstream words(line.substr(line.find(':') + 1));
        std::set<std::string> flags;
        for (std::string word; words >> word;) flags.insert(word);
        return flags;
    }
    return {};
}

std::string Bf16Flag(const std::set<std::string>& flags) {
    return FirstOf({"amx_bf16", "avx512_bf16", "avx_ne_convert"}, flags);
}

std::string Int8Flag(const std::set<std::string>& flags) {
    return FirstOf({"amx_int8", "avx512_vnni", "avx_vnni"}, flags);
}

}  // namespace scclip
