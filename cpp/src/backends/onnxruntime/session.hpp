// ONNX Runtime through its C API: it is stable across versions, and no exception crosses it.
#pragma once

#include <onnxruntime_c_api.h>

#include <memory>
#include <string>
#include <vector>

#include "bundle/bundle.hpp"

namespace scclip {

/// The library's functions. Throws Error(kBackend): it is too old.
const OrtApi& Api();

struct ReleaseOrt {
    void operator()(OrtSession* p) const { Api().ReleaseSession(p); }
    void operator()(OrtSessionOptions* p) const { Api().ReleaseSessionOptions(p); }
    void operator()(OrtMemoryInfo* p) const { Api().ReleaseMemoryInfo(p); }
    void operator()(OrtValue* p) const { Api().ReleaseValue(p); }
    void operator()(OrtTypeInfo* p) const { Api().ReleaseTypeInfo(p); }
    void operator()(OrtCUDAProviderOptionsV2* p) const { Api().ReleaseCUDAProviderOptions(p); }
    void operator()(OrtTensorRTProviderOptionsV2* p) const { Api().ReleaseTensorRTProviderOptions(p); }
};
template <typename T>
using Owned = std::unique_ptr<T, ReleaseOrt>;

/// The message of a failed call, in one line; empty for success.
std::string TakeOrt(OrtStatus* status, std::size_t length = 300);

/// Throws Error(kBackend) for a call that failed.
void CheckOrt(OrtStatus* status);

struct Provider {
    std::string name = "cpu";  ///< cpu, cuda, tensorrt
    int device = 0;
};

/// ONNX Runtime's own name of a provider.
const char* FullName(const std::string& provider);

/// The provider and device number that the two options ask for together. Throws Error(kBackend).
Provider ChooseProvider(const std::string& asked, const std::string& device);

/// Load a graph of the bundle, its hashes checked, and compare it with the manifest; `all_on_gpu` refuses one of which
/// a node would run on the CPU. Throws Error(kBundle) or Error(kBackend).
Owned<OrtSession> LoadSession(const Bundle& bundle, const GraphSpec& spec, const Provider& provider, int threads,
                              bool all_on_gpu = false);

/// Tensors over memory of the caller's, which ONNX Runtime does not copy.
class HostTensors {
  public:
    HostTensors();
    Owned<OrtValue> Over(void* data, const std::vector<std::int64_t>& shape, ONNXTensorElementDataType type,
                         std::size_t item) const;

  private:
    Owned<OrtMemoryInfo> memory_;
};

}  // namespace scclip
