// The way through a GPU on a GPU: the machine's driver and the kernels of a bundle that was exported for it. The engine
// is a stand-in (real_cuda.hpp), so that TensorRT is not needed. Skipped (exit code 77) without a GPU or such a bundle.
#define DOCTEST_CONFIG_IMPLEMENT
#include <doctest.h>

#include <atomic>
#include <cstdio>
#include <thread>

#include "backends/cuda/encoder.hpp"
#include "device_task.hpp"
#include "errors.hpp"
#include "real_cuda.hpp"
#include "words.hpp"

using namespace scclip;
using namespace device_task;

namespace {

constexpr int kSkipped = 77;  // CTest's SKIP_RETURN_CODE

std::string BundlePath() {
    const char* path = std::getenv("SCCLIP_GPU_BUNDLE");
    return path == nullptr ? "" : path;
}

struct Device {
    Bundle bundle = Bundle::Open(BundlePath(), false);
    std::shared_ptr<const Gpu> gpu = std::make_shared<const Gpu>(real::Driver(), 0);

    std::unique_ptr<DeviceEncoder> Encoder(const real::Behaviour& behaviour = {}, CUstream stream = nullptr) const {
        const GraphMaker make = [gpu = gpu, behaviour] { return real::MakeEngine(*gpu, behaviour); };
        BackendInfo info;
        info.batch = behaviour.most;
        info.encoder = "engines/stand-in.engine";
        return std::make_unique<DeviceEncoder>(gpu, std::make_unique<KernelSet>(bundle, *gpu), make, make(),
                                               EncoderSpec{}, info, FeatureSizes{kPatch, kEmbed}, stream);
    }
    std::string Name() const { return "cuda:0 (" + gpu->name() + ")"; }
    KernelSpec Finite() const { return *ChooseKernels(bundle, gpu->major(), gpu->minor()).Find("finite"); }
    std::string Cubin(const KernelSpec& spec) const { return ReadBytes(bundle.CheckedPath(spec.file)); }
};

/// What `work` throws, as words.
template <typename Work>
std::string Message(Work work) {
    try {
        work();
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

bool StartsWith(const std::string& text, const std::string& start) { return text.compare(0, start.size(), start) == 0; }

/// A bundle with kernels for this GPU and a GPU, or why there is none.
std::string WhyNot() {
    try {
        const Gpu gpu(LoadCudaDriver(), 0);
        if (BundlePath().empty()) return "SCCLIP_GPU_BUNDLE names no bundle (scclip-export ... --gpu-kernels)";
        const KernelChoice choice = ChooseKernels(Bundle::Open(BundlePath(), false), gpu.major(), gpu.minor());
        if (choice.kernels.empty()) return choice.reason + " (" + BundlePath() + ")";
        std::printf("on %s\n", gpu.ToString().c_str());
    } catch (const Error& error) {
        return error.what();
    }
    return "";
}

}  // namespace

TEST_CASE("a GPU tells what it is, and one that is not there is refused with those that are") {
    const Device device;
    CHECK(device.gpu->major() >= 5);
    CHECK(StartsWith(device.gpu->ToString(), "cuda:0 (" + device.gpu->name() + ", sm_"));
    const std::string message = Message([] { const Gpu none(real::Driver(), 4096); });
    CHECK_MESSAGE(StartsWith(message, "there is no cuda:4096; this process sees: " + device.Name()), message);
}

TEST_CASE("labels from the device are those from the host, call by call and as a graph") {
    const Device device;
    real::Counts().Restart();
    {
        const auto encoder = device.Encoder();
        Task(70, 90, 9, 5).Check(*encoder);
        CHECK(real::Counts().captures.load() == 1);
        CHECK(real::Counts().refused_captures.load() == 0);
        CHECK(real::Counts().graph_launches.load() == 2);
        CHECK(real::Counts().kernels.load() == 6);  // finite and the decode's two, once queued and once captured
        Task soft(61, 97, 12, 6, 2);
        soft.input.confidence = true;
        soft.input.logit_scale = 20;
        soft.Check(*encoder);
        soft.input.prob_threshold = 0.2;
        soft.input.background = 1;
        soft.Check(*encoder);
        soft.input.area_threshold = 0.05;
        soft.Check(*encoder);
        Task area(50, 80, 7, 7, 3);
        area.input.area_threshold = 0.1;
        area.Check(*encoder);
        Task wide(40, 60, 300, 300, 4);
        wide.Check(*encoder);
        wide.input.confidence = true;
        wide.input.area_threshold = 0.0294;  // between classes of 65 and of 76 pixels: no tie of a pixel decides
        wide.Check(*encoder);
        Task(375, 500, 150, 21, 5).Check(*encoder);
    }
    CHECK(real::Counts().Alive() == 0);
}

TEST_CASE("engines that want more windows than there are, or fewer, change nothing") {
    const Device device;
    for (const auto& [least, most] : {std::pair{1, 1}, {2, 4}, {1, 5}, {40, 64}}) {
        const auto encoder = device.Encoder({least, most});
        Task(70, 150, 9, 5).Check(*encoder);
    }
    CHECK(real::Counts().Alive() == 0);
}

TEST_CASE("features come back for any number of windows") {
    const Device device;
    const Task task(70, 150, 9, 5);
    const int count = task.image.tiling.size();
    for (const int least : {1, 3}) {
        const auto encoder = device.Encoder({least, 16});
        for (const int windows : {1, 2, count, count, count}) {
            std::vector<float> found(static_cast<std::size_t>(windows) * 36 * kEmbed);
            encoder->Features(task.image.windows.data(), windows, 96, 96, found.data());
            CHECK(std::equal(found.begin(), found.end(), task.features.begin()));
        }
    }
}

TEST_CASE("a stream of the caller's is used and left alone") {
    const Device device;
    const CudaDriver& driver = device.gpu->Driver();
    CUstream stream = nullptr;
    REQUIRE(driver.cuStreamCreate(&stream, CU_STREAM_NON_BLOCKING) == CUDA_SUCCESS);
    Task(70, 90, 9, 5).Check(*device.Encoder({}, stream));
    const DeviceBuffer memory(*device.gpu, 8, "a number");
    CHECK(driver.cuMemsetD8Async(memory.at(), 1, 8, stream) == CUDA_SUCCESS);
    CHECK(driver.cuStreamSynchronize(stream) == CUDA_SUCCESS);
    CHECK(driver.cuStreamDestroy(stream) == CUDA_SUCCESS);
}

TEST_CASE("what can't be captured is queued call by call, and leaves no stream capturing") {
    const Device device;
    real::Counts().Restart();
    real::Behaviour waits;
    waits.capturable = false;
    Task(70, 90, 9, 5).Check(*device.Encoder(waits));
    CHECK(real::Counts().refused_captures.load() == 1);
    CHECK(real::Counts().graph_launches.load() == 0);
    CHECK(real::Counts().Alive() == 0);
}

TEST_CASE("an exception of any kind within a capture ends it") {
    const Device device;
    const Stream stream(*device.gpu, nullptr);
    const DeviceBuffer memory(*device.gpu, 4, "a number");
    int runs = 0;
    Replay replay(stream, [&] {
        if (++runs == 2) throw std::bad_alloc();
        stream.Zero(memory.at(), 4);
    });
    for (int i = 0; i < 3; ++i) {
        std::int32_t number = 1;
        stream.Upload(memory.at(), &number, 4);
        CHECK_NOTHROW(replay.Run());
        stream.Download(&number, memory.at(), 4);
        stream.Wait();
        CHECK(number == 0);
    }
    CHECK_FALSE(replay.captured());
}

TEST_CASE("a thread keeps the context that it came with") {
    const Device device;
    const CudaDriver& driver = real::Driver();
    const Task task(70, 90, 9, 5);
    auto encoder = device.Encoder();
    real::Behaviour behaviour;
    behaviour.broken = true;
    const auto broken = device.Encoder(behaviour);
    CUcontext another = nullptr, current = nullptr;
    REQUIRE(real::MoreOfDriver().cuCtxCreate(&another, 0, 0) == CUDA_SUCCESS);
    const auto now = [&] { return driver.cuCtxGetCurrent(&current) == CUDA_SUCCESS ? current : nullptr; };
    for (const CUcontext callers : {another, CUcontext{nullptr}, another}) {
        // Contexts are a stack: to set null takes the one on top away, and what is under it is current then.
        while (now() != nullptr) REQUIRE(driver.cuCtxSetCurrent(nullptr) == CUDA_SUCCESS);
        if (callers != nullptr) REQUIRE(driver.cuCtxSetCurrent(callers) == CUDA_SUCCESS);
        const auto unchanged = [&] { return now() == callers; };
        task.Check(*encoder);
        CHECK(unchanged());
        std::vector<float> features(36 * kEmbed);
        encoder->Features(task.image.windows.data(), 1, 96, 96, features.data());
        CHECK(std::equal(features.begin(), features.end(), task.features.begin()));
        CHECK(unchanged());
        CHECK_THROWS_AS(task.Segment(*broken), Error);
        CHECK(unchanged());
    }
    encoder.reset();
    CHECK(now() == another);
    CHECK(real::MoreOfDriver().cuCtxDestroy(another) == CUDA_SUCCESS);
}

TEST_CASE("more shapes than are kept, and threads, while another thread allocates, on one encoder") {
    const Device device;
    {
        const auto encoder = device.Encoder();
        for (int i = 0; i < 12; ++i) Task(40 + i, 60, 4, 3, static_cast<std::uint64_t>(i + 1)).Check(*encoder);
        const Task task(70, 90, 9, 5);
        const Decoded expected = task.Segment(*encoder);
        real::Counts().Restart();
        std::atomic<int> wrong{0}, left{8};
        std::vector<std::thread> threads;
        for (int t = 0; t < 8; ++t) {
            threads.emplace_back([&] {
                for (int i = 0; i < 50; ++i) {
                    try {
                        wrong += task.Segment(*encoder).labels != expected.labels;
                    } catch (const Error&) {
                        wrong += 1000;
                    }
                }
                --left;
            });
        }
        threads.emplace_back([&] {  // what would break captures that were not of their thread alone
            while (left > 0) DeviceBuffer(*device.gpu, 1U << 20U, "another's work");
        });
        for (auto& thread : threads) thread.join();
        CHECK(wrong == 0);
        CHECK(real::Counts().refused_captures.load() == 0);
        CHECK(real::Counts().graph_launches.load() >= 400 - 2 * 8);
    }
    CHECK(real::Counts().Alive() == 0);
}

TEST_CASE("what the device refuses comes back in one line, and the next call works") {
    const Device device;
    const Task task(70, 90, 9, 5);
    real::Behaviour behaviour;
    behaviour.broken = true;
    const auto broken = device.Encoder(behaviour);
    CHECK_THROWS_WITH_AS(task.Segment(*broken), doctest::Contains("NaN or infinity"), Error);
    const auto encoder = device.Encoder();
    const int many = 1 << 26;  // windows of 27 KiB: 1.7 TiB
    const std::string message = Message([&] { encoder->Features(nullptr, many, 96, 96, nullptr); });
    const std::string expected = "out of memory on " + device.Name() + ": 1769472 MiB for windows";
    CHECK_MESSAGE(StartsWith(message, expected), message);
    task.Check(*encoder);
}

TEST_CASE("infinity and NaN anywhere among the cosines are found") {
    const Device device;
    const KernelSpec spec = device.Finite();
    const Kernel kernel(*device.gpu, spec, device.Cubin(spec));
    const Stream stream(*device.gpu, nullptr);
    const std::size_t count = 3 * spec.Constant("BLOCK") + 7;
    std::vector<float> values(count, 3e38F);
    const DeviceBuffer memory(*device.gpu, count * 4, "values"), flag(*device.gpu, 4, "flag");
    const auto found = [&] {
        std::int32_t result = 0;
        stream.Upload(memory.at(), values.data(), count * 4);
        stream.Zero(flag.at(), 4);
        const auto blocks = static_cast<unsigned>((count + spec.Constant("BLOCK") - 1) / spec.Constant("BLOCK"));
        kernel.Launch(stream, blocks, 1,
                      {{"values", memory.at()}, {"flag", flag.at()}, {"count", static_cast<int>(count)}});
        stream.Download(&result, flag.at(), 4);
        stream.Wait();
        return result != 0;
    };
    CHECK_FALSE(found());
    for (const std::size_t at : {std::size_t{0}, count / 2, count - 1}) {
        for (const float bad : {std::nanf(""), INFINITY, -INFINITY}) {
            const float good = values[at];
            values[at] = bad;
            CHECK(found());
            values[at] = good;
        }
    }
}

TEST_CASE("kernels that can't be loaded are refused, and much shared memory is asked for") {
    const Device device;
    KernelSpec spec = device.Finite();
    const std::string cubin = device.Cubin(spec);
    const std::string damaged = Message([&] { Kernel(*device.gpu, spec, "no machine code"); });
    CHECK_MESSAGE(StartsWith(damaged, "cuModuleLoadData failed on " + device.Name() + ": CUDA_ERROR_"), damaged);
    spec.shared_bytes = 90U << 10U;  // more than a block gets unasked
    const Kernel kernel(*device.gpu, spec, cubin);
    const Stream stream(*device.gpu, nullptr);
    const DeviceBuffer memory(*device.gpu, 1024, "values");
    stream.Zero(memory.at(), 1024);
    kernel.Launch(stream, 1, 1, {{"values", memory.at()}, {"flag", memory.at()}, {"count", 4}});
    CHECK_NOTHROW(stream.Wait());
    spec.entry = "no_such_kernel";
    const std::string other = Message([&] { Kernel(*device.gpu, spec, cubin); });
    CHECK_MESSAGE(other == "cuModuleGetFunction failed on " + device.Name() + ": CUDA_ERROR_NOT_FOUND", other);
}

// Each in a process of its own: what they do to the GPU's context can't be undone.
TEST_SUITE("own process" * doctest::skip()) {
    TEST_CASE("after a fault on the GPU calls are errors, and giving memory back does not end the process") {
        const Device device;
        const Task task(70, 90, 9, 5);
        const auto encoder = device.Encoder();
        task.Check(*encoder);
        const KernelSpec spec = device.Finite();
        const Kernel kernel(*device.gpu, spec, device.Cubin(spec));
        const Stream stream(*device.gpu, nullptr);
        kernel.Launch(stream, 1, 1, {{"values", CUdeviceptr{4096}}, {"flag", CUdeviceptr{4096}}, {"count", 4}});
        const std::string fault = Message([&] { stream.Wait(); });
        CHECK_MESSAGE(fault == "cuStreamSynchronize failed on " + device.Name() + ": CUDA_ERROR_ILLEGAL_ADDRESS",
                      fault);
        const std::string after = Message([&] { task.Segment(*encoder); });
        CHECK_MESSAGE(after.find(" failed on " + device.Name() + ": CUDA_ERROR_") != std::string::npos, after);
        std::vector<float> features(36 * kEmbed);
        CHECK_THROWS_AS(encoder->Features(task.image.windows.data(), 1, 96, 96, features.data()), Error);
    }

    TEST_CASE("a program may reset the device where no bundle is open, and open one again") {
        const Task task(70, 90, 9, 5);
        for (int time = 0; time < 2; ++time) {
            {
                const Device device;
                task.Check(*device.Encoder());
            }
            REQUIRE(real::MoreOfDriver().cuDevicePrimaryCtxReset(0) == CUDA_SUCCESS);
        }
    }

    TEST_CASE("where the program resets the device under a bundle calls are errors, and one opened again works") {
        const Task task(70, 90, 9, 5);
        {
            const Device device;
            const auto encoder = device.Encoder();
            task.Check(*encoder);
            REQUIRE(real::MoreOfDriver().cuDevicePrimaryCtxReset(0) == CUDA_SUCCESS);
            const std::string message = Message([&] { task.Segment(*encoder); });
            CHECK_MESSAGE(StartsWith(message, "the program has reset " + device.gpu->ToString()), message);
        }
        const Device again;
        task.Check(*again.Encoder());
    }
}

int main(int argc, char** argv) {
    doctest::Context context(argc, argv);
    const std::string reason = WhyNot();
    if (!reason.empty()) {
        std::printf("skipped: %s\n", reason.c_str());
        return kSkipped;
    }
    return context.run();
}
