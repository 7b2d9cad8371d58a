#include "fake_cuda.hpp"

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <mutex>
#include <set>

namespace fake {
namespace {

using Work = std::function<void()>;

struct FakeStream {
    bool capturing = false;
    std::vector<Work> recorded;
};
struct FakeGraph {
    std::vector<Work> work;
};

std::recursive_mutex mutex;  // the real driver may be called from any thread

std::set<const void*>& Kept() {
    static auto* const kept = new std::set<const void*>;  // reachable until the process ends, for leak checkers
    return *kept;
}

/// What was made and not unmade: a reset leaves some behind, which is no leak of the library's.
template <typename T>
T* Keep(T* made) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    Kept().insert(made);
    return made;
}

template <typename T>
T* Drop(T* kept) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    if (Counts().reset) ++Counts().crashes;
    Kept().erase(kept);
    return kept;
}

FakeStream& Of(CUstream stream) { return *reinterpret_cast<FakeStream*>(stream); }

CUresult Queue(CUstream stream, Work work) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    if (Of(stream).capturing) {
        Of(stream).recorded.push_back(std::move(work));
    } else {
        work();
    }
    return CUDA_SUCCESS;
}

void* Address(CUdeviceptr pointer) { return reinterpret_cast<void*>(pointer); }

CUresult Allocate(void** pointer, std::size_t bytes) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    if (bytes > Counts().memory) return CUDA_ERROR_OUT_OF_MEMORY;
    *pointer = Keep(std::aligned_alloc(256, (bytes + 255) / 256 * 256));  // as the driver's memory is
    ++Counts().allocations;
    return CUDA_SUCCESS;
}

CUresult Free(void* pointer) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    std::free(Drop(pointer));
    --Counts().allocations;
    return CUDA_SUCCESS;
}

// The kernels. Arguments are read as the device would: by position and type.
template <typename T>
T Get(void* const* arguments, std::size_t index) {
    T value;
    std::memcpy(&value, arguments[index], sizeof value);
    return value;
}

template <typename T>
T* Pointer(void* const* arguments, std::size_t index) {
    return static_cast<T*>(Address(Get<CUdeviceptr>(arguments, index)));
}

struct Grid {
    unsigned x, y;
};

void Finite(void* const* a, Grid) {
    const float* values = Pointer<float>(a, 0);
    for (std::int64_t i = 0; i < Get<std::int64_t>(a, 2); ++i) {
        if (!std::isfinite(values[i])) *Pointer<std::int32_t>(a, 1) = 1;
    }
}

// As the fixtures' kernels.json has them.
constexpr int kBlockX = 32, kBlockY = 4;

struct Band {
    const std::int32_t* span;
    const float* weights;
    int cells, block;
    double operator()(int pixel, int cell) const {
        const int i = pixel / block, j = cell - span[2 * i];
        return j < 0 || j >= span[2 * i + 1] ? 0 : weights[(i * cells + j) * block + pixel % block];
    }
};

/// Slow, in double precision between loads and stores, and independent of the decode on the host.
void DecodeColumns(void* const* a, Grid grid) {
    const auto first = Get<std::int32_t>(a, 6), blocks = Get<std::int32_t>(a, 7), cells = Get<std::int32_t>(a, 8);
    const auto queries = Get<std::int32_t>(a, 9);
    const Band weight{Pointer<std::int32_t>(a, 2), Pointer<float>(a, 3), Get<std::int32_t>(a, 10), kBlockX};
    for (int i = first; i < blocks && i < first + static_cast<int>(grid.y); ++i) {
        for (int line = 0; line < queries * cells; ++line) {
            const int q = line / cells, row = Pointer<std::int32_t>(a, 1)[line % cells];
            for (int x = i * kBlockX; x < (i + 1) * kBlockX; ++x) {
                double value = 0;
                for (int c = weight.span[2 * i]; c < weight.span[2 * i] + weight.span[2 * i + 1]; ++c) {
                    const std::int64_t patch = row + Pointer<std::int32_t>(a, 4)[c];
                    value += weight(x, c) * Pointer<float>(a, 0)[patch * queries + q];
                }
                const std::int64_t place = (static_cast<std::int64_t>(i - first) * queries * cells + line) * kBlockX;
                Pointer<float>(a, 5)[place + x % kBlockX] = static_cast<float>(value * Get<float>(a, 11));
            }
        }
    }
}

template <typename Label, bool kSoft, bool kMasked>
void DecodeRows(void* const* a, Grid grid) {
    const auto first = Get<std::int32_t>(a, 7), height = Get<std::int32_t>(a, 8), width = Get<std::int32_t>(a, 9);
    const auto cells = Get<std::int32_t>(a, 10), queries = Get<std::int32_t>(a, 11);
    const Band weight{Pointer<std::int32_t>(a, 1), Pointer<float>(a, 2), Get<std::int32_t>(a, 12), kBlockY};
    const double threshold = Get<float>(a, 15);
    for (int y = 0; y < height; ++y) {
        for (int x = first * kBlockX; x < width && x < (first + static_cast<int>(grid.x)) * kBlockX; ++x) {
            double best = -std::numeric_limits<double>::infinity(), total = 0;
            std::int32_t label = Get<std::int32_t>(a, 13);
            for (int q = 0; q < queries; ++q) {
                const std::int64_t line = (static_cast<std::int64_t>(x / kBlockX - first) * queries + q) * cells;
                double value = 0;
                for (int c = 0; c < cells; ++c) {
                    value += weight(y, c) * Pointer<float>(a, 0)[(line + c) * kBlockX + x % kBlockX];
                }
                if (kSoft) total += std::exp(value - 100);
                if (kMasked && Pointer<std::uint8_t>(a, 4)[q] == 0) continue;
                if (value > best) best = value, label = Pointer<std::int32_t>(a, 3)[q];
            }
            const int pixel = y * width + x;
            if (kSoft) {
                const double probability = std::exp(best - 100) / total;
                Pointer<float>(a, 6)[pixel] = static_cast<float>(probability);
                if (probability < threshold) label = Get<std::int32_t>(a, 14);
            }
            Pointer<Label>(a, 5)[pixel] = static_cast<Label>(label);
        }
    }
}

template <typename Label>
void Count(void* const* a, Grid) {
    for (int i = 0; i < Get<std::int32_t>(a, 2); ++i) ++Pointer<std::int32_t>(a, 1)[Pointer<Label>(a, 0)[i]];
}

void Keep(void* const* a, Grid) {
    const auto classes = Get<std::int32_t>(a, 5), background = Get<std::int32_t>(a, 6);
    const std::int32_t* counts = Pointer<std::int32_t>(a, 0);
    std::int64_t all = 0;
    for (int c = 0; c < classes; ++c) all += c == background ? 0 : counts[c];
    for (int q = 0; q < Get<std::int32_t>(a, 4); ++q) {
        const std::int32_t label = Pointer<std::int32_t>(a, 2)[q];
        const bool small = counts[label] <= *Pointer<double>(a, 1) * static_cast<double>(all);
        Pointer<std::uint8_t>(a, 3)[q] = label == background || !small;
    }
}

using Function = void (*)(void* const*, Grid);

const std::map<std::string, Function>& Kernels() {
    static const std::map<std::string, Function> kernels = {
        {"finite", Finite},
        {"keep", Keep},
        {"decode_columns", DecodeColumns},
        {"count_u8", Count<std::uint8_t>},
        {"count_u16", Count<std::uint16_t>},
        {"decode_rows_u8", DecodeRows<std::uint8_t, false, false>},
        {"decode_rows_u8_masked", DecodeRows<std::uint8_t, false, true>},
        {"decode_rows_u8_soft", DecodeRows<std::uint8_t, true, false>},
        {"decode_rows_u8_soft_masked", DecodeRows<std::uint8_t, true, true>},
        {"decode_rows_u16", DecodeRows<std::uint16_t, false, false>},
        {"decode_rows_u16_masked", DecodeRows<std::uint16_t, false, true>},
        {"decode_rows_u16_soft", DecodeRows<std::uint16_t, true, false>},
        {"decode_rows_u16_soft_masked", DecodeRows<std::uint16_t, true, true>},
    };
    return kernels;
}

CUresult Launch(CUfunction function, unsigned blocks_x, unsigned blocks_y, unsigned, unsigned, unsigned, unsigned,
                unsigned, CUstream stream, void** arguments, void**) {
    // The driver copies the arguments' values when a kernel is queued. It knows their number; here a null ends them.
    const auto run = reinterpret_cast<Function>(function);
    std::vector<std::uint64_t> values;
    for (std::size_t i = 0; arguments[i] != nullptr; ++i) {
        values.push_back(0);
        std::memcpy(&values.back(), arguments[i], sizeof(std::uint64_t));
    }
    return Queue(stream, [run, values, grid = Grid{blocks_x, blocks_y}]() mutable {
        std::vector<void*> pointers;
        for (auto& value : values) pointers.push_back(&value);
        run(pointers.data(), grid);
    });
}

CUresult BeginCapture(CUstream stream, CUstreamCaptureMode) {
    if (Counts().refuse_capture) return CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED;
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    Of(stream).capturing = true;
    Of(stream).recorded.clear();
    ++Counts().captures;
    return CUDA_SUCCESS;
}

CUresult EndCapture(CUstream stream, CUgraph* graph) {
    Of(stream).capturing = false;
    *graph = reinterpret_cast<CUgraph>(Keep(new FakeGraph{Of(stream).recorded}));
    return CUDA_SUCCESS;
}

CUresult Instantiate(CUgraphExec* executable, CUgraph graph, unsigned long long) {
    *executable = reinterpret_cast<CUgraphExec>(Keep(new FakeGraph(*reinterpret_cast<FakeGraph*>(graph))));
    return CUDA_SUCCESS;
}

CUresult LaunchGraph(CUgraphExec executable, CUstream stream) {
    const std::lock_guard<std::recursive_mutex> lock(mutex);
    ++Counts().graph_launches;
    for (const Work& work : reinterpret_cast<FakeGraph*>(executable)->work) Queue(stream, work);
    return CUDA_SUCCESS;
}

CUresult Copy2D(const CUDA_MEMCPY2D* given, CUstream stream) {
    if (Counts().refuse_pitches) return CUDA_ERROR_INVALID_VALUE;
    return Queue(stream, [copy = *given] {
        for (std::size_t row = 0; row < copy.Height; ++row) {
            std::memcpy(Address(copy.dstDevice + row * copy.dstPitch), Address(copy.srcDevice + row * copy.srcPitch),
                        copy.WidthInBytes);
        }
    });
}

CUresult LoadModule(CUmodule* module, const void* image) {
    *module = reinterpret_cast<CUmodule>(Keep(new std::string(static_cast<const char*>(image))));
    return CUDA_SUCCESS;
}

CUresult FindFunction(CUfunction* function, CUmodule module, const char* name) {
    const auto found = Kernels().find(name);
    // The test's cubins hold the name of their function.
    if (found == Kernels().end() || *reinterpret_cast<std::string*>(module) != name) return CUDA_ERROR_NOT_FOUND;
    *function = reinterpret_cast<CUfunction>(found->second);
    return CUDA_SUCCESS;
}

CUresult ErrorName(CUresult result, const char** name) {
    *name = result == CUDA_ERROR_NOT_FOUND ? "CUDA_ERROR_NOT_FOUND" : "CUDA_ERROR_UNKNOWN";
    return CUDA_SUCCESS;
}

CUresult Attribute(int* value, CUdevice_attribute which, CUdevice) {
    *value = which == CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR ? 8 : 9;
    return CUDA_SUCCESS;
}

scclip::CudaDriver Make() {
    scclip::CudaDriver driver;
    driver.cuGetErrorName = ErrorName;
    driver.cuDeviceGetCount = [](int* count) { return *count = 1, CUDA_SUCCESS; };
    driver.cuDeviceGet = [](CUdevice* device, int index) { return *device = index, CUDA_SUCCESS; };
    driver.cuDeviceGetName = [](char* name, int, CUdevice) { return std::strcpy(name, "Fake L4"), CUDA_SUCCESS; };
    driver.cuDeviceGetAttribute = Attribute;
    driver.cuDevicePrimaryCtxRetain = [](CUcontext* context, CUdevice) { return *context = Primary(), CUDA_SUCCESS; };
    driver.cuDevicePrimaryCtxGetState = [](CUdevice, unsigned*, int* active) {
        return *active = Counts().reset ? 0 : 1, CUDA_SUCCESS;
    };
    driver.cuDevicePrimaryCtxRelease = [](CUdevice) { return CUDA_SUCCESS; };
    driver.cuCtxGetCurrent = [](CUcontext* context) {
        if (Counts().reset) ++Counts().crashes;
        return *context = Current(), CUDA_SUCCESS;
    };
    driver.cuCtxSetCurrent = [](CUcontext context) {
        if (Counts().reset) ++Counts().crashes;
        if (!Counts().lost) Current() = context;
        return Counts().lost ? CUDA_ERROR_ILLEGAL_ADDRESS : CUDA_SUCCESS;
    };
    driver.cuStreamCreate = [](CUstream* stream, unsigned) {
        return *stream = reinterpret_cast<CUstream>(Keep(new FakeStream)), CUDA_SUCCESS;
    };
    driver.cuStreamDestroy = [](CUstream stream) { return delete Drop(&Of(stream)), CUDA_SUCCESS; };
    driver.cuStreamSynchronize = [](CUstream) { return CUDA_SUCCESS; };
    driver.cuStreamBeginCapture = BeginCapture;
    driver.cuStreamEndCapture = EndCapture;
    driver.cuGraphInstantiateWithFlags = Instantiate;
    driver.cuGraphLaunch = LaunchGraph;
    driver.cuGraphDestroy = [](CUgraph graph) {
        return delete Drop(reinterpret_cast<FakeGraph*>(graph)), CUDA_SUCCESS;
    };
    driver.cuGraphExecDestroy = [](CUgraphExec graph) {
        return delete Drop(reinterpret_cast<FakeGraph*>(graph)), CUDA_SUCCESS;
    };
    driver.cuMemAlloc = [](CUdeviceptr* pointer, std::size_t bytes) {
        void* memory = nullptr;
        const CUresult result = Allocate(&memory, bytes);
        return *pointer = reinterpret_cast<CUdeviceptr>(memory), result;
    };
    driver.cuMemFree = [](CUdeviceptr pointer) { return Free(Address(pointer)); };
    driver.cuMemAllocHost = Allocate;
    driver.cuMemFreeHost = Free;
    driver.cuMemcpyHtoDAsync = [](CUdeviceptr to, const void* from, std::size_t bytes, CUstream stream) {
        return Queue(stream, [=] { std::memcpy(Address(to), from, bytes); });
    };
    driver.cuMemcpyDtoHAsync = [](void* to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
        return Queue(stream, [=] { std::memcpy(to, Address(from), bytes); });
    };
    driver.cuMemsetD8Async = [](CUdeviceptr to, unsigned char value, std::size_t bytes, CUstream stream) {
        return Queue(stream, [=] { std::memset(Address(to), value, bytes); });
    };
    driver.cuMemcpyDtoDAsync = [](CUdeviceptr to, CUdeviceptr from, std::size_t bytes, CUstream stream) {
        return Queue(stream, [=] { std::memcpy(Address(to), Address(from), bytes); });
    };
    driver.cuMemcpy2DAsync = Copy2D;
    driver.cuModuleLoadData = LoadModule;
    driver.cuModuleUnload = [](CUmodule module) {
        return delete Drop(reinterpret_cast<std::string*>(module)), CUDA_SUCCESS;
    };
    driver.cuModuleGetFunction = FindFunction;
    driver.cuFuncSetAttribute = [](CUfunction, CUfunction_attribute, int) { return CUDA_SUCCESS; };
    driver.cuLaunchKernel = Launch;
    return driver;
}

}  // namespace

State& Counts() {
    static State state;
    return state;
}

CUcontext Primary() {
    static int context;
    return reinterpret_cast<CUcontext>(&context);
}

CUcontext& Current() {
    static thread_local CUcontext current = nullptr;
    return current;
}

const scclip::CudaDriver& Driver() {
    static const scclip::CudaDriver driver = Make();
    return driver;
}

}  // namespace fake
