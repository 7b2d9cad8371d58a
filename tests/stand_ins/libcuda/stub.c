/* A libcuda.so.1 on host memory, so that the real cuda.bindings can be called where there is no GPU.
 *
 * Streams do their work at once; what is queued while a stream captures is kept and done at every launch of the graph.
 * A kernel is its image: the word "probe" and the sizes of its parameters in bytes; a launch writes grid, block, shared
 * bytes and the parameters, packed, to where the first parameter points.
 */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int CUresult;
typedef uint64_t ptr;
enum { OK = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, INVALID_IMAGE = 200, NOT_FOUND = 500, ILLEGAL_STATE = 401 };
enum { CAPTURE_UNSUPPORTED = 900 };

typedef struct op {
    int kind; /* 0 copy, 1 copy of rows, 2 set, 3 kernel */
    ptr target, source;
    size_t size, target_pitch, source_pitch, rows;
    unsigned char value, packed[512];
    struct op *next;
} op;
typedef struct { op *first, *last; } list;
typedef struct { int capturing; list captured; } stream;
typedef struct { int count, sizes[64]; } kernel;

static long live;
static void *current;
static int any_capture;

static void *make(size_t size) { live++; return calloc(1, size); }
static void drop(void *thing) { live--; free(thing); }

long stub_live(void) { return live; }

static void run(const op *o) {
    if (o->kind == 0) memmove((void *)o->target, (void *)o->source, o->size);
    if (o->kind == 1)
        for (size_t i = 0; i < o->rows; i++)
            memmove((char *)o->target + i * o->target_pitch, (char *)o->source + i * o->source_pitch, o->size);
    if (o->kind == 2) memset((void *)o->target, o->value, o->size);
    if (o->kind == 3) memcpy((void *)o->target, o->packed, o->size);
}

static CUresult queue(stream *s, op o) {
    if (!current) return 201; /* CUDA_ERROR_INVALID_CONTEXT */
    if (s == NULL || !s->capturing) { run(&o); return OK; }
    op *kept = malloc(sizeof o);
    *kept = o;
    kept->next = NULL;
    if (s->captured.last) s->captured.last->next = kept; else s->captured.first = kept;
    s->captured.last = kept;
    return OK;
}

static CUresult init(unsigned flags) { return flags ? INVALID_VALUE : OK; }
static CUresult version(int *out) { *out = 13000; return OK; }
static CUresult count(int *out) { *out = 1; return OK; }
static CUresult device(int *out, int number) { *out = number; return number == 0 ? OK : 101; }
static CUresult name(char *out, int length, int d) { (void)d; snprintf(out, length, "Stub GPU"); return OK; }
static CUresult attribute(int *out, int which, int d) {
    (void)d;
    *out = which == 75 ? 9 : 0; /* compute capability 9.0 */
    return OK;
}
static CUresult retain(void **out, int d) { (void)d; *out = (void *)0xC0; return OK; }
static CUresult set_current(void *context) { current = context; return OK; }
static CUresult get_current(void **out) { *out = current; return OK; }
static CUresult mem_info(size_t *free_bytes, size_t *total) { *free_bytes = 1 << 30; *total = 2ul << 30; return OK; }
static CUresult pointer(void *out, int which, ptr p) {
    if (!p) return INVALID_VALUE;
    if (which == 9) *(int *)out = 0;               /* CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL */
    else if (which == 1) *(void **)out = (void *)0xC0; /* CU_POINTER_ATTRIBUTE_CONTEXT */
    else return INVALID_VALUE;
    return OK;
}
static CUresult alloc(ptr *out, size_t size) {
    if (!current) return 201;
    if (any_capture) return CAPTURE_UNSUPPORTED;
    if (size > 1 << 30) return OUT_OF_MEMORY;
    void *p = NULL;
    if (posix_memalign(&p, 256, size)) return OUT_OF_MEMORY;
    live++;
    *out = (ptr)p;
    return OK;
}
static CUresult host_alloc(void **out, size_t size, unsigned flags) { return flags ? INVALID_VALUE : alloc((ptr *)out, size); }
static CUresult release(ptr p) { if (any_capture) return CAPTURE_UNSUPPORTED; drop((void *)p); return OK; }
static CUresult release_host(void *p) { drop(p); return OK; }
static CUresult copy_in(ptr t, const void *s, size_t n) { memcpy((void *)t, s, n); return OK; }
static CUresult copy_in_async(ptr t, const void *s, size_t n, stream *st) { return queue(st, (op){.target = t, .source = (ptr)s, .size = n}); }
static CUresult copy_out_async(void *t, ptr s, size_t n, stream *st) { return queue(st, (op){.target = (ptr)t, .source = s, .size = n}); }
static CUresult copy_async(ptr t, ptr s, size_t n, stream *st) { return queue(st, (op){.target = t, .source = s, .size = n}); }
/* CUDA_MEMCPY2D of cuda.h */
typedef struct {
    size_t source_x, source_y; int source_type; const void *source_host; ptr source; void *source_array; size_t source_pitch;
    size_t target_x, target_y; int target_type; void *target_host; ptr target; void *target_array; size_t target_pitch;
    size_t width, height;
} memcpy2d;
static CUresult copy_2d(const memcpy2d *c, stream *st) {
    if (c->source_type != 2 || c->target_type != 2) return INVALID_VALUE; /* CU_MEMORYTYPE_DEVICE */
    if (c->source_x || c->source_y || c->target_x || c->target_y || c->source_host || c->target_host) return INVALID_VALUE;
    if (c->source_pitch < c->width || c->target_pitch < c->width) return INVALID_VALUE;
    return queue(st, (op){.kind = 1, .target = c->target, .source = c->source, .size = c->width, .rows = c->height,
                          .target_pitch = c->target_pitch, .source_pitch = c->source_pitch});
}
static CUresult set_async(ptr p, unsigned char v, size_t n, stream *st) { return queue(st, (op){.kind = 2, .target = p, .size = n, .value = v}); }
static CUresult stream_create(stream **out, unsigned flags) {
    if (!current) return 201;
    if (flags != 1) return INVALID_VALUE; /* CU_STREAM_NON_BLOCKING */
    *out = make(sizeof(stream));
    return OK;
}
static CUresult stream_destroy(stream *s) { drop(s); return OK; }
/* 0 and 1 are the default stream, CU_STREAM_LEGACY */
static CUresult stream_wait(stream *s) { return (uintptr_t)s > 1 && s->capturing ? CAPTURE_UNSUPPORTED : OK; }
static CUresult stream_wait_event(stream *s, void *event, unsigned flags) { return s && event && !flags ? OK : INVALID_VALUE; }
static CUresult event_create(void **out, unsigned flags) { (void)flags; *out = make(1); return OK; }
static CUresult event_record(void *event, stream *s) { (void)s; return event ? OK : INVALID_VALUE; }
static CUresult event_wait(void *event) { return event ? OK : INVALID_VALUE; }
static CUresult event_time(float *out, void *a, void *b) { *out = 1.5f; return a && b ? OK : INVALID_VALUE; }
static CUresult event_destroy(void *event) { drop(event); return OK; }
static CUresult begin(stream *s, int mode) {
    if (mode != 1 || s->capturing) return ILLEGAL_STATE; /* CU_STREAM_CAPTURE_MODE_THREAD_LOCAL */
    s->capturing = any_capture = 1;
    s->captured = (list){0};
    return OK;
}
static CUresult end(stream *s, list **out) {
    if (!s->capturing) return ILLEGAL_STATE;
    s->capturing = any_capture = 0;
    *out = make(sizeof(list));
    **out = s->captured;
    return OK;
}
static CUresult instantiate(list **out, list *graph, unsigned long long flags) {
    if (flags) return INVALID_VALUE;
    *out = make(sizeof(list));
    **out = *graph;
    return OK;
}
static CUresult graph_destroy(list *graph) { drop(graph); return OK; }
static CUresult graph_launch(list *graph, stream *s) {
    for (op *o = graph->first; o; o = o->next) {
        CUresult status = queue(s, *o);
        if (status) return status;
    }
    return OK;
}
static CUresult load(void **out, const void *image) {
    if (strncmp(image, "probe", 5)) return INVALID_IMAGE;
    *out = make(strlen(image) + 1);
    strcpy(*out, image);
    return OK;
}
static CUresult unload(void *module) { drop(module); return OK; }
static CUresult get_function(kernel **out, void *module, const char *entry) {
    if (strcmp(entry, "probe")) return NOT_FOUND;
    *out = calloc(1, sizeof(kernel));
    for (char *at = (char *)module + 5, *next; ; at = next) {
        long size = strtol(at, &next, 10);
        if (next == at) return OK;
        (*out)->sizes[(*out)->count++] = (int)size;
    }
}
static CUresult set_function(kernel *k, int which, int value) { return k && which == 8 && value > 0 ? OK : INVALID_VALUE; }
static CUresult launch(kernel *k, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                       stream *s, void **parameters, void **extra) {
    if (extra || !gx || !gy || !gz) return INVALID_VALUE;
    op o = {.kind = 3, .target = *(ptr *)parameters[0]};
    unsigned head[7] = {gx, gy, gz, bx, by, bz, shared};
    memcpy(o.packed, head, sizeof head);
    o.size = sizeof head;
    for (int i = 0; i < k->count; i++) {
        memcpy(o.packed + o.size, parameters[i], k->sizes[i]);
        o.size += k->sizes[i];
    }
    return queue(s, o);
}
static CUresult words(int status, const char **out) {
    *out = status == INVALID_IMAGE ? "device kernel image is invalid" : "stub words";
    return OK;
}

static const struct { const char *name; void *function; } TABLE[] = {
    {"cuInit", init}, {"cuDriverGetVersion", version}, {"cuDeviceGetCount", count}, {"cuDeviceGet", device},
    {"cuDeviceGetName", name}, {"cuDeviceGetAttribute", attribute}, {"cuDevicePrimaryCtxRetain", retain},
    {"cuCtxSetCurrent", set_current}, {"cuCtxGetCurrent", get_current}, {"cuMemGetInfo", mem_info}, {"cuPointerGetAttribute", pointer},
    {"cuMemAlloc", alloc}, {"cuMemFree", release}, {"cuMemHostAlloc", host_alloc}, {"cuMemFreeHost", release_host},
    {"cuMemcpyHtoD", copy_in}, {"cuMemcpyHtoDAsync", copy_in_async}, {"cuMemcpyDtoHAsync", copy_out_async},
    {"cuMemcpyDtoDAsync", copy_async}, {"cuMemcpy2DAsync", copy_2d}, {"cuMemsetD8Async", set_async},
    {"cuStreamCreate", stream_create}, {"cuStreamDestroy", stream_destroy}, {"cuStreamSynchronize", stream_wait},
    {"cuStreamWaitEvent", stream_wait_event}, {"cuEventCreate", event_create}, {"cuEventRecord", event_record},
    {"cuEventSynchronize", event_wait}, {"cuEventElapsedTime", event_time}, {"cuEventDestroy", event_destroy},
    {"cuStreamBeginCapture", begin}, {"cuStreamEndCapture", end}, {"cuGraphInstantiate", instantiate},
    {"cuGraphInstantiateWithFlags", instantiate}, {"cuGraphDestroy", graph_destroy}, {"cuGraphExecDestroy", graph_destroy},
    {"cuGraphLaunch", graph_launch}, {"cuModuleLoadData", load}, {"cuModuleUnload", unload}, {"cuModuleGetFunction", get_function},
    {"cuFuncSetAttribute", set_function}, {"cuLaunchKernel", launch}, {"cuGetErrorString", words},
};

CUresult cuGetProcAddress_v2(const char *symbol, void **out, int cuda, uint64_t flags, int *status) {
    (void)cuda, (void)flags;
    *out = NULL;
    for (size_t i = 0; i < sizeof TABLE / sizeof *TABLE; i++)
        if (!strcmp(symbol, TABLE[i].name)) *out = TABLE[i].function;
    if (!strncmp(symbol, "cuGetProcAddress", 16)) *out = (void *)cuGetProcAddress_v2;
    if (status) *status = *out ? 0 : 1;
    return OK;
}
CUresult cuGetProcAddress(const char *symbol, void **out, int cuda, uint64_t flags) { return cuGetProcAddress_v2(symbol, out, cuda, flags, NULL); }
CUresult cuInit(unsigned flags) { return init(flags); }
CUresult cuDriverGetVersion(int *out) { return version(out); }
