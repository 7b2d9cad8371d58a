#include "real_cuda.hpp"

#include <dlfcn.h>

#include <optional>

#include "device_task.hpp"
#include "errors.hpp"

namespace real {
namespace {

const scclip::CudaDriver& Plain() { return scclip::LoadCudaDriver(); }

/// `function`'s result, counted where it succeeded.
template <typename Count>
CUresult Counted(CUresult result, Count& count, int change) {
    if (result == CUDA_SUCCESS) count += change;
    return result;
}

scclip::CudaDriver Make() {
    scclip::CudaDriver driver = Plain();
    driver.cuMemAlloc = [](CUdeviceptr* pointer, std::size_t bytes) {
        return Counted(Plain().cuMemAlloc(pointer, bytes), Counts().memory, 1);
    };
    driver.cuMemFree = [](CUdeviceptr pointer) { return Counted(Plain().cuMemFree(pointer), Counts().memory, -1); };
    driver.cuMemAllocHost = [](void** pointer, std::size_t bytes) {
        return Counted(Plain().cuMemAllocHost(pointer, bytes), Counts().pinned, 1);
    };
    driver.cuMemFreeHost = [](void* pointer) { return Counted(Plain().cuMemFreeHost(pointer), Counts().pinned, -1); };
    driver.cuStreamCreate = [](CUstream* stream, unsigned flags) {
        return Counted(Plain().cuStreamCreate(stream, flags), Counts().streams, 1);
    };
    driver.cuStreamDestroy = [](CUstream stream) {
        return Counted(Plain().cuStreamDestroy(stream), Counts().streams, -1);
    };
    driver.cuModuleLoadData = [](CUmodule* module, const void* image) {
        return Counted(Plain().cuModuleLoadData(module, image), Counts().modules, 1);
    };
    driver.cuModuleUnload = [](CUmodule module) {
        return Counted(Plain().cuModuleUnload(module), Counts().modules, -1);
    };
    driver.cuStreamEndCapture = [](CUstream stream, CUgraph* graph) {
        const CUresult result = Plain().cuStreamEndCapture(stream, graph);
        ++(result == CUDA_SUCCESS ? Counts().captures : Counts().refused_captures);
        return result;
    };
    driver.cuGraphInstantiateWithFlags = [](CUgraphExec* executable, CUgraph graph, unsigned long long flags) {
        return Counted(Plain().cuGraphInstantiateWithFlags(executable, graph, flags), Counts().graphs, 1);
    };
    driver.cuGraphExecDestroy = [](CUgraphExec executable) {
        return Counted(Plain().cuGraphExecDestroy(executable), Counts().graphs, -1);
    };
    driver.cuGraphLaunch = [](CUgraphExec executable, CUstream stream) {
        return Counted(Plain().cuGraphLaunch(executable, stream), Counts().graph_launches, 1);
    };
    driver.cuLaunchKernel = [](CUfunction function, unsigned x, unsigned y, unsigned z, unsigned block_x,
                               unsigned block_y, unsigned block_z, unsigned shared, CUstream stream, void** arguments,
                               void** extra) {
        return Counted(
            Plain().cuLaunchKernel(function, x, y, z, block_x, block_y, block_z, shared, stream, arguments, extra),
            Counts().kernels, 1);
    };
    return driver;
}

More Find() {
    void* library = ::dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    const auto find = [&](const char* name) {
        void* found = library == nullptr ? nullptr : ::dlsym(library, name);
        if (found == nullptr) scclip::ThrowBackend(std::string("the driver lacks ") + name);
        return found;
    };
    More more{};
    more.cuLaunchHostFunc = reinterpret_cast<decltype(more.cuLaunchHostFunc)>(find("cuLaunchHostFunc"));
    more.cuCtxCreate = reinterpret_cast<decltype(more.cuCtxCreate)>(find("cuCtxCreate_v2"));
    more.cuCtxDestroy = reinterpret_cast<decltype(more.cuCtxDestroy)>(find("cuCtxDestroy_v2"));
    more.cuDevicePrimaryCtxReset =
        reinterpret_cast<decltype(more.cuDevicePrimaryCtxReset)>(find("cuDevicePrimaryCtxReset_v2"));
    return more;
}

/// Pinned copies of an engine's four tensors.
struct Staging {
    Staging(const scclip::Gpu& gpu, const device_task::HostGraph& graph)
        : windows(gpu, Size(graph.batch) * Size(graph.height) * Size(graph.width) * 3),
          text(gpu, Size(graph.queries) * device_task::kEmbed * 4),
          features(gpu, Patches(graph) * device_task::kEmbed * 4),
          cosines(gpu, Patches(graph) * Size(graph.queries) * 4) {}
    scclip::PinnedBuffer windows, text, features, cosines;

    static std::size_t Size(int count) { return static_cast<std::size_t>(count); }
    static std::size_t Patches(const device_task::HostGraph& graph) {
        return Size(graph.batch) * Size(graph.height / device_task::kPatch) * Size(graph.width / device_task::kPatch);
    }
};

/// One shape. Its runs follow each other on one stream, so that one set of copies is enough.
class HostCall final : public scclip::GraphCall {
  public:
    HostCall(const scclip::Gpu& gpu, const device_task::HostGraph& graph, bool capturable)
        : gpu_(gpu), graph_(graph), capturable_(capturable) {}

    void Enqueue(CUdeviceptr windows, CUdeviceptr text, CUdeviceptr features, CUdeviceptr cosines,
                 CUstream stream) override {
        // NvInferRuntime.h, setTensorAddress: "The pointer must have at least 256-byte alignment."
        for (const CUdeviceptr address : {windows, text, features, cosines}) {
            if (address % 256 != 0) scclip::ThrowBackend("the engine is given an address that is no multiple of 256");
        }
        if (!staging_) Prepare();
        const scclip::Stream queue(gpu_, stream);
        queue.Download(staging_->windows.data(), windows, staging_->windows.bytes());
        queue.Download(staging_->text.data(), text, staging_->text.bytes());
        if (capturable_) {
            gpu_.Check(MoreOfDriver().cuLaunchHostFunc(stream, &HostCall::Compute, &graph_), "cuLaunchHostFunc");
        } else {
            queue.Wait();
            graph_.Compute();
        }
        queue.Upload(features, staging_->features.data(), staging_->features.bytes());
        queue.Upload(cosines, staging_->cosines.data(), staging_->cosines.bytes());
    }

  private:
    const scclip::Gpu& gpu_;
    device_task::HostGraph graph_;
    bool capturable_;
    std::optional<Staging> staging_;

    void Prepare() {
        staging_.emplace(gpu_, graph_);
        graph_.windows = staging_->windows.data();
        graph_.text = reinterpret_cast<const float*>(staging_->text.data());
        graph_.features = reinterpret_cast<float*>(staging_->features.data());
        graph_.cosines = reinterpret_cast<float*>(staging_->cosines.data());
    }
    static void CUDA_CB Compute(void* graph) { static_cast<const device_task::HostGraph*>(graph)->Compute(); }
};

class Engine final : public scclip::DeviceGraph {
  public:
    Engine(const scclip::Gpu& gpu, const Behaviour& behaviour) : gpu_(gpu), behaviour_(behaviour) {
        min_batch = behaviour.least;
        max_batch = behaviour.most;
        min_queries = 2;
        max_queries = 400;
    }
    std::unique_ptr<scclip::GraphCall> Call(int batch, int height, int width, int queries) override {
        const device_task::HostGraph graph{batch, height, width, queries, behaviour_.broken};
        return std::make_unique<HostCall>(gpu_, graph, behaviour_.capturable);
    }

  private:
    const scclip::Gpu& gpu_;
    Behaviour behaviour_;
};

}  // namespace

State& Counts() {
    static State state;
    return state;
}

const scclip::CudaDriver& Driver() {
    static const scclip::CudaDriver driver = Make();
    return driver;
}

const More& MoreOfDriver() {
    static const More more = Find();
    return more;
}

std::unique_ptr<scclip::DeviceGraph> MakeEngine(const scclip::Gpu& gpu, const Behaviour& behaviour) {
    return std::make_unique<Engine>(gpu, behaviour);
}

}  // namespace real
