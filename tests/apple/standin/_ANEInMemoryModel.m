/* _ANEInMemoryModel.m: a program from text in memory: staged files, compile, load, evaluate,
 * unload, in the one order that Apple's class takes. Domains, codes and words are those that were
 * published for what goes wrong; where nothing is published, the code is 1. */
#import "standin.h"

#include <stdlib.h>
#include <string.h>

static NSDictionary *last_compiled;

@implementation _ANEInMemoryModel {
    _ANEModel *_model;
    _ANEInMemoryModelDescriptor *_descriptor;
    computation *_compiled;
}

+ (instancetype)inMemoryModelWithDescriptor:(_ANEInMemoryModelDescriptor *)descriptor {
    if (!standin_gives_object("model")) return nil;
    if (![descriptor isKindOfClass:[_ANEInMemoryModelDescriptor class]]) return nil;
    _ANEInMemoryModel *made = [self new];
    made->_descriptor = descriptor;
    return made;
}

- (void)dealloc {
    computation_release(_compiled);
}

- (NSString *)hexStringIdentifier {
    return standin_gives_object("identifier") ? _descriptor.hexStringIdentifier : nil;
}

- (NSString *)localModelPath {
    return [NSTemporaryDirectory() stringByAppendingPathComponent:_descriptor.hexStringIdentifier];
}

- (_ANEModel *)model {
    return standin_gives_object("inner_model") ? _model : nil;
}

- (NSDictionary *)modelAttributes {
    return _model.modelAttributes;
}

- (BOOL)compiledModelExists {
    return [NSData dataWithContentsOfFile:[self pathOf:@"net.plist"]] != nil;
}

/* --- files --- */

- (NSString *)pathOf:(NSString *)name {
    return [self.localModelPath stringByAppendingPathComponent:name];
}

static NSString *file_name(NSString *weight) {
    return [weight substringFromIndex:STANDIN_WEIGHT_PREFIX.length];
}

/* The translator reads files although it was given the bytes (Orion, tmc/apple). Its domain and
 * code were seen where a file is missing; that files of other contents are refused is our own rule.
 */
- (BOOL)isStaged:(NSError **)error {
    NSData *text = [NSData dataWithContentsOfFile:[self pathOf:@"model.mil"]];
    if (![text isEqualToData:_descriptor.networkText]) {
        return standin_refuse(error, STANDIN_ESPRESSO_DOMAIN, -1,
                              @"_ANEEspressoIRTranslator : error Cannot load network: model.mil");
    }
    for (NSString *weight in _descriptor.weights) {
        NSData *staged = [NSData dataWithContentsOfFile:[self pathOf:file_name(weight)]];
        if ([staged isEqualToData:_descriptor.weights[weight][@"data"]]) continue;
        NSString *reason =
            [NSString stringWithFormat:@"Cannot load network: %@", file_name(weight)];
        return standin_refuse(error, STANDIN_ESPRESSO_DOMAIN, -1, reason);
    }
    return YES;
}

/* net.plist is a function of the text alone; `data` holds the first weight file (Orion). */
- (BOOL)writeCompiledForm {
    NSData *plan = [_descriptor.networkTextHash dataUsingEncoding:NSUTF8StringEncoding];
    BOOL written = [plan writeToFile:[self pathOf:@"net.plist"] atomically:YES];
    for (NSString *weight in _descriptor.weights) {
        NSData *data = _descriptor.weights[weight][@"data"];
        return written && [data writeToFile:[self pathOf:@"data"] atomically:YES];
    }
    return written;
}

/* The bytes that a load without compile uses: `data` for the first file, staged files for others.
 */
- (NSDictionary *)filesOnDisk {
    NSMutableDictionary *files = [NSMutableDictionary dictionary];
    for (NSString *weight in _descriptor.weights) {
        NSString *name = files.count ? file_name(weight) : @"data";
        NSData *bytes = [NSData dataWithContentsOfFile:[self pathOf:name]];
        if (!bytes) return nil;
        files[weight] = @{@"data" : bytes};
    }
    return files;
}

- (BOOL)build:(NSDictionary *)weights error:(NSError **)error {
    ane_weight_file *files = calloc(weights.count + 1, sizeof *files);
    size_t count = 0;
    for (NSString *weight in weights) {
        NSData *bytes = weights[weight][@"data"];
        files[count++] = (ane_weight_file){weight.UTF8String, bytes.bytes, bytes.length};
    }
    ane_error_info info = {0};
    NSData *text = _descriptor.networkText;
    computation_release(_compiled);
    _compiled = computation_create(text.bytes, text.length, files, count, &info);
    free(files);
    if (_compiled) return YES;
    NSString *reason = [NSString
        stringWithFormat:@"_ANECompiler : ANECCompile() FAILED: err=(InvalidMILProgram): %s",
                         info.text];
    return standin_refuse(error, STANDIN_COMPILER_DOMAIN, 1, reason);
}

/* --- calls --- */

/* About 119 compiles per process (maderix/ANE, Orion, libane); what is beyond fails without a
 * reason (libane). Loading a donor's compiled form does not count (Orion). */
- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error {
    if (!standin_go_on("compile", error) || !standin_check_call(qos, options, error)) return NO;
    if (STANDIN_ADD(compiles, 1) > runtime_setting("ANE_STANDIN_COMPILE_LIMIT", 119)) {
        return standin_refuse(error, STANDIN_COMPILER_DOMAIN, 1,
                              @"_ANECompiler : ANECCompile() FAILED: err=()");
    }
    if (![self isStaged:error] || ![self build:_descriptor.weights error:error]) return NO;
    if (getenv("ANE_STANDIN_DELTA")) last_compiled = _descriptor.weights;
    if ([self writeCompiledForm]) return YES;
    return standin_refuse(error, STANDIN_COMPILER_DOMAIN, 1, @"cannot write net.plist");
}

/* ANE_STANDIN_DELTA=stale: the weights of the last compile stay, as some reports have it;
 * =refused: no such load is taken. */
- (NSDictionary *)filesOfCompiledForm {
    const char *way = getenv("ANE_STANDIN_DELTA");
    if (!way) return [self filesOnDisk];
    return strcmp(way, "stale") == 0 ? last_compiled : nil;
}

/* A load without a compile takes what lies in the directory (Orion); code 10 is that of a directory
 * without a valid model (omlx). */
- (BOOL)takeCompiledForm:(NSError **)error {
    NSData *plan = [NSData dataWithContentsOfFile:[self pathOf:@"net.plist"]];
    NSData *own = [_descriptor.networkTextHash dataUsingEncoding:NSUTF8StringEncoding];
    NSDictionary *files = [self filesOfCompiledForm];
    if ([plan isEqualToData:own] && files) return [self build:files error:error];
    return standin_refuse(error, STANDIN_DOMAIN, 10, @"verifyBundleAtPath: invalid model");
}

/* 0x50004 is what too many loaded programs give (ANEgpt); up to 300 at a time were published. */
- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error {
    if (!standin_go_on("load", error) || !standin_check_call(qos, options, error)) return NO;
    if (_model) return standin_refuse(error, STANDIN_DOMAIN, 1, @"the program is loaded");
    if (!_compiled && ![self takeCompiledForm:error]) return NO;
    if (STANDIN_ADD(loads, 1) - standin_count.unloads >
        runtime_setting("ANE_STANDIN_LOAD_LIMIT", 300)) {
        STANDIN_ADD(loads, -1);
        return standin_refuse(error, STANDIN_DOMAIN, 0x50004,
                              @"ANEProgramCreate() Failed: Program load failure (0x50004)");
    }
    _model = [[_ANEModel alloc] initWithComputation:_compiled];
    return YES;
}

- (BOOL)evaluateWithQoS:(unsigned int)qos
                options:(NSDictionary *)options
                request:(_ANERequest *)request
                  error:(NSError **)error {
    if (!standin_check_call(qos, options, error)) return NO;
    if (_model) return [_model evaluate:request error:error];
    return standin_refuse(error, STANDIN_DOMAIN, 8, @"Program Inference error: not loaded");
}

- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error {
    if (!standin_go_on("unload", error) || !standin_check_call(qos, @{}, error)) return NO;
    if (!_model) return standin_refuse(error, STANDIN_DOMAIN, 1, @"the program is not loaded");
    _model.loaded = NO;
    _model = nil;
    STANDIN_ADD(unloads, 1);
    return YES;
}

@end
