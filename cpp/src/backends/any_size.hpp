// Windows smaller than the others, for methods that pad (docs/bundle.md, "Padding").
#pragma once

#include <functional>
#include <memory>
#include <mutex>

#include "backends/base.hpp"

namespace scclip {

/// An encoder for windows of one size, and a second one for all others, loaded when it is needed first.
class AnySizeEncoder final : public Encoder {
  public:
    /// `side`: pixels of the windows that `main` takes; `open_other`: loads the encoder for windows of any size.
    AnySizeEncoder(std::unique_ptr<Encoder> main, int side, std::function<std::unique_ptr<Encoder>()> open_other);

    void Features(const std::uint8_t* windows, int count, int height, int width, float* out) const override;

  private:
    std::unique_ptr<Encoder> main_;
    int side_;
    std::function<std::unique_ptr<Encoder>()> open_other_;
    mutable std::mutex mutex_;  // of `other_`
    mutable std::unique_ptr<Encoder> other_;

    const Encoder& Other() const;
};

}  // namespace scclip
