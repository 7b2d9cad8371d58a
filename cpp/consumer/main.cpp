// consumer BUNDLE VOCABULARY: label a picture that is made here.
#include <scclip/segmenter.hpp>

#include <cstdio>
#include <set>

int main(int argc, char** argv) {
    if (argc != 3) return 1;
    auto segmenter = scclip::Segmenter::Open(argv[1]);
    if (!segmenter) {
        std::fprintf(stderr, "%s\n", segmenter.status().message().c_str());
        return 2;
    }
    if (const auto set = segmenter->SetVocabulary(argv[2]); !set) {
        std::fprintf(stderr, "%s\n", set.message().c_str());
        return 2;
    }
    const int height = 300, width = 400;
    std::vector<std::uint8_t> pixels;
    for (int i = 0; i < height * width * 3; ++i) pixels.push_back(static_cast<std::uint8_t>(i / 97 * 31));
    const auto result = segmenter->Segment({pixels.data(), height, width, 0, scclip::PixelFormat::kRgb});
    if (!result) {
        std::fprintf(stderr, "%s\n", result.status().message().c_str());
        return 2;
    }
    const std::set<std::uint8_t> used(result->labels.begin(), result->labels.end());
    std::printf("%d × %d pixels, %zu of %zu classes\n", result->width, result->height, used.size(),
                result->classes->size());
    return result->labels.size() == static_cast<std::size_t>(height) * width ? 0 : 3;
}
