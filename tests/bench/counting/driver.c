/* A CUDA driver without a GPU: it answers the calls of cubecl as an H100 would, and counts them.
 *
 * Kernels are compiled by the real NVRTC but never run, device memory does not exist, and every
 * read-back is zero. So results mean nothing; counts and compile errors are real.
 *
 * At exit it writes its counts as JSON to $COUNTING_REPORT. $COUNTING_TRACE names a file for one line per
 * call. $COUNTING_GPUS is the number of GPUs (1), $COUNTING_MEMORY their memory in GiB (80), and
 * after $COUNTING_LOST launches every call fails as if the GPU had fallen off the bus. With
 * $COUNTING_TWOS=1 every read-back of one float is 2, so that each check of the device succeeds.
 *
 * A synchronisation waits for all launches so far, after which a GPU has nothing to do until the
 * host queues more. A throttle waits for older launches only: the GPU goes on with those queued since,
 * of which there were at least "least_queued". */
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, OUT_OF_MEMORY = 2, NO_DEVICE = 100, INVALID_DEVICE = 101, NOT_FOUND = 500, LOST = 214 };

typedef struct Kernel {
  char *name;
  uint64_t launches;
  struct Kernel *next;
} Kernel;

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static uint64_t kernels, launches, uploads, upload_bytes, read_backs, read_back_bytes, copies, synchronisations;
static uint64_t throttles, least_queued = UINT64_MAX, waits, allocations, allocated, peak, next_address = 1ull << 40;
static struct { uint64_t address; size_t bytes; } *blocks; /* allocated and not freed */
static size_t block_count, block_capacity;
static int answered;
static Kernel *list;
static FILE *trace;

static long setting(const char *name, long otherwise) {
  const char *text = getenv(name);
  return text ? atol(text) : otherwise;
}

static uint64_t memory(void) {
  const char *text = getenv("COUNTING_MEMORY");
  return (uint64_t)((text ? atof(text) : 80) * (1 << 30));
}

#define COUNTED(...)                 \
  pthread_mutex_lock(&lock);         \
  __VA_ARGS__;                       \
  pthread_mutex_unlock(&lock)
#define TRACE(...)                   \
  if (trace) fprintf(trace, __VA_ARGS__)

static int is_lost(void) { return launches >= (uint64_t)setting("COUNTING_LOST", INT64_MAX); }

__attribute__((constructor)) static void begin(void) {
  const char *path = getenv("COUNTING_TRACE");
  trace = path ? fopen(path, "w") : NULL;
}

__attribute__((destructor)) static void report(void) {
  const char *path = getenv("COUNTING_REPORT");
  FILE *file = path ? fopen(path, "w") : NULL;
  pthread_mutex_lock(&lock);
  if (trace) fclose(trace);
  trace = NULL; /* threads of the runtime go on */
  pthread_mutex_unlock(&lock);
  if (!file) return;
  pthread_mutex_lock(&lock);
  fprintf(file, "{\"kernels\": %lu, \"launches\": %lu, \"uploads\": %lu, \"upload_bytes\": %lu, ", kernels, launches, uploads, upload_bytes);
  fprintf(file, "\"read_backs\": %lu, \"read_back_bytes\": %lu, \"copies\": %lu, ", read_backs, read_back_bytes, copies);
  fprintf(file, "\"synchronisations\": %lu, \"throttles\": %lu, \"least_queued\": %lu, ", synchronisations, throttles, throttles ? least_queued : 0);
  fprintf(file, "\"stream_waits\": %lu, \"allocations\": %lu, \"peak_bytes\": %lu, \"by_kernel\": {", waits, allocations, peak);
  for (Kernel *kernel = list; kernel; kernel = kernel->next)
    fprintf(file, "%s\"%s\": %lu", kernel == list ? "" : ", ", kernel->name, kernel->launches);
  fprintf(file, "}}\n");
  fclose(file);
  pthread_mutex_unlock(&lock);
}

/* The machine. */
int cuInit(unsigned flags) { (void)flags; return setting("COUNTING_GPUS", 1) > 0 ? OK : NO_DEVICE; }
int cuDriverGetVersion(int *version) { *version = 13000; return OK; }
int cuDeviceGetCount(int *count) { *count = (int)setting("COUNTING_GPUS", 1); return OK; }
int cuDeviceGet(int *device, int number) {
  *device = number;
  return number < setting("COUNTING_GPUS", 1) ? OK : INVALID_DEVICE;
}
int cuDeviceGetName(char *name, int length, int device) { (void)device; snprintf(name, length, "counting driver"); return OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { (void)device; *bytes = memory(); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  switch (attribute) { /* those of an H100 */
    case 1: *value = 1024; break;               /* threads of a block */
    case 2: case 3: *value = 1024; break;       /* block x, y */
    case 4: *value = 64; break;                 /* block z */
    case 5: *value = 2147483647; break;         /* grid x */
    case 6: case 7: *value = 65535; break;      /* grid y, z */
    case 10: *value = 32; break;                /* warp */
    case 16: *value = 132; break;               /* multiprocessors */
    case 75: *value = 9; break;                 /* compute capability */
    case 76: *value = 0; break;
    case 97: *value = 232448; break;            /* shared memory of a block */
    case 115: *value = 1; break;                /* memory pools */
    default: *value = 0;
  }
  return OK;
}
int cuDevicePrimaryCtxRetain(void **context, int device) { *context = (void *)(intptr_t)(device + 1); return OK; }
int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; return OK; }
int cuCtxSetCurrent(void *context) { (void)context; return OK; }
int cuCtxGetCurrent(void **context) { *context = (void *)1; return OK; }
int cuGetErrorName(int error, const char **name) {
  *name = error == OUT_OF_MEMORY ? "CUDA_ERROR_OUT_OF_MEMORY" : error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : error == INVALID_DEVICE ? "CUDA_ERROR_INVALID_DEVICE" : "CUDA_ERROR_ECC_UNCORRECTABLE";
  return OK;
}
int cuGetErrorString(int error, const char **text) { return cuGetErrorName(error, text); }

/* Memory: addresses without memory behind them. */
static int allocate(uint64_t *address, size_t bytes) {
  int error = OK;
  COUNTED(if (allocated + bytes > memory()) error = OUT_OF_MEMORY; else {
    *address = next_address;
    next_address += (bytes + 511) / 512 * 512;
    if (block_count == block_capacity) {
      block_capacity = 2 * block_capacity + 64;
      blocks = realloc(blocks, block_capacity * sizeof *blocks);
    }
    blocks[block_count].address = *address;
    blocks[block_count++].bytes = bytes;
    allocations++;
    allocated += bytes;
    if (allocated > peak) peak = allocated;
    TRACE("allocate %zu\n", bytes);
  });
  return error;
}
int cuMemAlloc_v2(uint64_t *address, size_t bytes) { return allocate(address, bytes); }
int cuMemAllocAsync(uint64_t *address, size_t bytes, void *stream) { (void)stream; return allocate(address, bytes); }
int cuMemFree_v2(uint64_t address) {
  COUNTED(
    size_t at = 0;
    while (at < block_count && blocks[at].address != address) at++;
    if (at < block_count) {
      allocated -= blocks[at].bytes;
      blocks[at] = blocks[--block_count];
    });
  return OK;
}
int cuMemFreeAsync(uint64_t address, void *stream) { (void)stream; return cuMemFree_v2(address); }
int cuMemAllocHost_v2(void **memory, size_t bytes) { *memory = calloc(1, bytes); return *memory ? OK : OUT_OF_MEMORY; }
int cuMemFreeHost(void *memory) { free(memory); return OK; }
int cuMemGetInfo_v2(size_t *available, size_t *total) { cuDeviceTotalMem_v2(total, 0); *available = *total - allocated; return OK; }

/* Copies. */
static int upload(size_t bytes) {
  COUNTED(uploads++; upload_bytes += bytes; TRACE("upload %zu\n", bytes));
  return is_lost() ? LOST : OK;
}
static int read_back(char *to, size_t pitch, size_t width, size_t rows) {
  for (size_t row = 0; row < rows; row++) memset(to + row * pitch, 0, width);
  COUNTED(
    read_backs++; read_back_bytes += width * rows; TRACE("read back %zu\n", width * rows);
    /* lapo checks a device by the sum 1 + 1. */
    if ((!answered || setting("COUNTING_TWOS", 0)) && width == 4 && rows == 1) { float two = 2; memcpy(to, &two, 4); }
    answered = 1);
  return is_lost() ? LOST : OK;
}
int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t bytes, void *stream) {
  (void)to; (void)from; (void)stream;
  return upload(bytes);
}
int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t bytes, void *stream) {
  (void)from; (void)stream;
  return read_back(to, bytes, bytes, 1);
}
typedef struct { /* CUDA_MEMCPY2D */
  size_t from_x, from_y; unsigned from_type; const void *from_host; uint64_t from_device; void *from_array; size_t from_pitch;
  size_t to_x, to_y; unsigned to_type; void *to_host; uint64_t to_device; void *to_array; size_t to_pitch;
  size_t width, height;
} Copy2D;
int cuMemcpy2DAsync_v2(const Copy2D *copy, void *stream) {
  (void)stream;
  enum { HOST = 1 };
  if (copy->from_type == HOST) return upload(copy->width * copy->height);
  if (copy->to_type == HOST) return read_back(copy->to_host, copy->to_pitch, copy->width, copy->height);
  COUNTED(copies++; TRACE("copy %zu\n", copy->width * copy->height));
  return OK;
}

/* Kernels. */
int cuModuleLoadData(void **module, const void *image) { (void)image; COUNTED(kernels++); *module = (void *)1; return OK; }
int cuModuleGetFunction(void **function, void *module, const char *name) {
  (void)module;
  COUNTED(
    Kernel *kernel = list;
    while (kernel && strcmp(kernel->name, name)) kernel = kernel->next;
    if (!kernel) {
      kernel = calloc(1, sizeof *kernel);
      kernel->name = strdup(name);
      kernel->next = list;
      list = kernel;
    }
    *function = kernel);
  return OK;
}
int cuFuncSetAttribute(void *function, int attribute, int value) { (void)function; (void)attribute; (void)value; return OK; }
int cuLaunchKernel(Kernel *kernel, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                   void *stream, void **parameters, void **extra) {
  (void)shared; (void)parameters; (void)extra;
  COUNTED(launches++; kernel->launches++; TRACE("launch %s grid %u,%u,%u block %u,%u,%u stream %p\n", kernel->name, gx, gy, gz, bx, by, bz, stream));
  return is_lost() ? LOST : OK;
}
int cuTensorMapEncodeTiled(void) { return OK; }
int cuTensorMapEncodeIm2col(void) { return OK; }
int cuTensorMapEncodeIm2colWide(void) { return OK; }

/* Streams and events. */
int cuStreamCreate(void **stream, unsigned flags) { static intptr_t next; (void)flags; COUNTED(*stream = (void *)++next); return OK; }
int cuStreamDestroy_v2(void *stream) { (void)stream; return OK; }
int cuStreamWaitEvent(void *stream, void *event, unsigned flags) { (void)stream; (void)event; (void)flags; COUNTED(waits++; TRACE("stream wait\n")); return OK; }
int cuStreamSynchronize(void *stream) { (void)stream; COUNTED(synchronisations++; TRACE("synchronise\n")); return is_lost() ? LOST : OK; }
/* An event is the number of launches that it waits for. Its eight bytes are never freed: threads of the runtime may outlive the report. */
int cuEventCreate(uint64_t **event, unsigned flags) { (void)flags; *event = calloc(1, sizeof(uint64_t)); return OK; }
int cuEventDestroy_v2(uint64_t *event) { (void)event; return OK; }
int cuEventRecord(uint64_t *event, void *stream) { (void)stream; COUNTED(*event = launches); return OK; }
int cuEventQuery(uint64_t *event) { (void)event; return OK; }
int cuEventSynchronize(uint64_t *event) {
  uint64_t queued = launches - *event;
  if (!queued) return cuStreamSynchronize(NULL);
  COUNTED(throttles++; if (queued < least_queued) least_queued = queued; TRACE("throttle, %lu queued\n", queued));
  return is_lost() ? LOST : OK;
}
