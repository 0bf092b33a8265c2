/* driver.h: what an engine must provide. The public API checks arguments, counts, keeps programs
 * and surfaces alive as long as needed, and calls one of these tables: the software engine's, or
 * that of the library that drives the hardware. */
#pragma once

#include "../base/base.h"

#define ANE_DRIVER_VERSION 2
#define ANE_DRIVER_SYMBOL "ane_hardware_driver"

/* The memory of a surface. Rows are `channels`, `row_stride` bytes apart. */
typedef struct ane_memory {
    size_t channels, width, element_size;
    size_t row_stride, size; /* bytes; size is what was allocated */
    void *base;              /* set by surface_create or by surface_lock */
    void *handle;            /* the driver's own */
} ane_memory;

/* A port as the program declares it, and the geometry of the surface that it takes. */
typedef struct ane_driver_port {
    const char *name;
    const char *dtype;
    size_t channels, width, element_size;
} ane_driver_port;

/* What is to be compiled; valid during the call. */
typedef struct ane_source {
    const char *text;
    size_t length;
    const ane_weight_file *files;
    size_t file_count;
    const ane_driver_port *inputs, *outputs; /* in the order of the declaration */
    size_t input_count, output_count;
    const void *checked; /* the front end's mil_program, which outlives the compiled program */
    void *donor;         /* the driver's own program, of equal text, whose compiled form is to be
                            used, or NULL */
} ane_source;

typedef struct ane_cost {
    size_t constant_bytes, scratch_bytes;
    double flops;
} ane_cost;

/* Every function may be called from any thread. Failures fill the error, which is never NULL, and
 * return its status; what a call made before it failed, it has undone. `engine`, `program` and
 * `request` are the driver's own. */
typedef struct ane_driver {
    uint32_t version; /* ANE_DRIVER_VERSION */
    const char *name;

    ane_status (*describe)(const ane_options *options, char **json, ane_error_info *error);
    ane_status (*explore)(const ane_options *options, char **json, ane_error_info *error);
    ane_status (*open)(ane_context *context, const ane_options *options, void **engine,
                       ane_error_info *error);
    void (*close)(void *engine);

    /* Fills in row_stride, size, handle and base of zeroed memory. */
    ane_status (*surface_create)(void *engine, ane_memory *memory, ane_error_info *error);
    void (*surface_free)(void *engine, ane_memory *memory);
    /* Around every access through `base`, which the lock makes valid. */
    ane_status (*surface_lock)(ane_memory *memory, bool read_only, ane_error_info *error);
    ane_status (*surface_unlock)(ane_memory *memory, bool read_only, ane_error_info *error);

    /* Compiling does not load. */
    ane_status (*program_compile)(void *engine, const ane_source *source, void **program,
                                  ane_error_info *error);
    ane_status (*program_load)(void *program, ane_error_info *error);
    ane_status (*program_unload)(void *program, ane_error_info *error);
    void (*program_free)(void *program);                       /* unloads first */
    void (*program_cost)(const void *program, ane_cost *cost); /* NULL: the driver cannot tell */

    ane_status (*request_create)(void *program, ane_surface **inputs, ane_surface **outputs,
                                 void **request, ane_error_info *error);
    ane_status (*request_evaluate)(void *request, ane_error_info *error);
    void (*request_free)(void *request);
} ane_driver;

/* The one symbol that a driver library exports, under the name ANE_DRIVER_SYMBOL. */
const ane_driver *ane_hardware_driver(void);
/* csrc/cpu/driver.c */
const ane_driver *ane_software_driver(void);
