// The way through a GPU, on a driver that works on host memory and an engine that averages colours.
#include <filesystem>

#include <atomic>
#include <cmath>
#include <thread>

#include "backends/cuda/encoder.hpp"
#include "device_task.hpp"
#include "errors.hpp"
#include "fake_cuda.hpp"
#include "fixtures.hpp"
#include "words.hpp"

using namespace scclip;
using namespace device_task;

namespace {

class FakeCall final : public GraphCall {
  public:
    FakeCall(int batch, int height, int width, int queries, bool broken)
        : graph_{batch, height, width, queries, broken} {}

    void Enqueue(CUdeviceptr windows, CUdeviceptr text, CUdeviceptr features, CUdeviceptr cosines,
                 CUstream stream) override {
        // NvInferRuntime.h, setTensorAddress: "The pointer must have at least 256-byte alignment."
        for (const CUdeviceptr address : {windows, text, features, cosines}) CHECK(address % 256 == 0);
        // Through the driver, so that a capture records it: one copy whose source is written when it runs.
        kept_.push_back(std::make_unique<HostGraph>(graph_));
        HostGraph* work = kept_.back().get();
        work->windows = reinterpret_cast<const std::uint8_t*>(windows);
        work->text = reinterpret_cast<const float*>(text);
        work->features = reinterpret_cast<float*>(features);
        work->cosines = reinterpret_cast<float*>(cosines);
        void* arguments[] = {&work, nullptr};
        fake::Driver().cuLaunchKernel(reinterpret_cast<CUfunction>(&FakeCall::Launch), 1, 1, 1, 1, 1, 1, 0, stream,
                                      arguments, nullptr);
    }

  private:
    HostGraph graph_;
    std::vector<std::unique_ptr<HostGraph>> kept_;

    static void Launch(void* const* arguments) { (*static_cast<HostGraph* const*>(arguments[0]))->Compute(); }
};

struct FakeEngine final : DeviceGraph {
    bool broken = false;
    FakeEngine(int least, int most) {
        min_batch = least;
        max_batch = most;
        min_queries = 2;
        max_queries = 400;
    }
    std::unique_ptr<GraphCall> Call(int batch, int height, int width, int queries) override {
        CHECK(batch >= min_batch);
        CHECK(batch <= max_batch);
        CHECK(queries >= min_queries);
        CHECK(fake::Current() == fake::Primary());  // as TensorRT, which makes its contexts in whatever is current
        return std::make_unique<FakeCall>(batch, height, width, queries, broken);
    }
};

struct Device {
    Bundle bundle = Bundle::Open(Fixtures()["kernels"], false);
    std::shared_ptr<const Gpu> gpu = std::make_shared<const Gpu>(fake::Driver(), 0);

    std::unique_ptr<DeviceEncoder> Encoder(int least, int most, CUstream stream = nullptr, bool broken = false) const {
        const std::shared_ptr<int> loaded(new int(0), [](const int* engine) {
            CHECK((fake::Current() == fake::Primary() || fake::Counts().lost ||
                   fake::Counts().reset));  // its memory is freed in whatever is current
            delete engine;
        });
        const GraphMaker make = [least, most, broken, loaded] {
            auto engine = std::make_unique<FakeEngine>(least, most);
            engine->broken = broken;
            return engine;
        };
        BackendInfo info;
        info.batch = most;
        info.encoder = "engines/fake.engine";
        return std::make_unique<DeviceEncoder>(gpu, std::make_unique<KernelSet>(bundle, *gpu), make, make(),
                                               EncoderSpec{}, info, FeatureSizes{kPatch, kEmbed}, stream);
    }
};

}  // namespace

TEST_CASE("labels from the device are those from the host") {
    const Device device;
    fake::Counts() = {};
    {
        const auto encoder = device.Encoder(1, 16);
        Task(70, 90, 9, 5).Check(*encoder);
        CHECK(fake::Counts().captures == 1);
        CHECK(fake::Counts().graph_launches == 2);
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
    }
    CHECK(fake::Counts().allocations == 0);
}

TEST_CASE("engines that want more windows than there are, or fewer, change nothing") {
    const Device device;
    for (const auto& [least, most] : {std::pair{1, 1}, {2, 4}, {1, 5}, {40, 64}}) {
        const auto encoder = device.Encoder(least, most);
        Task(70, 150, 9, 5).Check(*encoder);
    }
}

TEST_CASE("features come back for any number of windows") {
    const Device device;
    const Task task(70, 150, 9, 5);
    const int count = task.image.tiling.size();
    for (const int least : {1, 3}) {
        const auto encoder = device.Encoder(least, 16);
        for (const int windows : {1, 2, count, count, count}) {
            std::vector<float> found(static_cast<std::size_t>(windows) * 36 * kEmbed);
            encoder->Features(task.image.windows.data(), windows, 96, 96, found.data());
            CHECK(std::equal(found.begin(), found.end(), task.features.begin()));
        }
    }
}

TEST_CASE("a stream of the caller's is used and left alone") {
    const Device device;
    CUstream stream = nullptr;
    fake::Driver().cuStreamCreate(&stream, 0);
    {
        const auto encoder = device.Encoder(1, 16, stream);
        Task(70, 90, 9, 5).Check(*encoder);
    }
    const long before = fake::Counts().allocations;
    CUdeviceptr pointer = 0;
    fake::Driver().cuMemAlloc(&pointer, 8);
    CHECK(fake::Driver().cuMemsetD8Async(pointer, 1, 8, stream) == CUDA_SUCCESS);
    fake::Driver().cuMemFree(pointer);
    CHECK(fake::Counts().allocations == before);
    fake::Driver().cuStreamDestroy(stream);
}

TEST_CASE("where capture is not permitted the work is queued call by call") {
    const Device device;
    fake::Counts() = {};
    fake::Counts().refuse_capture = true;
    {
        const auto encoder = device.Encoder(1, 16);
        Task(70, 90, 9, 5).Check(*encoder);
    }
    CHECK(fake::Counts().graph_launches == 0);
    fake::Counts() = {};
}

TEST_CASE("windows are cut row by row where the driver refuses an image's pitches") {
    const Device device;
    fake::Counts() = {};
    fake::Counts().refuse_pitches = true;
    {
        const auto encoder = device.Encoder(1, 16);
        Task(70, 90, 9, 5).Check(*encoder);
    }
    fake::Counts() = {};
}

TEST_CASE("an exception of any kind within a capture ends it, and the work is queued call by call") {
    const Device device;
    fake::Counts() = {};
    const Stream stream(*device.gpu, nullptr);
    const DeviceBuffer memory(*device.gpu, 4, "a number");
    int runs = 0;
    Replay replay(stream, [&] {
        if (++runs == 2) throw std::bad_alloc();
        stream.Zero(memory.at(), 4);
    });
    auto* const number = reinterpret_cast<std::int32_t*>(memory.at());
    for (int i = 0; i < 3; ++i) {
        *number = 1;
        CHECK_NOTHROW(replay.Run());
        CHECK(*number == 0);
    }
    CHECK_FALSE(replay.captured());
}

TEST_CASE("a GPU that was lost is an error, and giving its memory back does not end the process") {
    const Device device;
    const Task task(70, 90, 9, 5);
    {
        const auto encoder = device.Encoder(1, 16);
        task.Check(*encoder);
        fake::Counts().lost = true;  // CUDA: cuCtxSetCurrent may return the errors of earlier launches
        CHECK_THROWS_WITH_AS(encoder->Segment(task.image, task.input, [&] { return task.Plan(); }),
                             doctest::Contains("failed on cuda:0 (Fake L4)"), Error);
    }
    fake::Counts() = {};
}

TEST_CASE("where the program has reset the GPU calls are errors, and nothing of its context is touched") {
    const Task task(70, 90, 9, 5);
    {
        const Device device;
        const auto encoder = device.Encoder(1, 16);
        task.Check(*encoder);
        std::vector<float> features(36 * kEmbed);
        fake::Counts().reset = true;
        const char* expected =
            "the program has reset cuda:0 (Fake L4, sm_89) since the bundle was opened; open it again";
        CHECK_THROWS_WITH_AS(task.Segment(*encoder), expected, Error);
        CHECK_THROWS_WITH_AS(encoder->Features(task.image.windows.data(), 1, 96, 96, features.data()), expected, Error);
    }
    CHECK(fake::Counts().crashes == 0);
    fake::Counts() = {};
    const Device again;
    task.Check(*again.Encoder(1, 16));
}

TEST_CASE("in any thread the library finds the GPU's context current, also to be freed in") {
    const Device device;
    const Task task(70, 90, 9, 5);
    const auto encoder = device.Encoder(1, 16);
    std::vector<float> features(36 * kEmbed);
    std::thread([&] { encoder->Features(task.image.windows.data(), 1, 96, 96, features.data()); }).join();
    CHECK(std::equal(features.begin(), features.end(), task.features.begin()));
    auto broken = device.Encoder(1, 16, nullptr, true);  // its failure leaves no lane
    CHECK_THROWS_AS(broken->Segment(task.image, task.input, [&] { return task.Plan(); }), Error);
    std::thread([&] { broken.reset(); }).join();
}

TEST_CASE("a thread keeps the context that it came with") {
    const Device device;
    const Task task(70, 90, 9, 5);
    auto encoder = device.Encoder(1, 16);
    auto broken = device.Encoder(1, 16, nullptr, true);
    int another = 0;
    for (const auto callers : {reinterpret_cast<CUcontext>(&another), CUcontext{nullptr}}) {
        fake::Current() = callers;
        task.Check(*encoder);
        CHECK(fake::Current() == callers);
        std::vector<float> features(36 * kEmbed);
        encoder->Features(task.image.windows.data(), 1, 96, 96, features.data());
        CHECK(fake::Current() == callers);
        CHECK_THROWS_AS(broken->Segment(task.image, task.input, [&] { return task.Plan(); }), Error);
        CHECK(fake::Current() == callers);
    }
    fake::Current() = reinterpret_cast<CUcontext>(&another);
    encoder.reset();
    CHECK(fake::Current() == reinterpret_cast<CUcontext>(&another));
    fake::Current() = nullptr;
}

TEST_CASE("an image decoded in strips of columns is the whole") {
    const Device device;
    const KernelSet kernels(device.bundle, *device.gpu);
    const Stream stream(*device.gpu, nullptr);
    for (const double area : {0.0, 0.2}) {
        Task task(50, 205, 9, 5);  // seven blocks of 32 columns
        task.input.confidence = true;
        task.input.area_threshold = area;
        const DecodePlan plan = task.Plan();
        std::vector<float> cosines;
        for (std::size_t patch = 0; patch < task.features.size() / kEmbed; ++patch) {
            for (std::size_t q = 0; q < 9; ++q) {
                float sum = 0;
                for (std::size_t e = 0; e < kEmbed; ++e)
                    sum += task.features[patch * kEmbed + e] * task.text[q * kEmbed + e];
                cosines.push_back(sum);
            }
        }
        const DeviceBuffer source(*device.gpu, cosines.size() * sizeof(float), "cosines");
        stream.Upload(source.at(), cosines.data(), cosines.size() * sizeof(float));
        const auto decode = [&](std::size_t strip_bytes) {
            const DeviceDecode work(kernels, *device.gpu, task.input, plan, strip_bytes);
            work.Queue(stream, source.at());
            std::vector<std::uint8_t> block(work.copied_bytes());
            stream.Download(block.data(), work.results(), block.size());
            stream.Wait();
            return work.Read(block.data());
        };
        const Decoded whole = decode(SIZE_MAX), expected = Decode(task.input, plan);
        const std::size_t bytes = sizeof(float) * 32 * static_cast<std::size_t>(plan.rows.cells()) * 9;
        for (const std::size_t strip_bytes : {std::size_t{1}, 3 * bytes, 4 * bytes}) {
            const Decoded found = decode(strip_bytes);
            CHECK(found.labels == whole.labels);
            CHECK(found.confidence == whole.confidence);
        }
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < whole.labels.size(); ++i) wrong += whole.labels[i] != expected.labels[i];
        CHECK(wrong <= whole.labels.size() / 500);
    }
    CHECK(kernels.Missing(5).empty());
    const Bundle none = Bundle::Open(FixturePath("bundles/sound"), false);
    CHECK(KernelSet(none, *device.gpu).Missing(5) == "the bundle holds no compiled kernels");
    const std::string damaged = FixturePath("damaged_kernels.scclip");
    for (const char* text : {"[1", "[{\"name\": 1}]"}) {
        std::filesystem::remove_all(damaged);
        std::filesystem::copy(Fixtures()["kernels"].get<std::string>(), damaged,
                              std::filesystem::copy_options::recursive);
        std::ofstream(damaged + "/kernels/kernels.json") << text;
        CHECK(KernelSet(Bundle::Open(damaged, false), *device.gpu).Missing(5).find("kernels.json") !=
              std::string::npos);
    }
    const Bundle earlier = Bundle::Open(Fixtures()["earlier_kernels"], false);
    CHECK(KernelSet(earlier, *device.gpu).Missing(5) == "the bundle has no 'decode_columns' kernel");
}

TEST_CASE("more shapes than are kept, and threads, on one encoder") {
    const Device device;
    {
        const auto encoder = device.Encoder(1, 16);
        for (int i = 0; i < 12; ++i) Task(40 + i, 60, 4, 3, static_cast<std::uint64_t>(i + 1)).Check(*encoder);
        const Task task(70, 90, 9, 5);
        const Decoded expected = Decode(task.input, task.Plan());
        std::atomic<int> wrong{0};
        std::vector<std::thread> threads;
        for (int t = 0; t < 4; ++t) {
            threads.emplace_back([&] {
                for (int i = 0; i < 10; ++i) {
                    wrong += encoder->Segment(task.image, task.input, [&] { return task.Plan(); }).labels.size() !=
                             expected.labels.size();
                }
            });
        }
        for (auto& thread : threads) thread.join();
        CHECK(wrong == 0);
    }
    CHECK(fake::Counts().allocations == 0);
}

TEST_CASE("what the device refuses comes back in one line, and the next call works") {
    const Device device;
    const Task task(70, 90, 9, 5);
    const auto plan = [&] { return task.Plan(); };
    const auto broken = device.Encoder(1, 16, nullptr, true);
    CHECK_THROWS_WITH_AS(broken->Segment(task.image, task.input, plan), doctest::Contains("NaN or infinity"), Error);
    const auto encoder = device.Encoder(1, 16);
    fake::Counts().memory = 1000;
    CHECK_THROWS_WITH_AS(encoder->Segment(task.image, task.input, plan),
                         doctest::Contains("out of memory on cuda:0 (Fake L4): 1 MiB for "), Error);
    fake::Counts().memory = SIZE_MAX;
    task.Check(*encoder);
    Task many(70, 90, 500, 5);
    CHECK_FALSE(encoder->CanSegment(many.input));
    CHECK_THROWS_WITH_AS(Gpu(fake::Driver(), 1), "there is no cuda:1; this process sees: cuda:0 (Fake L4)", Error);
}

TEST_CASE("kernels are chosen for the GPU, and a damaged list is refused") {
    const Bundle bundle = Bundle::Open(Fixtures()["kernels"], false);
    const auto capability = [&](int major, int minor) {
        const KernelChoice choice = ChooseKernels(bundle, major, minor);
        if (choice.kernels.empty()) return choice.reason;
        const KernelSpec* decode = choice.Find("decode_rows", {{"labels", "*u8"}}, {{"SOFT", true}, {"MASKED", false}});
        REQUIRE(decode != nullptr);
        CHECK(decode->entry == "decode_rows_u8_soft");
        return std::to_string(decode->major) + "." + std::to_string(decode->minor);
    };
    CHECK(capability(8, 0) == "8.0");
    CHECK(capability(8, 6) == "8.0");
    CHECK(capability(8, 9) == "8.9");
    CHECK(capability(9, 0) == "9.0");
    CHECK(capability(12, 0) == "the bundle's kernels are for sm_80, sm_89, sm_90, this GPU is sm_120");
    CHECK(ChooseKernels(Bundle::Open(FixturePath("bundles/sound"), false), 8, 9).reason ==
          "the bundle holds no compiled kernels");
    for (const char* text : {"", "{}", "[1]", R"([{"name": "x"}])"}) {
        CHECK_THROWS_WITH_AS(ParseKernelList(text), doctest::Contains("not a list of kernels"), Error);
    }
    Device device;
    const KernelSpec* spec = nullptr;
    const KernelChoice choice = ChooseKernels(bundle, 8, 9);
    spec = choice.Find("finite");
    REQUIRE(spec != nullptr);
    const Kernel kernel(*device.gpu, *spec, "finite");
    const Stream stream(*device.gpu, nullptr);
    CHECK_THROWS_WITH_AS(kernel.Launch(stream, 1, 1, {{"values", 0}}),
                         "kernels/kernels.json: kernel 'finite' takes values, flag, count; this version gives values. "
                         "Export the bundle again",
                         Error);
    CHECK_THROWS_WITH_AS(Kernel(*device.gpu, *spec, "other"),
                         "cuModuleGetFunction failed on cuda:0 (Fake L4): CUDA_ERROR_NOT_FOUND", Error);
}

TEST_CASE("without a driver or a library the backend says what is missing") {
    OpenOptions options;
    options.backend = "tensorrt";
    const auto message = [&] { return Segmenter::Open(FixturePath("bundles/sound"), options).status().message(); };
    const std::string found = message();  // on a machine with both, the bundle has no engine
    const bool expected = found.find("tensorrt can't be loaded") == 0 || found.find("no NVIDIA driver") == 0 ||
                          found.find("no engine in") == 0;
    CHECK_MESSAGE(expected, found);
    options.device = "cpu";
    const auto field = [&] { return Segmenter::Open(FixturePath("bundles/sound"), options).status().field(); };
    CHECK(field() == "device");
    options.device = "cuda:0";
    options.ort_provider = "cuda";
    CHECK(field() == "ort_provider");
}
