/* _ANEClient.m: the connection through which loaded programs are evaluated on other paths. */
#import "standin.h"

@interface _ANEClient : NSObject
@end

@implementation _ANEClient

+ (instancetype)sharedConnection {
    return standin_gives_object("connection") ? [self new] : nil;
}

static BOOL is_loaded(id model, id options, NSError **error) {
    if (!standin_check_call(0, options, error)) return NO;
    if (![model isKindOfClass:[_ANEModel class]]) {
        [NSException raise:NSInvalidArgumentException format:@"not an _ANEModel"];
    }
    if (((_ANEModel *)model).loaded) return YES;
    return standin_refuse(error, STANDIN_DOMAIN, 8, @"Program Inference error");
}

- (BOOL)doEvaluateDirectWithModel:(_ANEModel *)model
                          options:(NSDictionary *)options
                          request:(_ANERequest *)request
                              qos:(unsigned int)qos
                            error:(NSError **)error {
    if (!standin_check_call(qos, options, error)) return NO;
    return is_loaded(model, options, error) && [model evaluate:request error:error];
}

- (BOOL)loadRealTimeModel:(_ANEModel *)model
                  options:(NSDictionary *)options
                      qos:(unsigned int)qos
                    error:(NSError **)error {
    if (!standin_go_on("realtime_load", error) || !standin_check_call(qos, options, error)) {
        return NO;
    }
    if (!is_loaded(model, options, error)) return NO;
    if (model.realTime) return standin_refuse(error, STANDIN_DOMAIN, 1, @"loaded for real time");
    model.realTime = YES;
    STANDIN_ADD(loads, 1);
    return YES;
}

- (BOOL)unloadRealTimeModel:(_ANEModel *)model
                    options:(NSDictionary *)options
                        qos:(unsigned int)qos
                      error:(NSError **)error {
    if (!standin_go_on("realtime_unload", error) || !standin_check_call(qos, options, error)) {
        return NO;
    }
    if (!is_loaded(model, options, error)) return NO;
    if (!model.realTime) return standin_refuse(error, STANDIN_DOMAIN, 1, @"not for real time");
    model.realTime = NO;
    STANDIN_ADD(unloads, 1);
    return YES;
}

- (BOOL)evaluateRealTimeWithModel:(_ANEModel *)model
                          options:(NSDictionary *)options
                          request:(_ANERequest *)request
                            error:(NSError **)error {
    if (!is_loaded(model, options, error)) return NO;
    if (model.realTime) return [model evaluate:request error:error];
    return standin_refuse(error, STANDIN_DOMAIN, 8, @"Program Inference error: not for real time");
}

@end
