#include "bundle/resolved_graph.hpp"

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <system_error>

#include "errors.hpp"

namespace scclip {
namespace {

namespace fs = std::filesystem;

void Bring(const fs::path& from, const fs::path& to) {
    fs::create_directories(to.parent_path());
    std::error_code error;
    fs::create_hard_link(fs::canonical(from), to, error);
    if (error) fs::copy_file(from, to);
}

}  // namespace

ResolvedGraph::ResolvedGraph(const Bundle& bundle, const std::string& name) : path_(bundle.CheckedGraph(name)) {
    std::vector<std::string> names = bundle.DataFiles(name);
    names.push_back(name);
    bool linked = false;
    for (const std::string& file : names) linked = linked || fs::is_symlink(bundle.path() + "/" + file);
    if (!linked) return;
    try {
        std::string folder = (fs::temp_directory_path() / "scclip-XXXXXX").string();
        if (::mkdtemp(folder.data()) == nullptr) throw std::system_error(errno, std::generic_category());
        folder_ = folder;
        for (const std::string& file : names) Bring(bundle.path() + "/" + file, fs::path(folder_) / file);
        path_ = (fs::path(folder_) / name).string();
    } catch (const std::system_error& error) {
        std::error_code ignored;
        if (!folder_.empty()) fs::remove_all(folder_, ignored);
        ThrowBundle(path_ + ": its links can't be followed into a temporary folder (" + error.code().message() + ")",
                    name);
    }
}

ResolvedGraph::~ResolvedGraph() {
    std::error_code ignored;
    if (!folder_.empty()) fs::remove_all(folder_, ignored);
}

}  // namespace scclip
