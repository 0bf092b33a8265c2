/* _ANERequest.m: surfaces wrapped as objects, and requests, which bind them by their index. */
#import "standin.h"

@implementation _ANEIOSurfaceObject

+ (instancetype)objectWithIOSurface:(IOSurfaceRef)surface {
    if (!standin_gives_object("wrap") || !surface) return nil;
    _ANEIOSurfaceObject *made = [self new];
    made->_ioSurface = (IOSurfaceRef)CFRetain(surface);
    return made;
}

- (void)dealloc {
    if (_ioSurface) CFRelease(_ioSurface);
}

@end

@implementation _ANERequest

static BOOL all_are(NSArray *objects, Class wanted) {
    if (![objects isKindOfClass:[NSArray class]]) return NO;
    for (id object in objects) {
        if (![object isKindOfClass:wanted]) return NO;
    }
    return YES;
}

static BOOL are_bound(NSArray *surfaces, NSArray *indices) {
    return all_are(surfaces, [_ANEIOSurfaceObject class]) && all_are(indices, [NSNumber class]) &&
           surfaces.count == indices.count;
}

/* Statistics that are no array raise this exception (dev-erik). A buffer of weights was seen to do
 * nothing (maderix/ANE): here it is refused. */
+ (instancetype)requestWithInputs:(NSArray *)inputs
                     inputIndices:(NSArray *)inputIndices
                          outputs:(NSArray *)outputs
                    outputIndices:(NSArray *)outputIndices
                    weightsBuffer:(id)weightsBuffer
                        perfStats:(NSArray *)perfStats
                   procedureIndex:(NSNumber *)procedureIndex {
    if (!standin_gives_object("request") || weightsBuffer) return nil;
    if (!are_bound(inputs, inputIndices) || !are_bound(outputs, outputIndices)) return nil;
    if (perfStats && ![perfStats isKindOfClass:[NSArray class]]) {
        [NSException raise:NSInvalidArgumentException
                    format:@"-[%@ statType]: unrecognized selector", [perfStats class]];
    }
    if (![procedureIndex isKindOfClass:[NSNumber class]]) return nil;
    _ANERequest *made = [self new];
    made->_inputArray = [inputs copy];
    made->_inputIndexArray = [inputIndices copy];
    made->_outputArray = [outputs copy];
    made->_outputIndexArray = [outputIndices copy];
    made->_procedureIndex = procedureIndex;
    return made;
}

@end
