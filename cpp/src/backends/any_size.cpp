#include "backends/any_size.hpp"

#include <algorithm>
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
    const std::size_t pixels = static_cast<std::size_t>(height) * static_cast<std::size_t>(width) * 3;
    const std::size_t values =
        static_cast<std::size_t>(sizes().Rows(height, width)) * static_cast<std::size_t>(sizes().embed_dim);
    for (int first = 0; first < count; first += encoder.batch_size()) {
        const auto at = static_cast<std::size_t>(first);
        const int size = std::min(encoder.batch_size(), count - first);
        encoder.Features(windows + at * pixels, size, height, width, out + at * values);
    }
}

const Encoder& AnySizeEncoder::Other() const {
    const std::lock_guard<std::mutex> lock(mutex_);
    if (!other_) other_ = open_other_();
    return *other_;
}

}  // namespace scclip
