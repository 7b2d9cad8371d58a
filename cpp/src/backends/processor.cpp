#include "backends/processor.hpp"

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <map>
#include <sstream>

namespace scclip {
namespace {

std::string FirstOf(std::initializer_list<const char*> wanted, const std::set<std::string>& flags) {
    for (const char* flag : wanted) {
        if (flags.count(flag) != 0) return flag;
    }
    return "";
}

std::string Stripped(const std::string& text) {
    const char* spaces = " \t\r\n";
    const std::size_t first = text.find_first_not_of(spaces);
    return first == std::string::npos ? "" : text.substr(first, text.find_last_not_of(spaces) - first + 1);
}

/// What the kernel says of the first processor.
std::map<std::string, std::string> CpuInfo() {
    std::map<std::string, std::string> fields;
    std::ifstream file("/proc/cpuinfo");
    for (std::string line; std::getline(file, line);) {
        const std::size_t colon = line.find(':');
        const std::string value = colon == std::string::npos ? "" : line.substr(colon + 1);
        fields.emplace(Stripped(line.substr(0, colon)), Stripped(value));
    }
    return fields;
}

/// Whether a variable keeps oneDNN, and with it OpenVINO, from bf16. OpenVINO says that it has bf16 even then, and
/// can't compile a graph in it.
bool HeldFromBf16() {
    static const std::set<std::string> without = {"SSE41",     "AVX",         "AVX2",
                                                  "AVX2_VNNI", "AVX512_CORE", "AVX512_CORE_VNNI"};
    for (const char* name : {"ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA"}) {
        const char* value = std::getenv(name);
        std::string isa = value == nullptr ? "" : value;
        std::transform(isa.begin(), isa.end(), isa.begin(), [](unsigned char c) { return std::toupper(c); });
        if (without.count(isa) != 0) return true;
    }
    return false;
}

}  // namespace

std::set<std::string> ProcessorFlags() {
    const auto fields = CpuInfo();
    auto found = fields.find("flags");
    if (found == fields.end()) found = fields.find("Features");
    if (found == fields.end()) return {};
    std::istringstream words(found->second);
    std::set<std::string> flags{std::istream_iterator<std::string>(words), std::istream_iterator<std::string>()};
    if (HeldFromBf16()) {
        for (std::string flag; !(flag = Bf16Flag(flags)).empty();) flags.erase(flag);
    }
    return flags;
}

std::string ProcessorVendor() {
    const auto fields = CpuInfo();
    const auto found = fields.find("vendor_id");
    return found == fields.end() ? "" : found->second;
}

std::string ProcessorIdentity() {
    const auto fields = CpuInfo();
    std::string identity;
    for (const char* name : {"model name", "cpu family", "model", "CPU part"}) {
        const auto found = fields.find(name);
        identity += (found == fields.end() ? "" : found->second) + "\n";
    }
    for (const std::string& flag : ProcessorFlags()) identity += flag + "\n";
    identity.pop_back();
    return identity;
}

std::string Bf16Flag(const std::set<std::string>& flags) {
    return FirstOf({"amx_bf16", "avx512_bf16", "avx_ne_convert"}, flags);
}

std::string GainingBf16Flag(const std::set<std::string>& flags, const std::string& vendor) {
    if (vendor == "AuthenticAMD") return FirstOf({"amx_bf16", "avx512_bf16"}, flags);
    return FirstOf({"amx_bf16"}, flags);
}

std::string Int8Flag(const std::set<std::string>& flags) {
    return FirstOf({"amx_int8", "avx512_vnni", "avx_vnni"}, flags);
}

}  // namespace scclip
