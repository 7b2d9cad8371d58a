#include "backends/any_size.hpp"

#include <utility>

namespace scclip {

AnySizeEncoder::AnySizeEncoder(std::unique_ptr<Encoder> main, int side,
                               std::function<std::unique_ptr<Encoder>()> open_other)
    : Encoder(main->spec(), main->info(), main->sizes()),
      main_(std::move(main)),
      side_(side),
      open_other_(std::move(open_other)) {}

void AnySizeEncoder::Features(const std::uint8_t* windows, int count, int height, int width, float* out) const {
    const Encoder& encoder = height == side_ && width == side_ ? *main_ : Other();
    encoder.FeaturesOf(windows, count, height, width, out);
}

const Encoder& AnySizeEncoder::Other() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!other_) other_ = open_other_();
    return *other_;
}

}  // namespace scclip
