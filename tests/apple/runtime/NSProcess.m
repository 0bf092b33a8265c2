/* NSProcess.m: the process, its temporary directory, names of classes, and CoreFoundation's
 * reference counting. */
#import <Foundation/Foundation.h>

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime.h"

@implementation NSProcessInfo

+ (NSProcessInfo *)processInfo {
    return [[self new] autorelease];
}

- (NSString *)operatingSystemVersionString {
    return @"Version 14.0 (Build 23A344)";
}

- (NSOperatingSystemVersion)operatingSystemVersion {
    return (NSOperatingSystemVersion){14, 0, 0};
}

- (int)processIdentifier {
    return getpid();
}

@end

NSString *NSTemporaryDirectory(void) {
    const char *folder = getenv("TMPDIR");
    if (!folder || !*folder) folder = "/tmp";
    const char *end = folder[strlen(folder) - 1] == '/' ? "" : "/";
    return [NSString stringWithFormat:@"%s%s", folder, end];
}

NSString *NSStringFromClass(Class cls) {
    return [NSString stringWithUTF8String:class_getName(cls)];
}

NSString *NSStringFromSelector(SEL selector) {
    return [NSString stringWithUTF8String:sel_getName(selector)];
}

SEL NSSelectorFromString(NSString *name) {
    return sel_registerName(name.UTF8String);
}

Class NSClassFromString(NSString *name) {
    return name ? objc_lookUpClass(name.UTF8String) : Nil;
}

CFTypeRef CFRetain(CFTypeRef object) {
    if (!object) rt_fatal("CFRetain of NULL");
    return [(id)object retain];
}

void CFRelease(CFTypeRef object) {
    if (!object) rt_fatal("CFRelease of NULL");
    [(id)object release];
}

CFIndex CFGetRetainCount(CFTypeRef object) {
    return (CFIndex)[(id)object retainCount];
}
