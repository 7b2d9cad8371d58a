// What the fuzzers found worth keeping, once through each reader.
#include "../fuzz/readers.hpp"

#include <filesystem>

#include "fixtures.hpp"

TEST_CASE("every reader takes or refuses its corpus") {
    for (const auto& item : Readers()) {
        CAPTURE(item.first);
        int inputs = 0;
        for (const auto& entry : std::filesystem::directory_iterator(std::string(SCCLIP_CORPUS) + "/" + item.first)) {
            item.second(ReadBytes(entry.path().string()));
            ++inputs;
        }
        CHECK(inputs > 0);
    }
}
