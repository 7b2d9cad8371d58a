// The command line of scclip-segment-cpp.
#pragma once

#include <scclip/segmenter.hpp>

#include <optional>
#include <string>

struct Arguments {
    std::string bundle, image, classes, vocabulary, output;
    std::optional<std::string> background;
    scclip::OpenOptions open;
    scclip::SegmentOptions segment;
    int repeat = 1;
    bool json = false;
};

/// Fills `arguments`; or gives the exit code where there is nothing more to do: help was printed, or one line that says
/// what is wrong with which argument.
std::optional<int> ParseArguments(int argc, char** argv, Arguments* arguments);
