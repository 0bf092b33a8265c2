/* engine.h: what the parts of the driver know of each other. */
#pragma once

#import <Foundation/Foundation.h>

#include <pthread.h>

#include "../engine/driver.h"
#import "framework.h"
#include "staging.h"

typedef struct apple_engine {
    const framework *framework;
    ane_dispatch dispatch;
} apple_engine;

/* A port as declared, kept for the time of binding. */
typedef struct apple_port {
    char *name;
    size_t channels, width, element_size;
} apple_port;

typedef struct apple_program {
    const apple_engine *engine;
    staging *place;
    apple_port *inputs, *outputs;
    size_t input_count, output_count;
    size_t source_length;  /* of the text, without the newlines behind it */
    pthread_rwlock_t lock; /* held to write by load and unload, to read by evaluate */
    bool lock_made, loaded, loaded_realtime;
    __strong NSData *text;
    __strong id model;
    __strong id inner_model; /* of the last load: an older one is stale */
} apple_program;

ane_status program_compile(void *engine, const ane_source *source, void **program,
                           ane_error_info *error);
ane_status program_load(void *program, ane_error_info *error);
ane_status program_unload(void *program, ane_error_info *error);
void program_free(void *program);

ane_status request_create(void *program, ane_surface **inputs, ane_surface **outputs,
                          void **request, ane_error_info *error);
ane_status request_evaluate(void *request, ane_error_info *error);
void request_free(void *request);

ane_status surface_create(void *engine, ane_memory *memory, ane_error_info *error);
void surface_free(void *engine, ane_memory *memory);
ane_status surface_lock(ane_memory *memory, bool read_only, ane_error_info *error);
ane_status surface_unlock(ane_memory *memory, bool read_only, ane_error_info *error);

ane_status describe(const ane_options *options, char **json, ane_error_info *error);
ane_status explore(const ane_options *options, char **json, ane_error_info *error);
