// Features of raw pixels, for ../parity.py: encode_features BUNDLE PIXELS HEIGHT WIDTH BACKEND PRECISION THREADS
// OUTPUT. PIXELS is (HEIGHT, WIDTH, 3) uint8 RGB, OUTPUT becomes (windows, patches, embed_dim) float32.
#include <scclip/segmenter.hpp>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

int main(int argc, char** argv) {
    if (argc != 9) return 2;
    std::ifstream stream(argv[2], std::ios::binary);
    const std::vector<char> pixels((std::istreambuf_iterator<char>(stream)), std::istreambuf_iterator<char>());
    scclip::ImageView image{reinterpret_cast<const std::uint8_t*>(pixels.data()), std::atoi(argv[3]),
                            std::atoi(argv[4])};
    scclip::OpenOptions options;
    options.backend = argv[5];
    options.precision = argv[6];
    options.threads = std::atoi(argv[7]);
    const auto segmenter = scclip::Segmenter::Open(argv[1], options);
    const auto features = segmenter ? segmenter->Encode(image) : segmenter.status();
    if (!features) {
        std::fprintf(stderr, "%s\n", features.status().message().c_str());
        return 2;
    }
    std::ofstream(argv[8], std::ios::binary)
        .write(reinterpret_cast<const char*>(features->values.data()),
               static_cast<std::streamsize>(features->values.size() * sizeof(float)));
    return 0;
}
