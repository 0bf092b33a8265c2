/* standin_probe.m: breaks one rule of the stand-in at a time, as no driver would, and says how that
 * is refused: "domain code: text", "Exception: reason", "nil", or "taken". */
#import <objc/runtime.h>

#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "../standin/standin.h"

#define WEIGHTS @"@model_path/weights/w.bin"
#define SURFACE_SIZE 49152

typedef NSString *(*rule)(void);

static NSData *text, *file;
static char answer[1024];

static Class named(const char *name) {
    return objc_lookUpClass(name);
}

static NSDictionary *entry(id offset, id data) {
    return @{@"offset" : offset, @"data" : data};
}

static id descriptor(id words, id weights) {
    return [named("_ANEInMemoryModelDescriptor") modelWithMILText:words
                                                          weights:weights
                                                     optionsPlist:nil];
}

static NSString *object_answer(id made) {
    return made ? @"taken" : @"nil";
}

static NSString *call_answer(BOOL done, NSError *error) {
    if (done) return @"taken";
    return [NSString
        stringWithFormat:@"%@ %ld: %@", error.domain, (long)error.code, error.localizedDescription];
}

/* --- programs --- */

static _ANEInMemoryModel *model_of(NSData *words) {
    id made = descriptor(words, @{WEIGHTS : entry(@0, file)});
    return [named("_ANEInMemoryModel") inMemoryModelWithDescriptor:made];
}

static void stage(_ANEInMemoryModel *model, NSData *words, NSData *weights) {
    NSString *place = model.localModelPath;
    NSString *folder = [place stringByAppendingPathComponent:@"weights"];
    mkdir(place.UTF8String, 0700);
    mkdir(folder.UTF8String, 0700);
    [words writeToFile:[place stringByAppendingPathComponent:@"model.mil"] atomically:NO];
    [weights writeToFile:[folder stringByAppendingPathComponent:@"w.bin"] atomically:NO];
}

static _ANEInMemoryModel *staged(void) {
    _ANEInMemoryModel *model = model_of(text);
    stage(model, text, file);
    return model;
}

static _ANEInMemoryModel *compiled(void) {
    _ANEInMemoryModel *model = staged();
    return [model compileWithQoS:21 options:@{} error:NULL] ? model : nil;
}

static _ANEInMemoryModel *loaded(void) {
    _ANEInMemoryModel *model = compiled();
    return [model loadWithQoS:21 options:@{} error:NULL] ? model : nil;
}

static NSString *unloading(_ANEInMemoryModel *model, NSString *result) {
    return [model unloadWithQoS:21 error:NULL] ? result : @"the program was not loaded";
}

static NSString *compiling(_ANEInMemoryModel *model, unsigned int qos, id options) {
    NSError *error = nil;
    return call_answer([model compileWithQoS:qos options:options error:&error], error);
}

static NSString *loading(_ANEInMemoryModel *model, unsigned int qos, id options) {
    NSError *error = nil;
    return call_answer([model loadWithQoS:qos options:options error:&error], error);
}

/* --- requests --- */

static _ANEIOSurfaceObject *surface(size_t size) {
    NSDictionary *properties = @{
        (__bridge NSString *)kIOSurfaceWidth : @(size),
        (__bridge NSString *)kIOSurfaceHeight : @1,
    };
    IOSurfaceRef made = IOSurfaceCreate((__bridge CFDictionaryRef)properties);
    _ANEIOSurfaceObject *object = [named("_ANEIOSurfaceObject") objectWithIOSurface:made];
    CFRelease(made);
    return object;
}

static id request(NSArray *inputs, NSArray *indices, id stats, id procedure) {
    size_t size = SURFACE_SIZE;
    return [named("_ANERequest") requestWithInputs:inputs
                                      inputIndices:indices
                                           outputs:@[ surface(size), surface(size) ]
                                     outputIndices:@[ @0, @1 ]
                                     weightsBuffer:nil
                                         perfStats:stats
                                    procedureIndex:procedure];
}

static NSArray *two_surfaces(size_t size) {
    return @[ surface(size), surface(size) ];
}

static id good_request(void) {
    return request(two_surfaces(SURFACE_SIZE), @[ @0, @1 ], nil, @0);
}

static NSString *evaluating(_ANEInMemoryModel *model, unsigned int qos, id options, id bound) {
    NSError *error = nil;
    return call_answer([model evaluateWithQoS:qos options:options request:bound error:&error],
                       error);
}

static NSString *evaluating_once(unsigned int qos, id options, id bound) {
    _ANEInMemoryModel *model = loaded();
    return unloading(model, evaluating(model, qos, options, bound));
}

static NSString *evaluating_indices(NSArray *indices) {
    NSArray *surfaces =
        indices.count == 1 ? @[ surface(SURFACE_SIZE) ] : two_surfaces(SURFACE_SIZE);
    return evaluating_once(21, @{}, request(surfaces, indices, nil, @0));
}

static NSString *evaluating_stale(void) {
    _ANEInMemoryModel *model = loaded();
    _ANEModel *stale = model.model;
    unloading(model, nil);
    [model loadWithQoS:21 options:@{} error:NULL];
    NSError *error = nil;
    BOOL done = [stale evaluate:good_request() error:&error];
    return unloading(model, call_answer(done, error));
}

static NSString *loading_twice(void) {
    _ANEInMemoryModel *model = loaded();
    return unloading(model, loading(model, 21, @{}));
}

static NSString *unloading_with(_ANEInMemoryModel *model, unsigned int qos) {
    NSError *error = nil;
    return call_answer([model unloadWithQoS:qos error:&error], error);
}

static NSString *unloading_badly(unsigned int qos) {
    _ANEInMemoryModel *model = loaded();
    return unloading(model, unloading_with(model, qos));
}

static NSString *compiling_with(NSData *staged_text, NSData *staged_weights) {
    _ANEInMemoryModel *model = model_of(text);
    stage(model, staged_text, staged_weights);
    return compiling(model, 21, @{});
}

static NSString *compiling_text(NSString *words) {
    NSData *malformed = [words dataUsingEncoding:NSUTF8StringEncoding];
    _ANEInMemoryModel *model = model_of(malformed);
    stage(model, malformed, file);
    return compiling(model, 21, @{});
}

/* --- rules --- */

static const char *told(rule broken) {
    @autoreleasepool {
        @try {
            snprintf(answer, sizeof answer, "%s", broken().UTF8String);
        } @catch (NSException *thrown) {
            snprintf(answer, sizeof answer, "%s: %s", thrown.name.UTF8String,
                     thrown.reason.UTF8String);
        }
    }
    return answer;
}

void probe_prepare(const char *words, size_t length, const char *weights, size_t size) {
    @autoreleasepool {
        text = [NSData dataWithBytes:words length:length];
        file = [NSData dataWithBytes:weights length:size];
    }
}

void probe_finish(void) {
    text = file = nil;
}

#define RULE(name, ...)                                                                            \
    static NSString *name(void) {                                                                  \
        return __VA_ARGS__;                                                                        \
    }                                                                                              \
    const char *probe_##name(void) {                                                               \
        return told(name);                                                                         \
    }

RULE(all_as_known, evaluating_once(21, @{}, good_request()))
RULE(lowest_quality, compiling(staged(), 0, @{}))
RULE(highest_quality, compiling(staged(), 63, @{}))
RULE(default_quality, compiling(staged(), UINT32_MAX, @{}))
RULE(quality_to_compile, compiling(staged(), 64, @{}))
RULE(quality_to_load, loading(compiled(), 64, @{}))
RULE(quality_to_evaluate, evaluating_once(64, @{}, good_request()))
RULE(quality_to_unload, unloading_badly(64))
RULE(options_to_compile, compiling(staged(), 21, nil))
RULE(options_to_load, loading(compiled(), 21, @[]))
RULE(options_to_evaluate, evaluating(compiled(), 21, @"", good_request()))
RULE(known_option, compiling(staged(), 21, @{@"kANEFKeepModelMemoryWiredKey" : @YES}))
RULE(unknown_option, compiling(staged(), 21, @{@"Quickly" : @YES}))
RULE(text_as_string, object_answer(descriptor(@"program(1.3)", @{})))
RULE(text_of_nothing, object_answer(descriptor([NSData data], @{})))
RULE(weights_of_nil, object_answer(descriptor(text, nil)))
RULE(weight_path, object_answer(descriptor(text, @{@"w.bin" : entry(@0, file)})))
RULE(weight_offset, object_answer(descriptor(text, @{WEIGHTS : entry(@64, file)})))
RULE(weight_data, object_answer(descriptor(text, @{WEIGHTS : entry(@0, @"w")})))
RULE(weight_without_entry, object_answer(descriptor(text, @{WEIGHTS : file})))
RULE(nothing_staged, compiling(model_of(text), 21, @{}))
RULE(other_text_staged, compiling_with(file, file))
RULE(other_weights_staged, compiling_with(text, text))
RULE(malformed_text, compiling_text(@"program(1.3) {"))
RULE(load_before_compile, loading(staged(), 21, @{}))
RULE(load_twice, loading_twice())
RULE(unload_before_load, unloading_with(compiled(), 21))
RULE(evaluate_before_load, evaluating(compiled(), 21, @{}, good_request()))
RULE(evaluate_stale, evaluating_stale())
RULE(no_request, evaluating_once(21, @{}, @"request"))
RULE(statistics, object_answer(request(@[], @[], @"statistics", @0)))
RULE(procedure, object_answer(request(@[], @[], nil, nil)))
RULE(indices_missing, object_answer(request(two_surfaces(SURFACE_SIZE), @[ @0 ], nil, @0)))
RULE(indices_of_strings,
     object_answer(request(two_surfaces(SURFACE_SIZE), @[ @"0", @"1" ], nil, @0)))
RULE(surfaces_unwrapped, object_answer(request(@[ file, file ], @[ @0, @1 ], nil, @0)))
RULE(one_input, evaluating_indices(@[ @0 ]))
RULE(index_beyond, evaluating_indices(@[ @0, @2 ]))
RULE(index_twice, evaluating_indices(@[ @1, @1 ]))
RULE(small_surface, evaluating_once(21, @{}, request(two_surfaces(32768), @[ @0, @1 ], nil, @0)))
