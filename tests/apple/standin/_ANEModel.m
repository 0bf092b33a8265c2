/* _ANEModel.m: a loaded program: its attributes, and its evaluation on the surfaces of a request.
 */
#import "standin.h"

#include <stdlib.h>

#include "../runtime/surface.h"

#define SMALLEST_SURFACE 49152
#define SURFACE_ALIGNMENT 16384
#define WRONG 0x4000 /* of fp16: small numbers become large ones, and large ones small */

@implementation _ANEModel {
    computation *_computation;
}

- (instancetype)initWithComputation:(computation *)shared {
    _computation = computation_hold(shared);
    _loaded = YES;
    return self;
}

- (void)dealloc {
    computation_release(_computation);
}

- (NSDictionary *)modelAttributes {
    if (!standin_gives_object("attributes")) return nil;
    return standin_retell(standin_attributes(_computation));
}

/* Rows of a multiple of 64 bytes (tmc/apple), and 49152 bytes in all (Orion, libane). That all
 * inputs are of one size (Orion) is contradicted by cgane and rustane, and not asked for. */
static BOOL is_large_enough(IOSurfaceRef surface, const computation_port *port) {
    size_t size = IOSurfaceGetAllocSize(surface);
    return size >= computation_port_size(port) && size >= SMALLEST_SURFACE &&
           size % SURFACE_ALIGNMENT == 0;
}

/* Number, size or order of surfaces that do not fit give status 0x1d (maderix/ANE, Orion).
 *
 * Fills `memory`, in the chip's order, from one side of a request; NO where they do not fit. */
static BOOL gather(NSArray<_ANEIOSurfaceObject *> *surfaces, NSArray<NSNumber *> *indices,
                   const computation_port *ports, size_t count, void **memory) {
    if (surfaces.count != count) return NO;
    for (size_t i = 0; i < count; i++) {
        size_t symbol = indices[i].unsignedIntegerValue, port = 0;
        while (port < count && ports[port].symbol != symbol) port++;
        if (port == count || memory[symbol]) return NO;
        IOSurfaceRef surface = surfaces[i].ioSurface;
        if (!is_large_enough(surface, &ports[port])) return NO;
        memory[symbol] = runtime_surface_memory(surface);
    }
    return YES;
}

static BOOL refuse_status(NSError **error, const char *status) {
    NSString *text = [NSString stringWithFormat:@"ANEProgramProcessRequestDirect() Failed with "
                                                 "status=%s : statusType=0x9: Program Inference "
                                                 "error",
                                                status];
    return standin_refuse(error, STANDIN_DOMAIN, 8, text);
}

- (BOOL)run:(_ANERequest *)request
     inputs:(void **)inputs
    outputs:(void **)outputs
      error:(NSError **)error {
    if (!gather(request.inputArray, request.inputIndexArray, _computation->inputs,
                _computation->input_count, inputs) ||
        !gather(request.outputArray, request.outputIndexArray, _computation->outputs,
                _computation->output_count, outputs)) {
        return refuse_status(error, "0x1d");
    }
    ane_error_info info = {0};
    if (computation_run(_computation, inputs, outputs, &info)) {
        return refuse_status(error, info.text);
    }
    STANDIN_ADD(evaluations, 1);
    if (!standin_gives_object("results")) *(uint16_t *)outputs[0] ^= WRONG;
    return YES;
}

- (BOOL)evaluate:(id)request error:(NSError **)error {
    if (!standin_go_on("evaluate", error)) return NO;
    /* An object that was kept over unload and load is stale (libane). */
    if (!_loaded) return standin_refuse(error, STANDIN_DOMAIN, 8, @"Program Inference error");
    if (![request isKindOfClass:[_ANERequest class]]) return refuse_status(error, "0x16");
    void **inputs = calloc(_computation->input_count + 1, sizeof *inputs);
    void **outputs = calloc(_computation->output_count + 1, sizeof *outputs);
    BOOL done = [self run:request inputs:inputs outputs:outputs error:error];
    free(inputs);
    free(outputs);
    return done;
}

@end
