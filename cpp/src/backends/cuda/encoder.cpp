#include "backends/cuda/encoder.hpp"

#include <algorithm>
#include <cstring>
#include <map>
#include <optional>
#include <sstream>

#include "backends/graph_check.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

constexpr std::size_t kMostPlans = 8;  // shapes whose buffers and graphs a lane keeps
constexpr std::size_t kAligned = 256;  // TensorRT takes no tensor address that is not a multiple of it

std::size_t Size(std::int64_t count) { return static_cast<std::size_t>(count); }

/// Host windows of one shape to host features.
class EncodePlan {
  public:
    EncodePlan(const Stream& stream, DeviceGraph& graph, int count, int height, int width, int rows, int embed_dim)
        : stream_(stream),
          window_bytes_(Size(count) * Size(height) * Size(width) * 3),
          feature_bytes_(4 * Size(count) * Size(rows) * Size(embed_dim)),
          queries_(graph.min_queries),
          run_(std::max(count, graph.min_batch)),
          call_(graph.Call(run_, height, width, queries_)),
          windows_(stream.gpu(), window_bytes_ / Size(count) * Size(run_), "windows"),
          text_(stream.gpu(), 4 * Size(queries_) * Size(embed_dim), "queries"),
          features_(stream.gpu(), feature_bytes_ / Size(count) * Size(run_), "features"),
          cosines_(stream.gpu(), 4 * Size(run_) * Size(rows) * Size(queries_), "cosines"),
          pinned_windows_(stream.gpu(), window_bytes_),
          pinned_features_(stream.gpu(), feature_bytes_),
          replay_(stream, [this] { Queue(); }) {
        // The features need no query, but the graph wants one: a unit vector costs nothing measurable.
        std::vector<float> text(Size(queries_) * Size(embed_dim));
        for (int query = 0; query < queries_; ++query) text[Size(query) * Size(embed_dim)] = 1;
        stream.Zero(windows_.at(), windows_.bytes());  // what fills up a batch under the engine's least
        stream.Upload(text_.at(), text.data(), text.size() * 4);
        stream.Wait();
    }

    void Run(const std::uint8_t* windows, float* features) {
        std::memcpy(pinned_windows_.data(), windows, window_bytes_);
        replay_.Run();
        stream_.Wait();
        std::memcpy(features, pinned_features_.data(), feature_bytes_);
    }

  private:
    const Stream& stream_;
    std::size_t window_bytes_, feature_bytes_;
    int queries_, run_;
    std::unique_ptr<GraphCall> call_;
    DeviceBuffer windows_, text_, features_, cosines_;
    PinnedBuffer pinned_windows_, pinned_features_;
    Replay replay_;

    void Queue() {
        stream_.Upload(windows_.at(), pinned_windows_.data(), window_bytes_);
        call_->Enqueue(windows_.at(), text_.at(), features_.at(), cosines_.at(), stream_.handle());
        stream_.Download(pinned_features_.data(), features_.at(), feature_bytes_);
    }
};

/// What a SegmentPlan is made for.
struct SegmentShape {
    Tiling tiling;
    int batch, patches, embed_dim, queries;
    std::size_t window_bytes() const { return Size(tiling.window_height) * Size(tiling.window_width) * 3; }
    std::size_t image_bytes() const { return Size(tiling.height) * Size(tiling.width) * 3; }
};

/// A resized image of one size to its labels: one upload, one download.
class SegmentPlan {
  public:
    SegmentPlan(const Stream& stream, DeviceGraph& graph, const KernelSet& kernels, const SegmentShape& shape,
                const DecodeInput& input, const DecodePlan& plan)
        : stream_(stream),
          shape_(shape),
          least_(graph.min_batch),
          decode_(kernels, stream.gpu(), input, plan),
          image_(stream.gpu(), shape.image_bytes(), "the image"),
          windows_(stream.gpu(), shape.window_bytes() * Size(Most()), "windows"),
          text_(stream.gpu(), 4 * input.query_class->size() * Size(shape.embed_dim), "queries"),
          features_(stream.gpu(), 4 * Size(shape.patches) * Size(shape.embed_dim) * Size(Longest()), "features"),
          cosines_(stream.gpu(), CosineBytes() * Size(Most()), "cosines"),
          pinned_image_(stream.gpu(), shape.image_bytes()),
          pinned_results_(stream.gpu(), decode_.copied_bytes()),
          replay_(stream, [this] { Queue(); }) {
        for (const int run : {Run(0), Run((shape.tiling.size() - 1) / shape.batch)}) {
            if (calls_.count(run) == 0) {
                calls_[run] = graph.Call(run, shape.tiling.window_height, shape.tiling.window_width, shape.queries);
            }
        }
        // Runs that would start at an address that no library takes go through memory of their own.
        for (int first = shape.batch; first < shape.tiling.size(); first += shape.batch) {
            if (!staged_windows_ && Size(first) * shape.window_bytes() % kAligned != 0) {
                staged_windows_.emplace(stream.gpu(), shape.window_bytes() * Size(Longest()), "windows");
            }
            if (!staged_cosines_ && Size(first) * CosineBytes() % kAligned != 0) {
                staged_cosines_.emplace(stream.gpu(), CosineBytes() * Size(Longest()), "cosines");
            }
        }
        stream.Zero(windows_.at(), windows_.bytes());  // what fills up a batch under the engine's least
        stream.Upload(text_.at(), input.text, text_.bytes());
        stream.Wait();
    }

    Decoded operator()(const PreparedImage& image) {
        std::memcpy(pinned_image_.data(), image.resized.data(), shape_.image_bytes());
        // An engine may tie a graph to the addresses it was captured with: one run, one set of addresses.
        if (shape_.tiling.size() <= shape_.batch) {
            replay_.Run();
        } else {
            Queue();
        }
        stream_.Wait();
        return decode_.Read(pinned_results_.data());
    }

  private:
    const Stream& stream_;
    SegmentShape shape_;
    int least_;
    std::map<int, std::unique_ptr<GraphCall>> calls_;
    DeviceDecode decode_;
    DeviceBuffer image_, windows_, text_, features_, cosines_;
    std::optional<DeviceBuffer> staged_windows_, staged_cosines_;
    PinnedBuffer pinned_image_, pinned_results_;
    Replay replay_;

    /// Windows of a batch, filled up to the engine's least.
    int Run(int batch) const {
        return std::max(std::min(shape_.batch, shape_.tiling.size() - batch * shape_.batch), least_);
    }
    int Longest() const { return std::max(std::min(shape_.batch, shape_.tiling.size()), least_); }
    int Most() const { return shape_.tiling.size() + least_ - 1; }
    std::size_t CosineBytes() const { return 4 * Size(shape_.patches) * Size(shape_.queries); }

    void Cut() {
        CUdeviceptr to = windows_.at();
        const std::size_t row = Size(shape_.tiling.width) * 3, width = Size(shape_.tiling.window_width) * 3;
        for (const int top : shape_.tiling.rows) {
            for (const int left : shape_.tiling.columns) {
                stream_.CopyRows(to, width, image_.at(Size(top) * row + Size(left) * 3), row, width,
                                 Size(shape_.tiling.window_height));
                to += shape_.window_bytes();
            }
        }
    }

    void Queue() {
        stream_.Upload(image_.at(), pinned_image_.data(), shape_.image_bytes());
        Cut();
        for (int batch = 0; batch * shape_.batch < shape_.tiling.size(); ++batch) {
            const std::size_t first = Size(batch) * Size(shape_.batch);
            const CUdeviceptr windows = windows_.at(first * shape_.window_bytes());
            const CUdeviceptr cosines = cosines_.at(first * CosineBytes());
            if (staged_windows_) stream_.Copy(staged_windows_->at(), windows, Size(Run(batch)) * shape_.window_bytes());
            calls_.at(Run(batch))
                ->Enqueue(staged_windows_ ? staged_windows_->at() : windows, text_.at(), features_.at(),
                          staged_cosines_ ? staged_cosines_->at() : cosines, stream_.handle());
            if (staged_cosines_) {
                const int count = std::min(shape_.batch, shape_.tiling.size() - batch * shape_.batch);
                stream_.Copy(cosines, staged_cosines_->at(), Size(count) * CosineBytes());
            }
        }
        decode_.Queue(stream_, cosines_.at());
        stream_.Download(pinned_results_.data(), decode_.results(), decode_.copied_bytes());
    }
};

/// The most recently used of some plans.
template <typename Plan>
class Plans {
  public:
    template <typename Make>
    Plan& Get(const std::string& key, Make make) {
        const auto found =
            std::find_if(plans_.begin(), plans_.end(), [&](const auto& one) { return one.first == key; });
        if (found != plans_.end()) {
            plans_.splice(plans_.begin(), plans_, found);
        } else {
            while (plans_.size() >= kMostPlans) plans_.pop_back();  // first, so that its memory can be had again
            plans_.emplace_front(key, make());
        }
        return *plans_.front().second;
    }

  private:
    std::list<std::pair<std::string, std::unique_ptr<Plan>>> plans_;
};

std::string KeyOf(const PreparedImage& image, const DecodeInput& input) {
    std::ostringstream key;
    key.precision(17);
    const Tiling& tiling = image.tiling;
    key << image.height << ' ' << image.width << ' ' << tiling.height << ' ' << tiling.width << ' '
        << tiling.window_height << ' ' << tiling.window_width << ' ' << tiling.rows.size() << ' '
        << tiling.columns.size() << ' ' << input.text_id << ' ' << input.logit_scale << ' ' << input.prob_threshold
        << ' ' << input.area_threshold << ' ' << input.confidence;
    return key.str();
}

}  // namespace

/// A stream with an engine's context and the plans on it. Serves one call at a time.
class DeviceEncoder::Lane {
  public:
    Lane(const Gpu& gpu, CUstream callers, std::unique_ptr<DeviceGraph> graph)
        : stream(gpu, callers), graph(std::move(graph)) {}
    ~Lane() {
        // What an interrupted run left on the stream must not find its buffers gone.
        stream.gpu().DriverToFree().cuStreamSynchronize(stream.handle());
    }
    Lane(const Lane&) = delete;
    Lane& operator=(const Lane&) = delete;

    Stream stream;
    std::unique_ptr<DeviceGraph> graph;
    Plans<EncodePlan> encodes;
    Plans<SegmentPlan> segments;
};

/// A lane for one call; given back only by Done, so that one whose run was interrupted is dropped.
class DeviceEncoder::Lease {
  public:
    explicit Lease(const DeviceEncoder& owner) : callers_context_(Present(*owner.gpu_)), owner_(owner) {
        owner.gpu_->Driver();  // a library works in the context that is current, and any thread may call
        if (owner.callers_ != nullptr) callers_ = std::unique_lock<std::mutex>(owner.callers_mutex_);
        {
            const std::lock_guard<std::mutex> lock(owner.mutex_);
            if (!owner.idle_.empty()) {
                lane_ = std::move(owner.idle_.back());
                owner.idle_.pop_back();
            }
        }
        if (!lane_) lane_ = std::make_unique<Lane>(*owner.gpu_, owner.callers_, owner.make_());
    }
    Lane& lane() const { return *lane_; }
    void Done() {
        const std::lock_guard<std::mutex> lock(owner_.mutex_);
        owner_.idle_.push_back(std::move(lane_));
    }

  private:
    CallersContext callers_context_;  // first, so that it is undone last
    const DeviceEncoder& owner_;
    std::unique_lock<std::mutex> callers_;
    std::unique_ptr<Lane> lane_;

    static const Gpu& Present(const Gpu& gpu) {
        gpu.CheckPresent();
        return gpu;
    }
};

DeviceEncoder::DeviceEncoder(std::shared_ptr<const Gpu> gpu, std::unique_ptr<KernelSet> kernels, GraphMaker make,
                             std::unique_ptr<DeviceGraph> first, EncoderSpec spec, BackendInfo info,
                             const FeatureSizes& sizes, CUstream callers)
    : Encoder(std::move(spec), std::move(info), sizes),
      gpu_(std::move(gpu)),
      kernels_(std::move(kernels)),
      make_(std::move(make)),
      min_queries_(first->min_queries),
      max_queries_(first->max_queries),
      callers_(callers) {
    idle_.push_back(std::make_unique<Lane>(*gpu_, callers_, std::move(first)));
}

DeviceEncoder::~DeviceEncoder() {
    callers_context_.emplace(*gpu_);
    gpu_->DriverToFree();  // for the library, which frees in the current context
}

void DeviceEncoder::Features(const std::uint8_t* windows, int count, int height, int width, float* out) const {
    const int rows = static_cast<int>(sizes().Rows(height, width)), embed_dim = sizes().embed_dim;
    Lease lease(*this);
    Lane& lane = lease.lane();
    const std::string key = std::to_string(count) + " " + std::to_string(height) + " " + std::to_string(width);
    lane.encodes
        .Get(key,
             [&] {
                 return std::make_unique<EncodePlan>(lane.stream, *lane.graph, count, height, width, rows, embed_dim);
             })
        .Run(windows, out);
    lease.Done();
    CheckFeatures(out, Size(count) * Size(rows) * Size(embed_dim), info().encoder);
}

bool DeviceEncoder::CanSegment(const DecodeInput& input) const {
    const auto queries = static_cast<std::int64_t>(input.query_class->size());
    return input.refine == nullptr && queries >= min_queries_ && queries <= max_queries_ &&
           input.num_classes <= 65534 && kernels_->Missing(input.num_classes).empty();
}

Decoded DeviceEncoder::Segment(const PreparedImage& image, const DecodeInput& input, const PlanMaker& plan) const {
    Lease lease(*this);
    Lane& lane = lease.lane();
    SegmentPlan& segment = lane.segments.Get(KeyOf(image, input), [&] {
        const Tiling& tiling = image.tiling;
        const int rows = static_cast<int>(sizes().Rows(tiling.window_height, tiling.window_width));
        const SegmentShape shape{tiling, batch_size(), rows, sizes().embed_dim,
                                 static_cast<int>(input.query_class->size())};
        return std::make_unique<SegmentPlan>(lane.stream, *lane.graph, *kernels_, shape, input, plan());
    });
    Decoded decoded = segment(image);
    lease.Done();
    return decoded;
}

}  // namespace scclip
