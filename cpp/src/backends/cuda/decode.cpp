#include "backends/cuda/decode.hpp"

#include <algorithm>
#include <cstring>
#include <set>

#include "backends/graph_check.hpp"
#include "errors.hpp"

namespace scclip {
namespace {

constexpr std::size_t kAlign = 256;
constexpr std::size_t kLabelsAt = kAlign;

std::size_t RoundUp(std::size_t bytes) { return (bytes + kAlign - 1) / kAlign * kAlign; }

unsigned Blocks(std::int64_t count, unsigned block) { return static_cast<unsigned>((count + block - 1) / block); }

/// A buffer with a copy of host values, complete when the constructor returns.
template <typename T>
void Fill(const Gpu& gpu, const DeviceBuffer& buffer, const std::vector<T>& values) {
    const Stream stream(gpu, nullptr);
    stream.Upload(buffer.at(), values.data(), values.size() * sizeof(T));
    stream.Wait();
}

BandAxis Rows(const DecodePlan& plan, unsigned block) {
    const int patches = plan.grid_rows * plan.grid_columns;
    return MakeBandAxis(plan.rows, static_cast<int>(block), plan.grid_rows, plan.window_columns * patches,
                        plan.grid_columns);
}

BandAxis Columns(const DecodePlan& plan, unsigned block) {
    return MakeBandAxis(plan.columns, static_cast<int>(block), plan.grid_columns, plan.grid_rows * plan.grid_columns,
                        1);
}

/// How many blocks of columns are decoded at a time: strips of about equal width, one block where that is much already.
int BlocksPerStrip(int blocks, std::size_t block_bytes, std::size_t strip_bytes) {
    const auto all = static_cast<std::size_t>(blocks), fit = std::max<std::size_t>(strip_bytes / block_bytes, 1);
    const std::size_t strips = (all + fit - 1) / fit;
    return static_cast<int>((all + strips - 1) / strips);
}

}  // namespace

KernelSet::KernelSet(const Bundle& bundle, const Gpu& gpu) {
    try {
        choice_ = ChooseKernels(bundle, gpu.major(), gpu.minor());
        for (const KernelSpec& spec : choice_.kernels) {
            static const std::set<std::string> used = {"decode_columns", "decode_rows", "count", "keep", "finite"};
            if (used.count(spec.name) == 0) continue;
            loaded_[&spec] = std::make_unique<Kernel>(gpu, spec, bundle.Read(spec.file));
            if (spec.name == "decode_columns") (void)spec.Constant("BLOCK_X");
            if (spec.name == "decode_rows") (void)spec.Constant("BLOCK_Y");
        }
    } catch (const Error& error) {
        if (error.code != ErrorCode::kBundle) throw;
        loaded_.clear();
        choice_ = {{}, error.what()};  // docs/bundle.md: what lies under kernels/ keeps nothing else from working
    }
}

std::string KernelSet::Missing(std::int64_t num_classes) const {
    if (!choice_.reason.empty()) return choice_.reason;
    for (const char* name : {"decode_columns", "finite", "keep"}) {
        if (choice_.Find(name) == nullptr) return std::string("the bundle has no '") + name + "' kernel";
    }
    const std::map<std::string, std::string> labels = {{"labels", num_classes > 254 ? "*u16" : "*u8"}};
    for (const bool soft : {false, true}) {
        for (const bool masked : {false, true}) {
            if (choice_.Find("decode_rows", labels, {{"SOFT", soft}, {"MASKED", masked}}) == nullptr) {
                return "the bundle has no 'decode_rows' kernel for this many classes";
            }
        }
    }
    if (choice_.Find("count", labels) == nullptr) return "the bundle has no 'count' kernel";
    return "";
}

const Kernel& KernelSet::Get(const std::string& name, const std::map<std::string, std::string>& types,
                             const std::map<std::string, bool>& constants) const {
    return *loaded_.at(choice_.Find(name, types, constants));
}

DeviceDecode::Table::Table(const Gpu& gpu, const BandAxis& axis)
    : blocks(axis.blocks),
      band_cells(axis.band_cells),
      cells(static_cast<int>(axis.cells.size())),
      span(gpu, axis.span.size() * sizeof(std::int32_t), "tables"),
      band(gpu, axis.band.size() * sizeof(float), "tables"),
      places(gpu, axis.cells.size() * sizeof(std::int32_t), "tables") {
    Fill(gpu, span, axis.span);
    Fill(gpu, band, axis.band);
    Fill(gpu, places, axis.cells);
}

DeviceDecode::DeviceDecode(const KernelSet& kernels, const Gpu& gpu, const DecodeInput& input, const DecodePlan& plan,
                           std::size_t strip_bytes)
    : kernels_(kernels),
      height_(plan.rows.length()),
      width_(plan.columns.length()),
      queries_(static_cast<int>(input.query_class->size())),
      num_classes_(static_cast<int>(input.num_classes)),
      cosines_(static_cast<std::int64_t>(plan.rows.cells()) * plan.columns.cells() * queries_),
      confidence_(input.confidence),
      soft_(input.confidence || input.prob_threshold > 0),
      wide_(input.num_classes > 254),
      logit_scale_(input.logit_scale),
      prob_threshold_(input.prob_threshold),
      area_threshold_(input.area_threshold),
      background_(input.background ? static_cast<int>(*input.background) : -1),
      label_bytes_(static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_) * (wide_ ? 2 : 1)),
      confidence_at_(RoundUp(kLabelsAt + label_bytes_)),
      copied_bytes_(confidence_ ? confidence_at_ + label_bytes_ / (wide_ ? 2 : 1) * 4 : kLabelsAt + label_bytes_),
      rows_(gpu, Rows(plan, kernels.Get("decode_rows", LabelType()).spec().Constant("BLOCK_Y"))),
      columns_(gpu, Columns(plan, kernels.Get("decode_columns").spec().Constant("BLOCK_X"))),
      block_bytes_(static_cast<std::size_t>(kernels.Get("decode_columns").spec().Constant("BLOCK_X")) * sizeof(float) *
                   static_cast<std::size_t>(rows_.cells) * static_cast<std::size_t>(queries_)),
      strip_blocks_(BlocksPerStrip(columns_.blocks, block_bytes_, strip_bytes)),
      strip_(gpu, static_cast<std::size_t>(strip_blocks_) * block_bytes_, "values between decoding kernels"),
      results_(gpu, confidence_at_ + (soft_ ? label_bytes_ / (wide_ ? 2 : 1) * 4 : 1), "labels"),
      query_class_(gpu, static_cast<std::size_t>(queries_) * 4, "tables"),
      query_keep_(gpu, static_cast<std::size_t>(queries_), "tables"),
      area_share_(gpu, sizeof(double), "tables"),
      counts_(gpu, static_cast<std::size_t>(num_classes_) * 4, "class counts") {
    Fill(gpu, query_class_, std::vector<std::int32_t>(input.query_class->begin(), input.query_class->end()));
    Fill(gpu, query_keep_, std::vector<std::uint8_t>(static_cast<std::size_t>(queries_), 1));
    Fill(gpu, area_share_, std::vector<double>{area_threshold_});
}

void DeviceDecode::Queue(const Stream& stream, CUdeviceptr cosines) const {
    CheckFinite(stream, cosines);
    if (area_threshold_ > 0) {
        LabelStrips(stream, cosines, false, false);
        MarkKeptQueries(stream);
    }
    LabelStrips(stream, cosines, area_threshold_ > 0, true);
}

void DeviceDecode::CheckFinite(const Stream& stream, CUdeviceptr cosines) const {
    const Kernel& kernel = kernels_.Get("finite");
    stream.Zero(results_.at(), 4);
    kernel.Launch(stream, Blocks(cosines_, kernel.spec().Constant("BLOCK")), 1,
                  {{"values", cosines}, {"flag", results_.at()}, {"count", static_cast<CUdeviceptr>(cosines_)}});
}

void DeviceDecode::LabelStrips(const Stream& stream, CUdeviceptr cosines, bool masked, bool last) const {
    for (int first = 0; first < columns_.blocks; first += strip_blocks_) {
        // With one strip alone it is still there the second time.
        if (!masked || strip_blocks_ < columns_.blocks) InterpolateColumns(stream, cosines, first);
        Label(stream, first, masked, last);
    }
}

void DeviceDecode::InterpolateColumns(const Stream& stream, CUdeviceptr cosines, int first) const {
    const Kernel& kernel = kernels_.Get("decode_columns");
    kernel.Launch(stream, static_cast<unsigned>(rows_.cells) * Blocks(queries_, kernel.spec().Constant("BLOCK_Q")),
                  static_cast<unsigned>(strip_blocks_),
                  {{"logits", cosines},
                   {"row_cells", rows_.places.at()},
                   {"column_span", columns_.span.at()},
                   {"column_band", columns_.band.at()},
                   {"column_cells", columns_.places.at()},
                   {"strip", strip_.at()},
                   {"first_block", first},
                   {"num_blocks", columns_.blocks},
                   {"num_cells", rows_.cells},
                   {"num_queries", queries_},
                   {"band_cells", columns_.band_cells},
                   {"logit_scale", logit_scale_}});
}

void DeviceDecode::Label(const Stream& stream, int first, bool masked, bool last) const {
    const Kernel& kernel = kernels_.Get("decode_rows", LabelType(), {{"SOFT", soft_ && last}, {"MASKED", masked}});
    kernel.Launch(stream, static_cast<unsigned>(strip_blocks_), static_cast<unsigned>(rows_.blocks),
                  {{"strip", strip_.at()},
                   {"row_span", rows_.span.at()},
                   {"row_band", rows_.band.at()},
                   {"query_class", query_class_.at()},
                   {"query_keep", query_keep_.at()},
                   {"labels", results_.at(kLabelsAt)},
                   {"confidence", results_.at(confidence_at_)},
                   {"first_block", first},
                   {"height", height_},
                   {"width", width_},
                   {"num_cells", rows_.cells},
                   {"num_queries", queries_},
                   {"band_cells", rows_.band_cells},
                   {"unlabelled", unlabelled()},
                   {"fallback", background_ >= 0 ? background_ : unlabelled()},
                   {"prob_threshold", last ? prob_threshold_ : 0.0}});
}

void DeviceDecode::MarkKeptQueries(const Stream& stream) const {
    const Kernel &count = kernels_.Get("count", LabelType()), &keep = kernels_.Get("keep");
    const int pixels = height_ * width_;
    stream.Zero(counts_.at(), counts_.bytes());
    count.Launch(stream, Blocks(pixels, count.spec().Constant("BLOCK")),
                 Blocks(num_classes_, count.spec().Constant("CLASSES")),
                 {{"labels", results_.at(kLabelsAt)},
                  {"counts", counts_.at()},
                  {"num_pixels", pixels},
                  {"num_classes", num_classes_}});
    keep.Launch(stream, Blocks(queries_, keep.spec().Constant("BLOCK")), 1,
                {{"counts", counts_.at()},
                 {"area_threshold", area_share_.at()},
                 {"query_class", query_class_.at()},
                 {"query_keep", query_keep_.at()},
                 {"num_queries", queries_},
                 {"num_classes", num_classes_},
                 {"background", background_}});
}

Decoded DeviceDecode::Read(const std::uint8_t* block) const {
    std::uint32_t flag = 0;
    std::memcpy(&flag, block, sizeof flag);
    if (flag != 0) ThrowNotFinite("the encoder's logits", "");
    Decoded decoded;
    decoded.unlabelled = static_cast<std::uint16_t>(unlabelled());
    const std::size_t pixels = static_cast<std::size_t>(height_) * static_cast<std::size_t>(width_);
    if (wide_) {
        decoded.wide_labels.resize(pixels);
        std::memcpy(decoded.wide_labels.data(), block + kLabelsAt, label_bytes_);
    } else {
        decoded.labels.assign(block + kLabelsAt, block + kLabelsAt + label_bytes_);
    }
    if (confidence_) {
        decoded.confidence.resize(pixels);
        std::memcpy(decoded.confidence.data(), block + confidence_at_, pixels * sizeof(float));
    }
    return decoded;
}

}  // namespace scclip
