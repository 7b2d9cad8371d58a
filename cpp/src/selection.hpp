// Which encoder of a bundle fits a grid, a kind of device and a precision, and how many windows go at once.
#pragma once

#include <string>
#include <vector>

#include "bundle.hpp"

namespace scclip {

enum class DeviceKind { kCpu, kCuda };

/// The bundle's encoders for windows or for whole images, preferred first. Throws Error(kBackend): whole images are
/// wanted and the bundle has no encoder for them.
std::vector<const EncoderSpec*> GridEncoders(const Bundle& bundle, bool whole_image);

/// The encoder in the first of `precisions` that the bundle has for windows (or whole images) and this kind of device.
/// Throws Error(kBackend): the bundle has none; the message lists what it has.
const EncoderSpec& ChooseEncoder(const Bundle& bundle, const std::vector<std::string>& precisions, DeviceKind kind,
                                 bool whole_image);

/// Windows at once: what was asked for (0: what suits the device), within what the encoder takes.
int BatchSize(const EncoderSpec& spec, int asked, DeviceKind kind);

}  // namespace scclip
