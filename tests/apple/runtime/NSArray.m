/* NSArray.m: arrays. */
#import <Foundation/Foundation.h>

#include <stdlib.h>

#include "runtime.h"

@interface NSArray () {
  @package
    id *items;
    NSUInteger count, capacity;
    unsigned long changes;
}
@end

static void append(NSArray *array, id object) {
    if (!object) [NSException raise:NSInvalidArgumentException format:@"nil put into an array"];
    if (array->count == array->capacity) {
        array->capacity = 2 * array->capacity + 4;
        array->items = realloc(array->items, array->capacity * sizeof *array->items);
        if (!array->items) rt_fatal("out of memory");
    }
    array->items[array->count++] = [object retain];
    array->changes++;
}

@implementation NSArray

+ (instancetype)array {
    return [self arrayWithObjects:NULL count:0];
}

+ (instancetype)arrayWithObject:(id)object {
    return [self arrayWithObjects:&object count:1];
}

+ (instancetype)arrayWithObjects:(const id[])objects count:(NSUInteger)length {
    NSArray *array = [[self new] autorelease];
    for (NSUInteger i = 0; i < length; i++) append(array, objects[i]);
    return array;
}

- (void)dealloc {
    for (NSUInteger i = 0; i < count; i++) [items[i] release];
    free(items);
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    if (object_getClass(self) == [NSArray class]) return [self retain];
    return [[NSArray arrayWithObjects:items count:count] retain];
}

- (id)mutableCopyWithZone:(NSZone *)zone {
    (void)zone;
    return [[NSMutableArray arrayWithObjects:items count:count] retain];
}

- (NSUInteger)count {
    return count;
}

- (id)firstObject {
    return count ? items[0] : nil;
}

- (id)objectAtIndex:(NSUInteger)index {
    if (index >= count) {
        [NSException raise:NSRangeException format:@"index %lu beyond %lu objects", index, count];
    }
    return items[index];
}

- (id)objectAtIndexedSubscript:(NSUInteger)index {
    return [self objectAtIndex:index];
}

- (NSUInteger)countByEnumeratingWithState:(NSFastEnumerationState *)state
                                  objects:(id __unsafe_unretained[])buffer
                                    count:(NSUInteger)length {
    (void)buffer, (void)length;
    if (state->state) return 0;
    state->state = 1;
    state->itemsPtr = items;
    state->mutationsPtr = &changes;
    return count;
}

- (BOOL)isEqual:(id)object {
    if (![object isKindOfClass:[NSArray class]]) return NO;
    NSArray *other = object;
    if (other->count != count) return NO;
    for (NSUInteger i = 0; i < count; i++) {
        if (![items[i] isEqual:other->items[i]]) return NO;
    }
    return YES;
}

- (NSUInteger)hash {
    return count;
}

@end

@implementation NSMutableArray

+ (instancetype)arrayWithCapacity:(NSUInteger)capacity {
    (void)capacity;
    return [self array];
}

- (void)addObject:(id)object {
    append(self, object);
}

@end

/* What clang emits for @[]. */
@interface NSEmptyArray : NSArray
@end

@implementation NSEmptyArray

- (instancetype)retain {
    return self;
}

- (oneway void)release {
}

- (instancetype)autorelease {
    return self;
}

@end

extern const struct objc_class emptyArrayClass __asm__("OBJC_CLASS_$_NSEmptyArray");
static struct {
    const void *isa;
    void *variables[8];
} emptyArray = {&emptyArrayClass, {0}};
void *const __NSArray0__ = &emptyArray;
