/* computation.h: a MIL program run by the software engine on the memory of surfaces. */
#pragma once

#include "ane.h"

#define COMPUTATION_NAME 128

typedef struct computation_port {
    char name[COMPUTATION_NAME];
    const char *dtype;
    size_t channels, height, width, element_size;
    size_t row_stride; /* bytes, of channels * height rows */
    size_t symbol;     /* where the chip's order puts it */
} computation_port;

typedef struct computation {
    ane_program *program;
    ane_request *request;
    computation_port *inputs, *outputs; /* as declared */
    ane_surface **input_surfaces, **output_surfaces;
    size_t input_count, output_count;
    long holders;
} computation;

/* NULL with an error where the text or the files are not what the software engine takes. */
computation *computation_create(const char *text, size_t length, const ane_weight_file *files,
                                size_t file_count, ane_error_info *error);
computation *computation_hold(computation *computation);
void computation_release(computation *computation);
size_t computation_port_size(const computation_port *port);
/* Memory of the inputs and outputs in the chip's order, each of at least its port's size. */
ane_status computation_run(computation *computation, void *const *inputs, void *const *outputs,
                           ane_error_info *error);
