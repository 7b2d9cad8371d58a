// An ImageView of a cv::Mat: segmenter.Segment(scclip::ViewOf(frame)). Needs OpenCV's core header and nothing to link.
#pragma once

#include <opencv2/core/mat.hpp>

#include "scclip/segmenter.hpp"

namespace scclip {

/// The pixels of an 8-bit image in OpenCV's order: one channel is grey, three are BGR, four BGRA. Any other matrix
/// gives an empty view, which Segment refuses (kImage). The matrix must live until the call returns.
inline ImageView ViewOf(const cv::Mat& image) {
    if (image.depth() != CV_8U || image.dims != 2) return {};
    const int channels = image.channels();
    if (channels != 1 && channels != 3 && channels != 4) return {};
    const PixelFormat format = channels == 1   ? PixelFormat::kGray
                               : channels == 3 ? PixelFormat::kBgr
                                               : PixelFormat::kBgra;
    return {image.data, image.rows, image.cols, static_cast<std::ptrdiff_t>(image.step[0]), format};
}

/// A frame in NV12 as OpenCV keeps it: one channel, rows of Y and below them half as many of U and V.
inline ImageView ViewOfNv12(const cv::Mat& frame) {
    if (frame.type() != CV_8UC1 || frame.dims != 2 || frame.rows % 3 != 0) return {};
    return {frame.data, frame.rows / 3 * 2, frame.cols, static_cast<std::ptrdiff_t>(frame.step[0]), PixelFormat::kNv12};
}

}  // namespace scclip
