// Views of cv::Mat.
#include "scclip/opencv.hpp"

#include "fixtures.hpp"
#include "image/resize.hpp"

using namespace scclip;

TEST_CASE("a matrix's view names the same pixels") {
    cv::Mat whole(40, 60, CV_8UC3);
    for (int i = 0; i < 40 * 60 * 3; ++i) whole.data[i] = static_cast<std::uint8_t>(i * 37);
    const cv::Mat part = whole(cv::Rect(5, 7, 20, 10));  // rows with a stride
    const ImageView view = ViewOf(part);
    CHECK(view.height == 10);
    CHECK(view.width == 20);
    CHECK(view.stride == 180);
    CHECK(view.format == PixelFormat::kBgr);
    const auto rgb = Resize(view, 10, 20);
    CHECK(rgb[0] == part.at<cv::Vec3b>(0, 0)[2]);
    CHECK(rgb[rgb.size() - 1] == part.at<cv::Vec3b>(9, 19)[0]);
    CHECK(ViewOf(cv::Mat(4, 4, CV_8UC1)).format == PixelFormat::kGray);
    CHECK(ViewOf(cv::Mat(4, 4, CV_8UC4)).format == PixelFormat::kBgra);
    CHECK(ViewOf(cv::Mat(4, 4, CV_32FC3)).data == nullptr);
    CHECK(ViewOf(cv::Mat(4, 4, CV_8UC2)).data == nullptr);
    CHECK(ViewOf(cv::Mat()).data == nullptr);
    const ImageView frame = ViewOfNv12(cv::Mat(96, 64, CV_8UC1));
    CHECK(frame.height == 64);
    CHECK(frame.format == PixelFormat::kNv12);
    CHECK(ViewOfNv12(cv::Mat(95, 64, CV_8UC1)).data == nullptr);
}
