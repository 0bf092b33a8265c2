/* context.c: opens and closes an engine with its threads and its BLAS, and keeps its last error and
 * its counts. Both are read and written under the context's lock, because calls arrive from several
 * threads. */
#if defined(__linux__)
#define _GNU_SOURCE 1
#endif
#include "driver.h"

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#if defined(__linux__)
#include <sched.h>
#endif

/* Where a driver that is part of this library is found, also if nobody else sees the library. */
#if defined(RTLD_SELF)
#define LINKED_IN RTLD_SELF
#else
#define LINKED_IN RTLD_DEFAULT
#endif

#define MOST_THREADS 1024
#define ALL_HAZARDS (ANE_HAZARD_MATMUL_RANGE | ANE_HAZARD_REDUCE_FP16 | ANE_HAZARD_WIDTH_SLICE)

/* Cores that this process may run on. */
static size_t available_cores(void) {
#if defined(__linux__)
    cpu_set_t cores;
    if (sched_getaffinity(0, sizeof cores, &cores) == 0) return (size_t)CPU_COUNT(&cores);
#endif
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    return online > 0 ? (size_t)online : 1;
}

static ane_status check_options(const ane_options *options, ane_error_info *error) {
    if ((unsigned)options->numerics > ANE_BF16)
        return ane_fail(error, ANE_ERROR_ARGUMENT, "numerics %d are not known",
                        (int)options->numerics);
    if (options->hazards & ~(unsigned)ALL_HAZARDS)
        return ane_fail(error, ANE_ERROR_ARGUMENT, "hazard flags %#x are not known",
                        options->hazards);
    if ((unsigned)options->engine > ANE_HARDWARE ||
        (unsigned)options->dispatch > ANE_DISPATCH_REALTIME)
        return ane_fail(error, ANE_ERROR_ARGUMENT, "engine %d with dispatch %d is not known",
                        (int)options->engine, (int)options->dispatch);
    if (options->engine == ANE_HARDWARE && options->numerics != ANE_FP16)
        return ane_fail(error, ANE_ERROR_ARGUMENT, "the hardware computes in fp16");
    if (options->threads > MOST_THREADS)
        return ane_fail(error, ANE_ERROR_ARGUMENT, "%zu threads are too many: at most %d",
                        options->threads, MOST_THREADS);
    return ANE_OK;
}

/* The library stays open: the classes that it has registered cannot be taken back. */
static ane_status open_driver(const ane_options *options, const ane_driver **driver,
                              ane_error_info *error) {
    *driver = NULL;
    if (options->engine == ANE_SOFTWARE) {
        *driver = ane_software_driver();
        return ANE_OK;
    }
    const char *path = options->driver_path;
    void *library = path ? dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE) : LINKED_IN;
    if (path && !library)
        return ane_fail(error, ANE_ERROR_MISSING, "cannot open the driver: %s", dlerror());
    const ane_driver *(*find)(void) =
        (const ane_driver *(*)(void))dlsym(library, ANE_DRIVER_SYMBOL);
    *driver = find ? find() : NULL;
    if (*driver && (*driver)->version == ANE_DRIVER_VERSION) return ANE_OK;
    return ane_fail(error, ANE_ERROR_MISSING, "%s has no driver of version %d",
                    path ? path : "this program", ANE_DRIVER_VERSION);
}

/* Empties the place for the answer, and finds whom to ask. */
static ane_status ask_driver(const ane_options *options, char **json, const ane_driver **driver,
                             ane_error_info *error) {
    if (json) *json = NULL;
    if (!options || !json)
        return ane_fail(error, ANE_ERROR_ARGUMENT,
                        "the options or the place for the description are missing");
    return open_driver(options, driver, error);
}

ane_status ane_engine_describe(const ane_options *options, char **json, ane_error_info *error) {
    const ane_driver *driver;
    ane_error_info own = {0};
    ane_status status = ask_driver(options, json, &driver, &own);
    if (status == ANE_OK) status = driver->describe(options, json, &own);
    if (status != ANE_OK && error) *error = own;
    return status;
}

ane_status ane_engine_explore(const ane_options *options, char **json, ane_error_info *error) {
    const ane_driver *driver;
    ane_error_info own = {0};
    ane_status status = ask_driver(options, json, &driver, &own);
    if (status == ANE_OK) status = driver->explore(options, json, &own);
    if (status != ANE_OK && error) *error = own;
    return status;
}

static ane_status start_context(ane_context *context, const char *blas_path,
                                ane_error_info *error) {
    size_t threads = context->options.threads;
    context->pool = ane_pool_create(threads);
    if (!context->pool)
        return ane_fail(error, ANE_ERROR_SYSTEM, "cannot start %zu threads", threads);
    bool bf16 = context->options.numerics == ANE_BF16;
    return ane_blas_open(blas_path, bf16, &context->blas, error);
}

static ane_status start_engine(ane_context *context, const ane_options *options,
                               ane_error_info *error) {
    const ane_driver *driver;
    ane_status status = open_driver(options, &driver, error);
    if (status == ANE_OK) status = driver->open(context, options, &context->engine, error);
    if (status == ANE_OK) context->driver = driver;
    return status;
}

ane_status ane_context_open(const ane_options *options, ane_context **context,
                            ane_error_info *error) {
    if (context) *context = NULL;
    if (!options || !context)
        return ane_fail(error, ANE_ERROR_ARGUMENT,
                        "the options or the place for the context are missing");
    ane_status status = check_options(options, error);
    if (status != ANE_OK) return status;
    ane_context *opened = ane_alloc(1, sizeof *opened);
    if (!opened) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a context");
    pthread_mutex_init(&opened->lock, NULL);
    pthread_mutex_init(&opened->evaluation, NULL);
    opened->holders = 1;
    opened->options = *options;
    opened->options.blas_path = opened->options.driver_path = NULL;
    if (options->threads == 0) opened->options.threads = available_cores();
    ane_error_info own = {0};
    status = start_context(opened, options->blas_path, &own);
    if (status == ANE_OK) status = start_engine(opened, options, &own);
    if (status != ANE_OK) {
        if (error) *error = own;
        ane_context_free(opened);
        return status;
    }
    *context = opened;
    return ANE_OK;
}

void ane_context_hold(ane_context *context) {
    pthread_mutex_lock(&context->lock);
    context->holders++;
    pthread_mutex_unlock(&context->lock);
}

void ane_context_free(ane_context *context) {
    if (!context) return;
    pthread_mutex_lock(&context->lock);
    bool last = --context->holders == 0;
    pthread_mutex_unlock(&context->lock);
    if (!last) return;
    if (context->driver) context->driver->close(context->engine);
    ane_pool_free(context->pool);
    ane_blas_free(context->blas);
    ane_free(context->scratch);
    pthread_mutex_destroy(&context->evaluation);
    pthread_mutex_destroy(&context->lock);
    ane_free(context);
}

ane_status ane_context_keep(ane_context *context, const ane_error_info *error) {
    if (!context) return error->status;
    pthread_mutex_lock(&context->lock);
    context->error = *error;
    pthread_mutex_unlock(&context->lock);
    return error->status;
}

ane_status ane_context_fail(ane_context *context, ane_status status, const char *format, ...) {
    ane_error_info error = {.status = status};
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(error.text, sizeof error.text, format, arguments);
    va_end(arguments);
    return ane_context_keep(context, &error);
}

void ane_context_error(ane_context *context, ane_error_info *error) {
    if (!error) return;
    memset(error, 0, sizeof *error);
    if (!context) return;
    pthread_mutex_lock(&context->lock);
    *error = context->error;
    pthread_mutex_unlock(&context->lock);
}

void ane_context_counts(ane_context *context, ane_counts *counts) {
    if (!counts) return;
    memset(counts, 0, sizeof *counts);
    if (!context) return;
    pthread_mutex_lock(&context->lock);
    *counts = context->counts;
    pthread_mutex_unlock(&context->lock);
}

const char *ane_context_engine(const ane_context *context) {
    return context ? context->driver->name : NULL;
}

size_t ane_context_threads(const ane_context *context) {
    return context ? ane_pool_threads(context->pool) : 0;
}

const char *ane_context_blas(const ane_context *context) {
    return context ? ane_blas_name(context->blas) : NULL;
}
