/* NSObject.m: the root class. */
#import <Foundation/Foundation.h>

#include "runtime.h"

@implementation NSObject

+ (instancetype)alloc {
    return rt_allocate(self);
}

+ (instancetype)new {
    return [[self alloc] init];
}

- (instancetype)init {
    return self;
}

- (void)dealloc {
    rt_dispose(self);
}

- (instancetype)retain {
    return rt_retain(self);
}

- (oneway void)release {
    rt_release(self);
}

- (instancetype)autorelease {
    return rt_autorelease(self);
}

- (NSUInteger)retainCount {
    return rt_retain_count(self);
}

/* Classes are objects that live for ever. */
+ (instancetype)retain {
    return (id)self;
}

+ (oneway void)release {
}

+ (instancetype)autorelease {
    return (id)self;
}

- (id)copy {
    return [(id<NSCopying>)self copyWithZone:NULL];
}

- (id)mutableCopy {
    return [(id<NSMutableCopying>)self mutableCopyWithZone:NULL];
}

- (BOOL)isEqual:(id)object {
    return self == object;
}

- (NSUInteger)hash {
    return (NSUInteger)self >> 4;
}

- (instancetype)self {
    return self;
}

- (Class)class {
    return object_getClass(self);
}

+ (Class)class {
    return self;
}

- (Class)superclass {
    return class_getSuperclass(object_getClass(self));
}

+ (Class)superclass {
    return class_getSuperclass(self);
}

- (BOOL)isKindOfClass:(Class)wanted {
    Class cls = object_getClass(self);
    while (cls && cls != wanted) cls = class_getSuperclass(cls);
    return cls != Nil;
}

- (BOOL)isMemberOfClass:(Class)wanted {
    return object_getClass(self) == wanted;
}

- (BOOL)respondsToSelector:(SEL)selector {
    return class_respondsToSelector(object_getClass(self), selector);
}

+ (BOOL)respondsToSelector:(SEL)selector {
    return class_respondsToSelector(object_getClass((id)self), selector);
}

+ (BOOL)instancesRespondToSelector:(SEL)selector {
    return class_respondsToSelector(self, selector);
}

- (void)doesNotRecognizeSelector:(SEL)selector {
    [NSException raise:NSInvalidArgumentException
                format:@"-[%s %s]: unrecognized selector sent to instance",
                       object_getClassName(self), sel_getName(selector)];
}

+ (void)doesNotRecognizeSelector:(SEL)selector {
    [NSException raise:NSInvalidArgumentException
                format:@"+[%s %s]: unrecognized selector sent to class", class_getName(self),
                       sel_getName(selector)];
}

- (NSString *)description {
    return [NSString stringWithFormat:@"<%s: %p>", object_getClassName(self), (void *)self];
}

+ (NSString *)description {
    return [NSString stringWithUTF8String:class_getName(self)];
}

@end

@interface Protocol : NSObject
@end

@implementation Protocol
@end
