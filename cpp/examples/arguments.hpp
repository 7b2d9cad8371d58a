// The command line of scclip-segment-cpp; refusals are worded as those of `scclip segment`.
#pragma once

#include <scclip/segmenter.hpp>

#include <optional>
#include <string>

struct Arguments {
    std::string bundle, image, vocabulary, output;
    std::optional<std::string> background;
    scclip::OpenOptions open;
    scclip::SegmentOptions segment;
    int repeat = 1;
    bool json = false, help = false;
};

/// Throws std::runtime_error: one line that names the argument.
Arguments ParseArguments(int argc, char** argv);

/// What --help prints.
std::string HelpText();
