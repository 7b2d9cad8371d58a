/* The C interface in one page: segment a binary PPM (P6) file and print what covers how much of it.
 *
 *     scclip-segment-c BUNDLE VOCABULARY IMAGE.ppm */
#include <scclip/scclip.h>
#include <stdio.h>
#include <stdlib.h>

static int fail(const char* message) {
    fprintf(stderr, "scclip-segment-c: %s\n", message);
    return 2;
}

static uint8_t* read_ppm(const char* path, int* height, int* width) {
    FILE* file = fopen(path, "rb");
    uint8_t* pixels = NULL;
    if (file == NULL) return NULL;
    if (fscanf(file, "P6 %d %d 255", width, height) == 2 && fgetc(file) != EOF && *width > 0 && *height > 0 &&
        *width < 30000 && *height < 30000) {
        const size_t size = (size_t)*height * (size_t)*width * 3;
        const long start = ftell(file);
        /* Not before the file is known to be that long: a few bytes may claim gigabytes. */
        if (fseek(file, 0, SEEK_END) == 0 && (size_t)(ftell(file) - start) >= size &&
            fseek(file, start, SEEK_SET) == 0) {
            pixels = malloc(size);
        }
        if (pixels != NULL && fread(pixels, 1, size, file) != size) {
            free(pixels);
            pixels = NULL;
        }
    }
    fclose(file);
    return pixels;
}

static void print_shares(const scclip_result* result) {
    const size_t pixels = (size_t)scclip_result_height(result) * (size_t)scclip_result_width(result);
    const uint8_t* labels = scclip_result_labels(result);
    const uint16_t* wide = scclip_result_wide_labels(result);
    for (size_t class_ = 0; class_ < scclip_result_class_count(result); ++class_) {
        size_t count = 0;
        for (size_t i = 0; i < pixels; ++i) count += (labels != NULL ? labels[i] : wide[i]) == class_;
        if (count > 0) {
            printf("%6.2f %%  %s\n", 100.0 * (double)count / (double)pixels, scclip_result_class_name(result, class_));
        }
    }
}

int main(int argc, char** argv) {
    scclip_segmenter* segmenter = NULL;
    scclip_result* result = NULL;
    int height = 0, width = 0, code = 0;
    uint8_t* pixels;
    if (argc != 4) return fail("usage: scclip-segment-c BUNDLE VOCABULARY IMAGE.ppm");
    pixels = read_ppm(argv[3], &height, &width);
    if (pixels == NULL) return fail("the image is no readable P6 file");
    if (scclip_open(argv[1], NULL, &segmenter) != SCCLIP_OK || scclip_set_vocabulary(segmenter, argv[2]) != SCCLIP_OK ||
        scclip_segment(segmenter, pixels, height, width, 0, SCCLIP_RGB, NULL, &result) != SCCLIP_OK) {
        code = fail(scclip_last_error());
    } else {
        print_shares(result);
    }
    scclip_result_free(result);
    scclip_free(segmenter);
    free(pixels);
    return code;
}
