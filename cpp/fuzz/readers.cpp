#include "readers.hpp"

#include "backends/cuda/kernels.hpp"
#include "bundle/engine_sidecar.hpp"
#include "bundle/manifest.hpp"
#include "bundle/onnx_weights.hpp"
#include "errors.hpp"
#include "vocabulary/classes.hpp"
#include "vocabulary/clean.hpp"
#include "vocabulary/file.hpp"
#include "vocabulary/tokenizer.hpp"

namespace {

template <typename Function>
void Refusing(Function function) {
    try {
        function();
    } catch (const scclip::Error&) {
        return;  // anything else is a finding
    }
}

}  // namespace

const std::map<std::string, Reader>& Readers() {
    static const std::map<std::string, Reader> readers = {
        {"engine",
         [](const std::string& bytes) {
             const auto read = scclip::ParseSidecar("fuzz", bytes);
             if (read.engine) (void)read.engine->ToString();
         }},
        {"kernels", [](const std::string& bytes) { Refusing([&] { (void)scclip::ParseKernelList(bytes); }); }},
        {"manifest", [](const std::string& bytes) { Refusing([&] { (void)scclip::ParseManifest(bytes); }); }},
        {"names",
         [](const std::string& bytes) {
             Refusing([&] { (void)scclip::ParseClasses(bytes); });
             Refusing([&] { (void)scclip::Clean(bytes); });
         }},
        {"onnx",
         [](const std::string& bytes) {
             const auto* data = reinterpret_cast<const unsigned char*>(bytes.data());
             Refusing([&] { (void)scclip::ExternalLocationsIn(data, bytes.size(), "fuzz"); });
         }},
        {"tokenizer", [](const std::string& bytes) { Refusing([&] { (void)scclip::Tokenizer::Parse(bytes); }); }},
        {"vocabulary", [](const std::string& bytes) { Refusing([&] { (void)scclip::ParseVocabulary(bytes); }); }},
    };
    return readers;
}
