/* _ANEInMemoryModelDescriptor.m: MIL text and weight files that name themselves by their content.
 */
#import "standin.h"

@implementation _ANEInMemoryModelDescriptor

/* One entry of the weights, as all published code has it: the path in the text as the key, and
 * @{@"offset": @0, @"data": NSData} of the whole file. */
static BOOL is_weight(id path, id entry) {
    if (![path isKindOfClass:[NSString class]] || ![path hasPrefix:STANDIN_WEIGHT_PREFIX])
        return NO;
    if (![entry isKindOfClass:[NSDictionary class]]) return NO;
    id offset = entry[@"offset"], data = entry[@"data"];
    return [offset isKindOfClass:[NSNumber class]] && [offset integerValue] == 0 &&
           [data isKindOfClass:[NSData class]];
}

static BOOL are_weights(id weights) {
    if (![weights isKindOfClass:[NSDictionary class]]) return NO;
    for (id path in weights) {
        if (!is_weight(path, weights[path])) return NO;
    }
    return YES;
}

/* A text that is a string crashes or fails silently (Orion), as weights that are nil do (Orion,
 * imk): here both give nil. */
+ (instancetype)modelWithMILText:(NSData *)text
                         weights:(NSDictionary *)weights
                    optionsPlist:(NSData *)options {
    if (!standin_gives_object("descriptor")) return nil;
    if (![text isKindOfClass:[NSData class]] || !text.length || !are_weights(weights)) return nil;
    if (options && ![options isKindOfClass:[NSData class]]) return nil;
    _ANEInMemoryModelDescriptor *made = [self new];
    made->_networkText = [text copy];
    made->_weights = [weights copy];
    made->_optionsPlist = [options copy];
    return made;
}

- (NSString *)networkTextHash {
    char digest[STANDIN_DIGEST + 1] = "";
    standin_digest(digest, _networkText.bytes, _networkText.length);
    return [NSString stringWithUTF8String:digest];
}

/* Hashes of text, options and weights (maderix/ANE). */
- (NSString *)hexStringIdentifier {
    char options[STANDIN_DIGEST + 1] = "", weights[STANDIN_DIGEST + 1] = "";
    standin_digest(options, _optionsPlist.bytes, _optionsPlist.length);
    for (NSString *path in _weights) {
        NSData *data = _weights[path][@"data"];
        standin_digest(weights, path.UTF8String, path.length);
        standin_digest(weights, data.bytes, data.length);
    }
    return [NSString stringWithFormat:@"%@_%s_%s", self.networkTextHash, options, weights];
}

@end
