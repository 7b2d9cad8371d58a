/* The C interface of libscclip: opaque handles and plain functions, stable across versions (functions are added, never
 * changed), for Rust, Go, C#, Swift and C.
 *
 * Errors: functions that can fail return a scclip_code; scclip_last_error() then gives the message, in one line, of the
 * last failure in this thread. Threads: a segmenter may be used from any number of threads at a time, except while it
 * is freed. Memory: what is created is freed by its own _free function; freeing NULL does nothing. */
#ifndef SCCLIP_SCCLIP_H
#define SCCLIP_SCCLIP_H

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#if defined(_WIN32)
#define SCCLIP_C_API
#else
#define SCCLIP_C_API __attribute__((visibility("default")))
#endif

typedef struct scclip_segmenter scclip_segmenter;
typedef struct scclip_options scclip_options;
typedef struct scclip_result scclip_result;

typedef enum {
    SCCLIP_OK = 0,
    SCCLIP_ERROR_BUNDLE = 1,
    SCCLIP_ERROR_IMAGE = 2,
    SCCLIP_ERROR_VOCABULARY = 3,
    SCCLIP_ERROR_BACKEND = 4,
    SCCLIP_ERROR_OPTION = 5,
    SCCLIP_ERROR_INTERNAL = 6
} scclip_code;

/* SCCLIP_NV12: a plane of Y, and right after it one of U and V, in rows of the same stride. */
typedef enum {
    SCCLIP_RGB = 0,
    SCCLIP_BGR = 1,
    SCCLIP_GRAY = 2,
    SCCLIP_BGRA = 3,
    SCCLIP_RGBA = 4,
    SCCLIP_NV12 = 5
} scclip_format;

/* For example "0.1.0"; never freed. */
SCCLIP_C_API const char* scclip_version(void);

/* The message of the last failure in this thread, or "". Valid until the next failure in this thread. */
SCCLIP_C_API const char* scclip_last_error(void);

/* What that failure was about: an option, a file of the bundle, a place in bundle.json; or "". */
SCCLIP_C_API const char* scclip_last_error_field(void);

/* Options with the bundle's and the library's defaults; NULL where memory is out. */
SCCLIP_C_API scclip_options* scclip_options_new(void);
SCCLIP_C_API void scclip_options_free(scclip_options* options);

/* Set an option by name. For opening: backend, device, precision, ort_provider, threads, batch, short_side, stride,
 * whole_image (0 or 1), preset (a benchmark of the bundle, or exact, balanced or fast, or one of each with a comma
 * between), text_precision (fp32 or int8), keep_text (0 or 1), max_pixels, max_windows, max_memory, remember_hashes.
 * For segmenting: confidence (0 or 1), logit_scale, prob_threshold, area_threshold, class_threshold, refine (none or
 * pamr). What is not set is the preset's or the bundle's. Numbers are written as text, with a point; one outside its
 * range is refused here. */
SCCLIP_C_API scclip_code scclip_options_set(scclip_options* options, const char* name, const char* value);

/* Open a bundle directory. `options` may be NULL. On success *segmenter is to be freed. */
SCCLIP_C_API scclip_code scclip_open(const char* bundle, const scclip_options* options, scclip_segmenter** segmenter);
SCCLIP_C_API void scclip_free(scclip_segmenter* segmenter);

/* Take the classes of a file that `scclip embed` wrote; calls that have begun keep the classes they began with. */
SCCLIP_C_API scclip_code scclip_set_vocabulary(scclip_segmenter* segmenter, const char* file);

/* The same with the background named: `file` NULL or "" is the bundle's own vocabulary; `background` is the first name
 * of the class that takes what no class claims, "none", or NULL for what the file says. */
SCCLIP_C_API scclip_code scclip_set_vocabulary_background(scclip_segmenter* segmenter, const char* file,
                                                          const char* background);

/* The same for class names, embedded with the bundle's text encoder: "sky; grass, lawn" are two classes, the second
 * with two names. `background` as above; NULL is the class called "background", if there is one. */
SCCLIP_C_API scclip_code scclip_set_classes(scclip_segmenter* segmenter, const char* classes, const char* background);

/* Label every pixel of an image: `height` rows of `width` pixels of 8-bit channels, `stride` bytes from row to row (0:
 * rows follow each other). The pixels are not kept. `options` may be NULL. On success *result is to be freed. */
SCCLIP_C_API scclip_code scclip_segment(const scclip_segmenter* segmenter, const uint8_t* data, int height, int width,
                                        ptrdiff_t stride, scclip_format format, const scclip_options* options,
                                        scclip_result** result);
SCCLIP_C_API void scclip_result_free(scclip_result* result);

/* What a result holds; pointers are valid until it is freed. */
SCCLIP_C_API int scclip_result_height(const scclip_result* result);
SCCLIP_C_API int scclip_result_width(const scclip_result* result);
/* (height, width) uint8, or NULL above 254 classes. */
SCCLIP_C_API const uint8_t* scclip_result_labels(const scclip_result* result);
/* (height, width) uint16, or NULL up to 254 classes. */
SCCLIP_C_API const uint16_t* scclip_result_wide_labels(const scclip_result* result);
/* The label of pixels without a class: 255 or 65535. */
SCCLIP_C_API uint16_t scclip_result_unlabelled(const scclip_result* result);
/* (height, width) float, or NULL unless the option `confidence` was 1. */
SCCLIP_C_API const float* scclip_result_confidence(const scclip_result* result);
SCCLIP_C_API size_t scclip_result_class_count(const scclip_result* result);
/* The first name of a class, UTF-8; NULL for an index that is too large. */
SCCLIP_C_API const char* scclip_result_class_name(const scclip_result* result, size_t index);

#ifdef __cplusplus
}
#endif

#endif /* SCCLIP_SCCLIP_H */
