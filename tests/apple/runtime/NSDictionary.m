/* NSDictionary.m: dictionaries: two parallel arrays, searched from the start. */
#import <Foundation/Foundation.h>

#include <stdlib.h>

#include "runtime.h"

@interface NSDictionary () {
  @package
    id *keys, *values;
    NSUInteger count, capacity;
    unsigned long changes;
}
@end

static NSUInteger find(NSDictionary *dictionary, id key) {
    NSUInteger index = 0;
    while (index < dictionary->count && ![dictionary->keys[index] isEqual:key]) index++;
    return index;
}

static void grow(NSDictionary *dictionary) {
    dictionary->capacity = 2 * dictionary->capacity + 4;
    size_t size = dictionary->capacity * sizeof(id);
    dictionary->keys = realloc(dictionary->keys, size);
    dictionary->values = realloc(dictionary->values, size);
    if (!dictionary->keys || !dictionary->values) rt_fatal("out of memory");
}

static void put(NSDictionary *dictionary, id key, id value) {
    if (!key || !value) {
        [NSException raise:NSInvalidArgumentException format:@"nil put into a dictionary"];
    }
    NSUInteger index = find(dictionary, key);
    [value retain];
    if (index < dictionary->count) {
        [dictionary->values[index] release];
    } else {
        if (dictionary->count == dictionary->capacity) grow(dictionary);
        dictionary->keys[dictionary->count++] = [key copy];
        dictionary->changes++;
    }
    dictionary->values[index] = value;
}

@implementation NSDictionary

+ (instancetype)dictionary {
    return [self dictionaryWithObjects:NULL forKeys:NULL count:0];
}

+ (instancetype)dictionaryWithObjects:(const id[])objects
                              forKeys:(const id<NSCopying>[])keys
                                count:(NSUInteger)length {
    NSDictionary *dictionary = [[self new] autorelease];
    for (NSUInteger i = 0; i < length; i++) put(dictionary, keys[i], objects[i]);
    return dictionary;
}

- (void)dealloc {
    for (NSUInteger i = 0; i < count; i++) {
        [keys[i] release];
        [values[i] release];
    }
    free(keys);
    free(values);
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    if (object_getClass(self) == [NSDictionary class]) return [self retain];
    return [[NSDictionary dictionaryWithObjects:values forKeys:keys count:count] retain];
}

- (id)mutableCopyWithZone:(NSZone *)zone {
    (void)zone;
    return [[NSMutableDictionary dictionaryWithObjects:values forKeys:keys count:count] retain];
}

- (NSUInteger)count {
    return count;
}

- (NSArray *)allKeys {
    return [NSArray arrayWithObjects:keys count:count];
}

- (id)objectForKey:(id)key {
    NSUInteger index = find(self, key);
    return index < count ? values[index] : nil;
}

- (id)objectForKeyedSubscript:(id)key {
    return [self objectForKey:key];
}

- (NSUInteger)countByEnumeratingWithState:(NSFastEnumerationState *)state
                                  objects:(id __unsafe_unretained[])buffer
                                    count:(NSUInteger)length {
    (void)buffer, (void)length;
    if (state->state) return 0;
    state->state = 1;
    state->itemsPtr = keys;
    state->mutationsPtr = &changes;
    return count;
}

- (BOOL)isEqual:(id)object {
    if (![object isKindOfClass:[NSDictionary class]]) return NO;
    NSDictionary *other = object;
    if (other->count != count) return NO;
    for (NSUInteger i = 0; i < count; i++) {
        if (![values[i] isEqual:[other objectForKey:keys[i]]]) return NO;
    }
    return YES;
}

- (NSUInteger)hash {
    return count;
}

@end

@implementation NSMutableDictionary

+ (instancetype)dictionaryWithCapacity:(NSUInteger)capacity {
    (void)capacity;
    return [self dictionary];
}

- (void)setObject:(id)object forKey:(id)key {
    put(self, key, object);
}

- (void)setObject:(id)object forKeyedSubscript:(id)key {
    put(self, key, object);
}

@end

/* What clang emits for @{}. */
@interface NSEmptyDictionary : NSDictionary
@end

@implementation NSEmptyDictionary

- (instancetype)retain {
    return self;
}

- (oneway void)release {
}

- (instancetype)autorelease {
    return self;
}

@end

extern const struct objc_class emptyDictionaryClass __asm__("OBJC_CLASS_$_NSEmptyDictionary");
static struct {
    const void *isa;
    void *variables[8];
} emptyDictionary = {&emptyDictionaryClass, {0}};
void *const __NSDictionary0__ = &emptyDictionary;
