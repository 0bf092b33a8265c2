/* runtime_probe.m: exercises the runtime as code compiled for Apple's would. Every function runs
 * one case and answers with a number, or ends the process. */
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>
#import <objc/message.h>
#import <objc/runtime.h>

#include <string.h>

@interface Counted : NSObject
@property(nonatomic, strong) Counted *next;
@property(nonatomic, weak) Counted *back;
@property(nonatomic, copy) NSString *name;
@end

@implementation Counted

+ (Counted *)fresh {
    return [self new];
}

- (double)sumOf:(double)a and:(int)b and:(float)c {
    return a + b + (double)c;
}

@end

/* --- reference counting --- */

int probe_chain(void) {
    @autoreleasepool {
        Counted *first = [Counted fresh];
        first.next = [Counted fresh];
        first.next.back = first;
        first.name = [NSString stringWithFormat:@"%d-%s-%@", 7, "x", @3];
        NSMutableArray *all = [NSMutableArray array];
        for (int i = 0; i < 10; i++) [all addObject:[Counted fresh]];
        NSDictionary *nested = @{@"list" : all, @"empty" : @{}, @"none" : @[]};
        int count = 0;
        for (Counted *each in nested[@"list"]) count += each != first;
        return count == 10 && [first.name isEqualToString:@"7-x-3"] && first.next.back == first;
    }
}

int probe_weak_is_cleared(void) {
    __weak Counted *seen = nil;
    @autoreleasepool {
        Counted *strong = [Counted fresh];
        seen = strong;
        if (seen != strong) return 0;
    }
    return seen == nil;
}

/* Answers how many objects stayed alive. */
int probe_without_pool(void) {
    NSString *text = [NSString stringWithFormat:@"%d", 1];
    return text.length == 1;
}

void probe_double_release(void) {
    void *raw = (__bridge_retained void *)[Counted new];
    CFRelease(raw);
    CFRelease(raw);
}

void probe_message_to_the_dead(void) {
    void *raw = (__bridge_retained void *)[Counted new];
    CFRelease(raw);
    [(__bridge Counted *)raw setName:@"x"];
}

void probe_change_while_enumerating(void) {
    @autoreleasepool {
        NSMutableArray *list = [NSMutableArray array];
        [list addObject:@1];
        [list addObject:@2];
        for (NSNumber *each in list) [list addObject:each];
    }
}

/* --- messages --- */

int probe_messages(void) {
    @autoreleasepool {
        Counted *object = [Counted new];
        SEL selector = @selector(sumOf:and:and:);
        double sum = ((double (*)(id, SEL, double, int, float))objc_msgSend)(object, selector, 0.5,
                                                                             2, 0.25f);
        Counted *nothing = nil;
        return sum == 2.75 && [nothing sumOf:1 and:1 and:1] == 0 &&
               NSProcessInfo.processInfo.operatingSystemVersion.majorVersion == 14;
    }
}

int probe_type_encodings(void) {
    Method method = class_getInstanceMethod([Counted class], @selector(sumOf:and:and:));
    Method own = class_getClassMethod([Counted class], @selector(fresh));
    return strncmp(method_getTypeEncoding(method), "d", 1) == 0 &&
           strstr(method_getTypeEncoding(method), "@0:8d16") && own &&
           !class_getInstanceMethod([Counted class], @selector(fresh));
}

/* --- exceptions --- */

static int depth_when_caught(int depth) {
    @autoreleasepool {
        Counted *kept = [Counted fresh];
        kept.next = [Counted fresh];
        if (depth > 0) return depth_when_caught(depth - 1) + (kept.next != nil);
        [NSException raise:NSRangeException format:@"at %d", depth];
        return 0;
    }
}

int probe_exceptions(void) {
    @autoreleasepool {
        int finally = 0, caught = 0;
        @try {
            @try {
                depth_when_caught(5);
            } @finally {
                finally = 1;
            }
        } @catch (NSException *exception) {
            caught = [exception.name isEqualToString:NSRangeException] &&
                     [exception.reason isEqualToString:@"at 0"];
        }
        return finally && caught;
    }
}

int probe_rethrow(void) {
    @autoreleasepool {
        int inner = 0;
        @try {
            @try {
                [(id)[Counted fresh] addObject:@1];
            } @catch (NSException *exception) {
                inner = [exception.reason hasPrefix:@"-["];
                @throw;
            }
        } @catch (id any) {
            return inner && [any isKindOfClass:[NSException class]];
        }
        return 0;
    }
}

int probe_synchronized(void) {
    @autoreleasepool {
        Counted *monitor = [Counted new];
        @try {
            @synchronized(monitor) {
                @synchronized(monitor) {
                    [NSException raise:NSGenericException format:@"inside"];
                }
            }
        } @catch (NSException *exception) {
            @synchronized(monitor) {
                return 1;
            }
        }
        return 0;
    }
}

/* --- blocks --- */

int probe_blocks(void) {
    @autoreleasepool {
        __block int total = 0;
        Counted *captured = [Counted fresh];
        captured.name = @"abc";
        void (^add)(int) = ^(int by) {
          total += by * (int)captured.name.length;
        };
        NSMutableArray *kept = [NSMutableArray array];
        [kept addObject:[add copy]];
        add(1);
        ((void (^)(int))kept[0])(2);
        return total == 9;
    }
}

/* --- collections and files --- */

int probe_collections(void) {
    @autoreleasepool {
        NSMutableDictionary *weights = [NSMutableDictionary dictionary];
        weights[@"a"] = [NSData dataWithBytes:"12" length:2];
        weights[@"a"] = [NSData dataWithBytes:"34" length:2];
        NSDictionary *copy = [weights copy];
        weights[@"b"] = [NSMutableData dataWithLength:3];
        int refused = 0;
        @try {
            weights[@"c"] = [weights[@"zzz"] copy];
        } @catch (NSException *exception) {
            refused = 1;
        }
        return copy.count == 1 && weights.count == 2 && refused &&
               [copy[@"a"] isEqual:[NSData dataWithBytes:"34" length:2]];
    }
}

int probe_files(const char *folder) {
    @autoreleasepool {
        NSString *path = [NSString stringWithUTF8String:folder];
        NSString *file = [path stringByAppendingPathComponent:@"x.bin"];
        NSData *data = [NSData dataWithBytes:"hello" length:5];
        BOOL written = [data writeToFile:file atomically:YES];
        return written && [[NSData dataWithContentsOfFile:file] isEqualToData:data] &&
               [file.stringByDeletingLastPathComponent isEqualToString:path] &&
               [NSTemporaryDirectory() hasSuffix:@"/"];
    }
}

/* --- surfaces --- */

static IOSurfaceRef make_surface(size_t bytes) {
    NSDictionary *properties = @{
        (__bridge NSString *)kIOSurfaceWidth : @(bytes),
        (__bridge NSString *)kIOSurfaceHeight : @1,
        (__bridge NSString *)kIOSurfaceAllocSize : @(bytes),
    };
    return IOSurfaceCreate((__bridge CFDictionaryRef)properties);
}

/* Writes `size` bytes at `offset` of a surface of 16384 bytes. */
int probe_surface_write(size_t offset, size_t size, int locks, int unlocks) {
    @autoreleasepool {
        IOSurfaceRef surface = make_surface(16384);
        for (int i = 0; i < locks; i++) IOSurfaceLock(surface, 0, NULL);
        memset((char *)IOSurfaceGetBaseAddress(surface) + offset, 1, size);
        for (int i = 0; i < unlocks; i++) IOSurfaceUnlock(surface, 0, NULL);
        int rounded = IOSurfaceGetAllocSize(surface) == 16384;
        CFRelease(surface);
        return rounded;
    }
}

/* Writes to memory after its lock is gone. */
int probe_surface_write_late(void) {
    @autoreleasepool {
        IOSurfaceRef surface = make_surface(100);
        IOSurfaceLock(surface, 0, NULL);
        volatile char *base = IOSurfaceGetBaseAddress(surface);
        IOSurfaceUnlock(surface, 0, NULL);
        base[0] = 1;
        CFRelease(surface);
        return 1;
    }
}
