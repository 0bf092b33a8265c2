/* program.m: a program from its text to being loaded. Compiled form and files live in a directory
 * that no other living program shares, whatever their texts and weights. */
#import "calls.h"
#import "engine.h"
#import "errors.h"

#include <string.h>
#include <time.h>

#define MODEL_FILE "model.mil"
#define COMPILED_FILE "net.plist" /* what a donor gives, beside DATA_FILE */
#define DATA_FILE "data"
#define IDENTIFIER_ATTEMPTS 256
#define RETRY_NANOSECONDS 100000000 /* maderix/ANE and tmc/apple load again after 100 ms */

static bool keep_ports(const ane_driver_port *from, size_t count, apple_port **out) {
    apple_port *ports = ane_alloc(count ? count : 1, sizeof *ports);
    *out = ports;
    for (size_t i = 0; ports && i < count; i++) {
        size_t size = strlen(from[i].name) + 1;
        ports[i] =
            (apple_port){ane_alloc(size, 1), from[i].channels, from[i].width, from[i].element_size};
        if (!ports[i].name) return false;
        memcpy(ports[i].name, from[i].name, size);
    }
    return ports != NULL;
}

static void drop_ports(apple_port *ports, size_t count) {
    for (size_t i = 0; ports && i < count; i++) ane_free(ports[i].name);
    ane_free(ports);
}

static apple_program *program_new(const apple_engine *engine, const ane_source *source) {
    apple_program *program = ane_alloc(1, sizeof *program);
    if (!program) return NULL;
    program->engine = engine;
    program->source_length = source->length;
    program->input_count = source->input_count;
    program->output_count = source->output_count;
    program->lock_made = pthread_rwlock_init(&program->lock, NULL) == 0;
    if (program->lock_made && keep_ports(source->inputs, source->input_count, &program->inputs) &&
        keep_ports(source->outputs, source->output_count, &program->outputs))
        return program;
    program_free(program);
    return NULL;
}

/* Never nil: some systems crash without a dictionary of weights. */
static NSDictionary *weights_of(const ane_source *source, ane_error_info *error) {
    NSMutableDictionary *weights = [NSMutableDictionary dictionaryWithCapacity:source->file_count];
    for (size_t i = 0; i < source->file_count; i++) {
        const ane_weight_file *file = &source->files[i];
        NSString *path = [NSString stringWithUTF8String:file->path];
        const char *name;
        if (staging_weight_name(file->path, &name, error)) return nil;
        if (!path || weights[path]) {
            ane_fail(error, ANE_ERROR_WEIGHTS, "weight file '%.200s' is not UTF-8, or there twice",
                     file->path);
            return nil;
        }
        NSData *data = [NSData dataWithBytes:file->data length:file->size];
        weights[path] = @{@"offset" : @0, @"data" : data};
    }
    return weights;
}

/* The identifier is made from text and weights: newlines make it another one. */
static NSData *text_of(const ane_source *source, size_t newlines, ane_error_info *error) {
    size_t length = 0;
    char *text = ane_size_add(source->length, newlines, &length) ? ane_alloc(length, 1) : NULL;
    if (!text) {
        ane_fail(error, ANE_ERROR_MEMORY, "no memory for a text of %zu bytes", source->length);
        return nil;
    }
    memcpy(text, source->text, source->length);
    memset(text + source->length, '\n', newlines);
    NSData *data = [NSData dataWithBytes:text length:length];
    ane_free(text);
    return data;
}

static id model_of(const framework *known, NSData *text, NSDictionary *weights,
                   ane_error_info *error) {
    id descriptor = call_descriptor(known->descriptor, text, weights);
    id model = descriptor ? call_model(known->model, descriptor) : nil;
    if (!model)
        ane_fail(error, ANE_ERROR_COMPILE, "the system takes no %s of this text and its weights",
                 descriptor ? "model" : "descriptor");
    return model;
}

static ane_status claim_identifier(apple_program *program, NSString *identifier,
                                   const apple_program *donor, ane_error_info *error) {
    if (![identifier isKindOfClass:[NSString class]])
        return ane_fail(error, ANE_ERROR_MISSING, "the system gives a program no identifier");
    if (donor && [identifier isEqualToString:call_identifier(donor->model)])
        return ane_fail(error, ANE_ERROR_UNSUPPORTED,
                        "the new weights have the donor's identifier: they are equal, or this "
                        "system tells programs apart by their text alone");
    return staging_claim(NSTemporaryDirectory().UTF8String, identifier.UTF8String, &program->place,
                         error);
}

/* Makes the model under an identifier that no living program has. */
static ane_status claim(apple_program *program, const ane_source *source, NSDictionary *weights,
                        ane_error_info *error) {
    const apple_program *donor = source->donor;
    size_t first = donor ? donor->text.length - donor->source_length : 0;
    for (size_t i = 0; i < IDENTIFIER_ATTEMPTS; i++) {
        NSData *text = text_of(source, first + i, error);
        id model = text ? model_of(program->engine->framework, text, weights, error) : nil;
        if (!model) return error->status;
        ane_status status = claim_identifier(program, call_identifier(model), donor, error);
        if (status) return status;
        if (!program->place) continue;
        program->text = text;
        program->model = model;
        return ANE_OK;
    }
    return ane_fail(error, ANE_ERROR_LIMIT, "%d programs of equal text and weights are there",
                    IDENTIFIER_ATTEMPTS);
}

/* The compiler reads files, although it was given the same bytes in memory. */
static ane_status stage(const apple_program *program, const ane_source *source,
                        ane_error_info *error) {
    NSData *text = program->text;
    ane_status status = staging_write(program->place, MODEL_FILE, text.bytes, text.length, error);
    for (size_t i = 0; i < source->file_count && !status; i++) {
        const ane_weight_file *file = &source->files[i];
        const char *name;
        status = staging_weight_name(file->path, &name, error);
        if (!status) status = staging_write(program->place, name, file->data, file->size, error);
    }
    return status;
}

static ane_status build(apple_program *program, const ane_source *source, ane_error_info *error) {
    NSDictionary *weights = weights_of(source, error);
    if (!weights) return error->status;
    ane_status status = claim(program, source, weights, error);
    if (!status) status = stage(program, source, error);
    NSError *cause = nil;
    if (status || call_compile(program->model, &cause)) return status;
    return errors_fail(error, ANE_ERROR_COMPILE, "compile a program", cause);
}

/* The donor's compiled form with other weights: what Orion measured to work where all weights are
 * in one file (M4 Max, macOS 15). */
static ane_status adopt(apple_program *program, const ane_source *source, ane_error_info *error) {
    const apple_program *donor = source->donor;
    if (source->file_count != 1)
        return ane_fail(error, ANE_ERROR_UNSUPPORTED,
                        "a program takes a donor's compiled form only with exactly one weight "
                        "file; this one has %zu",
                        source->file_count);
    NSDictionary *weights = weights_of(source, error);
    if (!weights) return error->status;
    ane_status status = claim(program, source, weights, error);
    if (!status) status = stage(program, source, error);
    if (!status) status = staging_copy(donor->place, program->place, COMPILED_FILE, error);
    if (status) return status;
    return staging_write(program->place, DATA_FILE, source->files[0].data, source->files[0].size,
                         error);
}

ane_status program_compile(void *engine, const ane_source *source, void **program,
                           ane_error_info *error) {
    *program = NULL;
    apple_program *made = program_new(engine, source);
    if (!made) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a program");
    ane_status status = errors_guard(error, ANE_ERROR_COMPILE, "compile a program", ^{
      return source->donor ? adopt(made, source, error) : build(made, source, error);
    });
    if (status)
        program_free(made);
    else
        *program = made;
    return status;
}

static bool is_realtime(const apple_program *program) {
    return program->engine->dispatch == ANE_DISPATCH_REALTIME;
}

/* The first load after a compile sometimes fails. */
static BOOL load_patiently(id model, NSError **cause) {
    if (call_load(model, cause)) return YES;
    nanosleep(&(struct timespec){.tv_nsec = RETRY_NANOSECONDS}, NULL);
    *cause = nil;
    return call_load(model, cause);
}

/* The inner model says where the ports are, and is what the client's paths take. */
static id inner_model_of(const apple_program *program) {
    if (!framework_has(PART_ATTRIBUTES) && program->engine->dispatch == ANE_DISPATCH_QUEUE)
        return nil;
    id inner = call_inner_model(program->model);
    return [inner isKindOfClass:program->engine->framework->inner_model] ? inner : nil;
}

static ane_status load_realtime(apple_program *program, ane_error_info *error) {
    NSError *cause = nil;
    if (!is_realtime(program)) return ANE_OK;
    id client = call_connection(program->engine->framework->client);
    program->loaded_realtime = call_load_realtime(client, program->inner_model, &cause);
    if (program->loaded_realtime) return ANE_OK;
    return errors_fail(error, ANE_ERROR_SYSTEM, "load a program for real-time evaluation", cause);
}

static ane_status unload_realtime(apple_program *program, ane_error_info *error) {
    NSError *cause = nil;
    if (!program->loaded_realtime) return ANE_OK;
    id client = call_connection(program->engine->framework->client);
    program->loaded_realtime = !call_unload_realtime(client, program->inner_model, &cause);
    if (!program->loaded_realtime) return ANE_OK;
    return errors_fail(error, ANE_ERROR_SYSTEM, "end real-time evaluation", cause);
}

/* A program that could not be unloaded stays loaded. */
static ane_status unload(apple_program *program, ane_error_info *error) {
    NSError *cause = nil;
    ane_status status = unload_realtime(program, error);
    if (status) return status;
    program->loaded = !call_unload(program->model, &cause);
    if (program->loaded) return errors_fail(error, ANE_ERROR_SYSTEM, "unload a program", cause);
    program->inner_model = nil;
    return ANE_OK;
}

static ane_status load(apple_program *program, ane_error_info *error) {
    NSError *cause = nil;
    if (!load_patiently(program->model, &cause))
        return errors_fail(error, ANE_ERROR_SYSTEM, "load a program", cause);
    program->loaded = true;
    program->inner_model = inner_model_of(program);
    if (!program->inner_model && program->engine->dispatch != ANE_DISPATCH_QUEUE)
        return ane_fail(error, ANE_ERROR_MISSING, "the loaded program has no inner model");
    return load_realtime(program, error);
}

ane_status program_load(void *handle, ane_error_info *error) {
    apple_program *program = handle;
    pthread_rwlock_wrlock(&program->lock);
    ane_status status = ANE_OK;
    if (!program->loaded)
        status = errors_guard(error, ANE_ERROR_SYSTEM, "load a program", ^{
          return load(program, error);
        });
    if (status && program->loaded) {
        ane_error_info ignored = {0}, *rest = &ignored;
        errors_guard(rest, ANE_ERROR_SYSTEM, "unload a program", ^{
          return unload(program, rest);
        });
    }
    pthread_rwlock_unlock(&program->lock);
    return status;
}

ane_status program_unload(void *handle, ane_error_info *error) {
    apple_program *program = handle;
    pthread_rwlock_wrlock(&program->lock);
    ane_status status = ANE_OK;
    if (program->loaded)
        status = errors_guard(error, ANE_ERROR_SYSTEM, "unload a program", ^{
          return unload(program, error);
        });
    pthread_rwlock_unlock(&program->lock);
    return status;
}

void program_free(void *handle) {
    apple_program *program = handle;
    ane_error_info ignored = {0}, *error = &ignored;
    if (!program) return;
    if (program->loaded) program_unload(program, error);
    errors_guard(error, ANE_ERROR_SYSTEM, "free a program", ^{
      program->inner_model = nil;
      program->model = nil;
      program->text = nil;
      return ANE_OK;
    });
    staging_free(program->place);
    drop_ports(program->inputs, program->input_count);
    drop_ports(program->outputs, program->output_count);
    if (program->lock_made) pthread_rwlock_destroy(&program->lock);
    ane_free(program);
}
