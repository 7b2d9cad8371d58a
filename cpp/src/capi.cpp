#include <charconv>
#include <locale>
#include <map>
#include <sstream>

#include "errors.hpp"
#include "options.hpp"
#include "scclip/scclip.h"
#include "scclip/segmenter.hpp"
#include "words.hpp"

struct scclip_segmenter {
    scclip::Segmenter segmenter;
};
struct scclip_options {
    scclip::OpenOptions open;
    scclip::SegmentOptions segment;
};
struct scclip_result {
    scclip::Segmentation segmentation;
};

namespace {

using scclip::ErrorCode;
using scclip::Status;

thread_local std::string last_error, last_field;

scclip_code Report(const Status& status) noexcept {
    if (status.ok()) return SCCLIP_OK;
    try {
        last_error = status.message();
        last_field = status.field();
    } catch (...) {
        last_error.clear(), last_field.clear();
    }
    return static_cast<scclip_code>(status.code());
}

template <typename Function>
scclip_code Guard(Function function) noexcept {
    try {
        return Report(function());
    } catch (...) {
        return Report(scclip::CurrentStatus());
    }
}

double RealNumber(const std::string& name, const std::string& value) {
    // Not strtod, which follows the process's locale and would want a comma in some.
    std::istringstream stream(value);
    stream.imbue(std::locale::classic());
    double number = 0;
    if (!(stream >> number) || !stream.eof())
        scclip::ThrowOption(name, "must be a number; got " + scclip::Quote(value));
    return scclip::InRange(name, number);
}

std::int64_t WholeNumber(const std::string& name, const std::string& value) {
    std::int64_t number = 0;
    const char* end = value.data() + value.size();
    const auto parsed = std::from_chars(value.data(), end, number);
    if (parsed.ec != std::errc() || parsed.ptr != end) {
        scclip::ThrowOption(name, "must be a whole number; got " + scclip::Quote(value));
    }
    return static_cast<std::int64_t>(scclip::InRange(name, static_cast<double>(number)));
}

bool IsOn(const std::string& name, const std::string& value) {
    if (value != "0" && value != "1") scclip::ThrowOption(name, "must be 0 or 1; got " + scclip::Quote(value));
    return value == "1";
}

bool SetText(scclip::OpenOptions* open, const std::string& name, const std::string& value) {
    const std::map<std::string, std::string*> texts = {
        {"backend", &open->backend},           {"device", &open->device}, {"precision", &open->precision},
        {"ort_provider", &open->ort_provider}, {"preset", &open->preset}, {"text_precision", &open->text_precision}};
    const auto found = texts.find(name);
    if (found == texts.end()) return false;
    *found->second = value;
    return true;
}

bool SetWhole(scclip_options* options, const std::string& name, const std::string& value) {
    scclip::OpenOptions& open = options->open;
    const std::map<std::string, int*> numbers = {
        {"threads", &open.threads}, {"batch", &open.batch}, {"short_side", &open.short_side}, {"stride", &open.stride}};
    const std::map<std::string, std::int64_t*> limits = {
        {"max_pixels", &open.max_pixels}, {"max_windows", &open.max_windows}, {"max_memory", &open.max_memory}};
    const std::map<std::string, bool*> switches = {{"remember_hashes", &open.remember_hashes},
                                                   {"keep_text", &open.keep_text},
                                                   {"confidence", &options->segment.confidence}};
    if (const auto number = numbers.find(name); number != numbers.end()) {
        *number->second = static_cast<int>(WholeNumber(name, value));
    } else if (const auto limit = limits.find(name); limit != limits.end()) {
        *limit->second = WholeNumber(name, value);
    } else if (name == "whole_image") {
        open.whole_image = IsOn(name, value);
    } else if (const auto flag = switches.find(name); flag != switches.end()) {
        *flag->second = IsOn(name, value);
    } else {
        return false;
    }
    return true;
}

bool SetReal(scclip::SegmentOptions* segment, const std::string& name, const std::string& value) {
    const std::map<std::string, std::optional<double>*> reals = {{"logit_scale", &segment->logit_scale},
                                                                 {"prob_threshold", &segment->prob_threshold},
                                                                 {"area_threshold", &segment->area_threshold}};
    if (name == "class_threshold") {
        segment->class_threshold = RealNumber(name, value);
        return true;
    }
    const auto found = reals.find(name);
    if (found == reals.end()) return false;
    *found->second = RealNumber(name, value);
    return true;
}

bool SetRefinement(scclip::SegmentOptions* segment, const std::string& name, const std::string& value) {
    if (name != "refine") return false;
    if (value != "none" && value != "pamr") {
        scclip::ThrowOption("refine", "must be none or pamr; got " + scclip::Quote(value));
    }
    segment->refine = value == "pamr" ? scclip::Refinement::kPamr : scclip::Refinement::kNone;
    return true;
}

template <typename T>
const T* DataOrNull(const std::vector<T>& values) {
    return values.empty() ? nullptr : values.data();
}

Status Missing(const char* what) { return {ErrorCode::kOption, std::string(what) + " must not be NULL"}; }

}  // namespace

extern "C" {

const char* scclip_version(void) { return scclip::Version(); }

const char* scclip_last_error(void) { return last_error.c_str(); }

const char* scclip_last_error_field(void) { return last_field.c_str(); }

scclip_options* scclip_options_new(void) { return new (std::nothrow) scclip_options(); }

void scclip_options_free(scclip_options* options) { delete options; }

scclip_code scclip_options_set(scclip_options* options, const char* name, const char* value) {
    return Guard([&]() -> Status {
        if (options == nullptr || name == nullptr || value == nullptr) return Missing("options, name and value");
        if (SetText(&options->open, name, value) || SetWhole(options, name, value) ||
            SetReal(&options->segment, name, value) || SetRefinement(&options->segment, name, value)) {
            return {};
        }
        return {ErrorCode::kOption, "unknown option " + scclip::Quote(name), name};
    });
}

scclip_code scclip_open(const char* bundle, const scclip_options* options, scclip_segmenter** segmenter) {
    return Guard([&]() -> Status {
        if (bundle == nullptr || segmenter == nullptr) return Missing("bundle and segmenter");
        *segmenter = nullptr;
        auto opened = scclip::Segmenter::Open(bundle, options == nullptr ? scclip::OpenOptions() : options->open);
        if (opened) *segmenter = new scclip_segmenter{std::move(opened).value()};
        return opened.status();
    });
}

void scclip_free(scclip_segmenter* segmenter) { delete segmenter; }

scclip_code scclip_set_vocabulary(scclip_segmenter* segmenter, const char* file) {
    return Guard([&]() -> Status {
        if (segmenter == nullptr || file == nullptr) return Missing("segmenter and file");
        return segmenter->segmenter.SetVocabulary(file);
    });
}

scclip_code scclip_set_vocabulary_background(scclip_segmenter* segmenter, const char* file, const char* background) {
    return Guard([&]() -> Status {
        if (segmenter == nullptr) return Missing("segmenter");
        std::optional<std::string> name;
        if (background != nullptr) name = background;
        return segmenter->segmenter.SetVocabulary(file == nullptr ? "" : file, name);
    });
}

scclip_code scclip_set_classes(scclip_segmenter* segmenter, const char* classes, const char* background) {
    return Guard([&]() -> Status {
        if (segmenter == nullptr || classes == nullptr) return Missing("segmenter and classes");
        scclip::EmbedOptions options;
        if (background != nullptr) options.background = background;
        return segmenter->segmenter.SetClasses(std::string(classes), options);
    });
}

scclip_code scclip_segment(const scclip_segmenter* segmenter, const uint8_t* data, int height, int width,
                           ptrdiff_t stride, scclip_format format, const scclip_options* options,
                           scclip_result** result) {
    return Guard([&]() -> Status {
        if (segmenter == nullptr || result == nullptr) return Missing("segmenter and result");
        *result = nullptr;
        if (format < SCCLIP_RGB || format > SCCLIP_NV12) return {ErrorCode::kOption, "unknown pixel format", "format"};
        const scclip::ImageView image{data, height, width, stride, static_cast<scclip::PixelFormat>(format)};
        auto made =
            segmenter->segmenter.Segment(image, options == nullptr ? scclip::SegmentOptions() : options->segment);
        if (made) *result = new scclip_result{std::move(made).value()};
        return made.status();
    });
}

void scclip_result_free(scclip_result* result) { delete result; }

int scclip_result_height(const scclip_result* result) { return result->segmentation.height; }

int scclip_result_width(const scclip_result* result) { return result->segmentation.width; }

const uint8_t* scclip_result_labels(const scclip_result* result) { return DataOrNull(result->segmentation.labels); }

const uint16_t* scclip_result_wide_labels(const scclip_result* result) {
    return DataOrNull(result->segmentation.wide_labels);
}

uint16_t scclip_result_unlabelled(const scclip_result* result) { return result->segmentation.unlabelled; }

const float* scclip_result_confidence(const scclip_result* result) {
    return DataOrNull(result->segmentation.confidence);
}

size_t scclip_result_class_count(const scclip_result* result) { return result->segmentation.classes->size(); }

const char* scclip_result_class_name(const scclip_result* result, size_t index) {
    const auto& classes = *result->segmentation.classes;
    return index < classes.size() ? classes[index].c_str() : nullptr;
}

}  // extern "C"
