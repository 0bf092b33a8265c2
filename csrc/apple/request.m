/* request.m: a program bound to surfaces, and its evaluation on the engine's dispatch path. */
#import <IOSurface/IOSurface.h>

#import "calls.h"
#import "engine.h"
#import "errors.h"
#import "layout.h"

#include "../engine/surface.h"

#include <string.h>

typedef struct apple_request {
    apple_program *program;
    ane_surface **inputs, **outputs; /* one per port of the program */
    pthread_mutex_t lock;            /* one evaluation at a time; guards bound */
    bool lock_made;
    __strong id bound; /* the system's request: made once, which takes a loaded program */
} apple_request;

static ane_surface **keep_surfaces(ane_surface **surfaces, size_t count) {
    ane_surface **kept = ane_alloc(count ? count : 1, sizeof(ane_surface *));
    if (kept && count) memcpy(kept, surfaces, count * sizeof(ane_surface *));
    return kept;
}

static NSArray *surface_objects(const apple_program *program, const layout_side *side,
                                const layout_slot *slots, ane_error_info *error) {
    NSMutableArray *objects = [NSMutableArray arrayWithCapacity:side->count];
    for (size_t i = 0; i < side->count; i++) {
        IOSurfaceRef surface = (IOSurfaceRef)side->surfaces[slots[i].port]->memory.handle;
        id object = call_surface_object(program->engine->framework->surface, surface);
        if (!object) {
            ane_fail(error, ANE_ERROR_EVALUATE, "the system takes no surface of '%.200s'",
                     side->ports[slots[i].port].name);
            return nil;
        }
        [objects addObject:object];
    }
    return objects;
}

static NSArray *symbol_indices(const layout_side *side, const layout_slot *slots) {
    NSMutableArray *indices = [NSMutableArray arrayWithCapacity:side->count];
    for (size_t i = 0; i < side->count; i++) [indices addObject:@(slots[i].symbol)];
    return indices;
}

static ane_status bind_sides(apple_request *request, const layout_side sides[2],
                             layout_slot *slots[2], ane_error_info *error) {
    const apple_program *program = request->program;
    bool tells = program->inner_model && framework_has(PART_ATTRIBUTES);
    id attributes = tells ? call_attributes(program->inner_model) : nil;
    NSArray *objects[2], *indices[2];
    for (size_t i = 0; i < 2; i++) {
        ane_status status = layout_resolve(attributes, &sides[i], slots[i], error);
        if (status) return status;
        objects[i] = surface_objects(program, &sides[i], slots[i], error);
        if (!objects[i]) return error->status;
        indices[i] = symbol_indices(&sides[i], slots[i]);
    }
    request->bound = call_request(program->engine->framework->request, objects[0], indices[0],
                                  objects[1], indices[1]);
    if (request->bound) return ANE_OK;
    return ane_fail(error, ANE_ERROR_EVALUATE, "the system takes no request of these surfaces");
}

static ane_status bind(apple_request *request, ane_error_info *error) {
    const apple_program *program = request->program;
    const layout_side sides[2] = {
        {false, program->inputs, request->inputs, program->input_count},
        {true, program->outputs, request->outputs, program->output_count},
    };
    layout_slot *slots[2] = {ane_alloc(program->input_count + 1, sizeof(layout_slot)),
                             ane_alloc(program->output_count + 1, sizeof(layout_slot))};
    ane_status status = ANE_ERROR_MEMORY;
    @try {
        if (slots[0] && slots[1])
            status = bind_sides(request, sides, slots, error);
        else
            ane_fail(error, status, "no memory for a request");
    } @finally {
        ane_free(slots[0]);
        ane_free(slots[1]);
    }
    return status;
}

ane_status request_create(void *handle, ane_surface **inputs, ane_surface **outputs, void **out,
                          ane_error_info *error) {
    apple_program *program = handle;
    apple_request *request = ane_alloc(1, sizeof *request);
    *out = NULL;
    if (!request) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a request");
    request->program = program;
    request->inputs = keep_surfaces(inputs, program->input_count);
    request->outputs = keep_surfaces(outputs, program->output_count);
    request->lock_made = pthread_mutex_init(&request->lock, NULL) == 0;
    ane_status status = ANE_OK;
    if (!request->inputs || !request->outputs || !request->lock_made)
        status = ane_fail(error, ANE_ERROR_MEMORY, "no memory for a request");
    pthread_rwlock_rdlock(&program->lock);
    if (!status && program->loaded)
        status = errors_guard(error, ANE_ERROR_EVALUATE, "bind surfaces", ^{
          return bind(request, error);
        });
    pthread_rwlock_unlock(&program->lock);
    if (status)
        request_free(request);
    else
        *out = request;
    return status;
}

static BOOL dispatch(const apple_program *program, id bound, NSError **cause) {
    const apple_engine *engine = program->engine;
    if (engine->dispatch == ANE_DISPATCH_QUEUE) return call_evaluate(program->model, bound, cause);
    id client = call_connection(engine->framework->client);
    if (engine->dispatch == ANE_DISPATCH_DIRECT)
        return call_evaluate_direct(client, program->inner_model, bound, cause);
    return call_evaluate_realtime(client, program->inner_model, bound, cause);
}

static ane_status evaluate(apple_request *request, ane_error_info *error) {
    NSError *cause = nil;
    if (!request->program->loaded)
        return ane_fail(error, ANE_ERROR_STATE, "the program is not loaded");
    ane_status status = request->bound ? ANE_OK : bind(request, error);
    if (status || dispatch(request->program, request->bound, &cause)) return status;
    return errors_fail(error, ANE_ERROR_EVALUATE, "evaluate a program", cause);
}

ane_status request_evaluate(void *handle, ane_error_info *error) {
    apple_request *request = handle;
    pthread_mutex_lock(&request->lock);
    pthread_rwlock_rdlock(&request->program->lock);
    ane_status status = errors_guard(error, ANE_ERROR_EVALUATE, "evaluate a program", ^{
      return evaluate(request, error);
    });
    pthread_rwlock_unlock(&request->program->lock);
    pthread_mutex_unlock(&request->lock);
    return status;
}

void request_free(void *handle) {
    apple_request *request = handle;
    ane_error_info ignored = {0};
    if (!request) return;
    errors_guard(&ignored, ANE_ERROR_SYSTEM, "free a request", ^{
      request->bound = nil;
      return ANE_OK;
    });
    if (request->lock_made) pthread_mutex_destroy(&request->lock);
    ane_free(request->inputs);
    ane_free(request->outputs);
    ane_free(request);
}
