// The way through a GPU, on a driver that works on host memory and an engine that averages colours.
#include <atomic>
#include <cmath>
#include <thread>

#include "device_encoder.hpp"
#include "error.hpp"
#include "fake_cuda.hpp"
#include "fixtures.hpp"
#include "text.hpp"

using namespace scclip;

namespace {

constexpr int kPatch = 16, kEmbed = 8;

/// Unit features of a window's patches from the mean colour, some of them made up.
std::vector<float> PatchFeatures(const std::uint8_t* window, int height, int width) {
    std::vector<float> features;
    for (int top = 0; top < height; top += kPatch) {
        for (int left = 0; left < width; left += kPatch) {
            double sums[3] = {}, length = 0, values[kEmbed];
            for (int i = 0; i < kPatch * kPatch * 3; ++i) {
                const int y = top + i / (kPatch * 3), x = left * 3 + i % (kPatch * 3);
                sums[i % 3] += window[y * width * 3 + x];
            }
            for (int e = 0; e < kEmbed; ++e) {
                values[e] = std::sin(sums[e % 3] / 3000 + e);
                length += values[e] * values[e];
            }
            for (const double value : values) features.push_back(static_cast<float>(value / std::sqrt(length)));
        }
    }
    return features;
}

class FakeCall final : public GraphCall {
  public:
    FakeCall(int batch, int height, int width, int queries, bool broken)
        : batch_(batch), height_(height), width_(width), queries_(queries), broken_(broken) {}

    void Enqueue(CUdeviceptr windows, CUdeviceptr text, CUdeviceptr features, CUdeviceptr cosines,
                 CUstream stream) override {
        // NvInferRuntime.h, setTensorAddress: "The pointer must have at least 256-byte alignment."
        for (const CUdeviceptr address : {windows, text, features, cosines}) CHECK(address % 256 == 0);
        // Through the driver, so that a capture records it: one copy whose source is written when it runs.
        auto* work = new FakeCall(*this);
        work->windows_ = reinterpret_cast<const std::uint8_t*>(windows);
        work->text_ = reinterpret_cast<const float*>(text);
        work->features_ = reinterpret_cast<float*>(features);
        work->cosines_ = reinterpret_cast<float*>(cosines);
        kept_.emplace_back(work);
        void* arguments[] = {&work, nullptr};
        fake::Driver().cuLaunchKernel(reinterpret_cast<CUfunction>(&FakeCall::Launch), 1, 1, 1, 1, 1, 1, 0, stream,
                                      arguments, nullptr);
    }

  private:
    int batch_, height_, width_, queries_;
    bool broken_;
    const std::uint8_t* windows_ = nullptr;
    const float* text_ = nullptr;
    float *features_ = nullptr, *cosines_ = nullptr;
    std::vector<std::shared_ptr<FakeCall>> kept_;

    static void Launch(void* const* arguments) { (*static_cast<FakeCall* const*>(arguments[0]))->Compute(); }

    void Compute() {
        const std::size_t window = static_cast<std::size_t>(height_ * width_ * 3);
        float *feature = features_, *cosine = cosines_;
        for (int w = 0; w < batch_; ++w) {
            const auto values = PatchFeatures(windows_ + static_cast<std::size_t>(w) * window, height_, width_);
            feature = std::copy(values.begin(), values.end(), feature);
            for (std::size_t patch = 0; patch < values.size(); patch += kEmbed) {
                for (int q = 0; q < queries_; ++q) {
                    float sum = broken_ ? std::nanf("") : 0;
                    for (int e = 0; e < kEmbed; ++e)
                        sum += values[patch + static_cast<std::size_t>(e)] * text_[q * kEmbed + e];
                    *cosine++ = sum;
                }
            }
        }
    }
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
            CHECK((fake::Current() == fake::Primary() ||
                   fake::Counts().lost));  // its memory is freed in whatever is current
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
                                               EncoderSpec{}, info, kEmbed, kPatch, stream);
    }
};

/// An image with its windows, a vocabulary, and what the decode on the host makes of them.
struct Task {
    PreparedImage image;
    std::vector<float> text;
    std::vector<std::int64_t> query_class;
    DecodeInput input;
    std::vector<float> features;

    Task(int height, int width, int queries, int classes, std::uint64_t id = 1) {
        Preparation prepare{{"window", 6, 6}, kPatch, 128, 512, 96, 48, 1000000, 100};
        const auto pixels = Pattern(static_cast<std::size_t>(height * width * 3), id);
        std::vector<std::uint8_t> smooth(pixels);
        for (std::size_t i = 0; i < smooth.size(); ++i)
            smooth[i] = static_cast<std::uint8_t>(i / 977 * 41 + pixels[i] / 8);
        image = prepare({smooth.data(), height, width, 0, PixelFormat::kRgb});
        for (int q = 0; q < queries; ++q) {
            query_class.push_back(q % classes);
            double length = 0, values[kEmbed];
            for (int e = 0; e < kEmbed; ++e) {
                values[e] = std::sin(q * 7.1 * (e + 1) + e * 1.3);
                length += values[e] * values[e];
            }
            for (const double value : values) text.push_back(static_cast<float>(value / std::sqrt(length)));
        }
        const std::size_t window = 96 * 96 * 3;
        for (int w = 0; w < image.tiling.size(); ++w) {
            const auto part = PatchFeatures(image.windows.data() + static_cast<std::size_t>(w) * window, 96, 96);
            features.insert(features.end(), part.begin(), part.end());
        }
        input.features = features.data();
        input.text = text.data();
        input.text_id = id;
        input.embed_dim = kEmbed;
        input.query_class = &query_class;
        input.num_classes = classes;
        input.threads = 1;
    }
    Task(const Task&) = delete;

    DecodePlan Plan() const {
        const Tiling& t = image.tiling;
        return {static_cast<int>(t.rows.size()),
                static_cast<int>(t.columns.size()),
                6,
                6,
                InterpolationAxis(t.rows, 96, 6, t.height, image.height, 32),
                InterpolationAxis(t.columns, 96, 6, t.width, image.width, 64)};
    }

    void Check(const DeviceEncoder& encoder) const {
        const Decoded expected = Decode(input, Plan());
        REQUIRE(encoder.CanSegment(input));
        for (int run = 0; run < 3; ++run) {  // call by call, captured, replayed
            const Decoded found = encoder.Segment(image, input, [&] { return Plan(); });
            REQUIRE(found.labels.size() == expected.labels.size());
            REQUIRE(found.wide_labels.size() == expected.wide_labels.size());
            REQUIRE(found.confidence.size() == expected.confidence.size());
            CHECK(found.unlabelled == expected.unlabelled);
            std::size_t wrong = 0;
            for (std::size_t i = 0; i < found.labels.size(); ++i) wrong += found.labels[i] != expected.labels[i];
            for (std::size_t i = 0; i < found.wide_labels.size(); ++i) {
                wrong += found.wide_labels[i] != expected.wide_labels[i];
            }
            // The kernels of the tests add in double precision: pixels where two classes tie may differ.
            CHECK(wrong <= (expected.labels.size() + expected.wide_labels.size()) / 500);
            float gap = 0;
            for (std::size_t i = 0; i < found.confidence.size(); ++i) {
                gap = std::max(gap, std::abs(found.confidence[i] - expected.confidence[i]));
            }
            CHECK(gap < 1e-4F);
        }
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
        const KernelSpec* decode = choice.Find("decode", {{"labels", "*u8"}}, {{"SOFT", true}, {"MASKED", false}});
        REQUIRE(decode != nullptr);
        CHECK(decode->entry == "decode_u8_soft");
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
    CHECK(message() == "backend 'tensorrt' runs on an NVIDIA GPU, not on 'cpu'; use --device cuda:0");
    options.device = "cuda:0";
    options.ort_provider = "cuda";
    CHECK(message() == "--ort-provider cuda is for backend 'onnxruntime'; leave it out with 'tensorrt'");
}
