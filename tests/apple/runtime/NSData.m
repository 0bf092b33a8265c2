/* NSData.m: bytes, and files of them. */
#import <Foundation/Foundation.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime.h"

@interface NSData () {
  @package
    void *memory;
    NSUInteger size;
    BOOL owned;
}
@end

static void *require(void *memory) {
    if (!memory) rt_fatal("out of memory");
    return memory;
}

static BOOL write_file(const char *path, const void *bytes, size_t size) {
    FILE *file = fopen(path, "wb");
    if (!file) return NO;
    size_t written = fwrite(bytes, 1, size, file);
    return fclose(file) == 0 && written == size;
}

@implementation NSData

+ (instancetype)data {
    return [self dataWithBytes:NULL length:0];
}

+ (instancetype)dataWithBytes:(const void *)bytes length:(NSUInteger)length {
    void *copy = require(malloc(length + 1));
    if (length) memcpy(copy, bytes, length);
    return [self dataWithBytesNoCopy:copy length:length freeWhenDone:YES];
}

+ (instancetype)dataWithBytesNoCopy:(void *)bytes
                             length:(NSUInteger)length
                       freeWhenDone:(BOOL)freeWhenDone {
    NSData *data = [self alloc];
    data->memory = bytes;
    data->size = length;
    data->owned = freeWhenDone;
    return [data autorelease];
}

+ (instancetype)dataWithContentsOfFile:(NSString *)path {
    if (!path) [NSException raise:NSInvalidArgumentException format:@"nil path"];
    FILE *file = fopen(path.UTF8String, "rb");
    if (!file) return nil;
    fseek(file, 0, SEEK_END);
    size_t size = (size_t)ftell(file);
    rewind(file);
    char *bytes = require(malloc(size + 1));
    size_t read = fread(bytes, 1, size, file);
    fclose(file);
    return [self dataWithBytesNoCopy:bytes length:read freeWhenDone:YES];
}

- (void)dealloc {
    if (owned) free(memory);
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    if (object_getClass(self) == [NSData class]) return [self retain];
    return [[NSData dataWithBytes:memory length:size] retain];
}

- (NSUInteger)length {
    return size;
}

- (const void *)bytes {
    return memory;
}

- (BOOL)isEqualToData:(NSData *)other {
    return other && other->size == size && memcmp(other->memory, memory, size) == 0;
}

- (BOOL)isEqual:(id)object {
    return [object isKindOfClass:[NSData class]] && [self isEqualToData:object];
}

- (NSUInteger)hash {
    return size;
}

- (BOOL)writeToFile:(NSString *)path atomically:(BOOL)atomically {
    if (!atomically) return write_file(path.UTF8String, memory, size);
    NSString *temporary = [NSString stringWithFormat:@"%@.%d", path, getpid()];
    BOOL written = write_file(temporary.UTF8String, memory, size) &&
                   rename(temporary.UTF8String, path.UTF8String) == 0;
    if (!written) unlink(temporary.UTF8String);
    return written;
}

@end

@implementation NSMutableData

+ (instancetype)dataWithLength:(NSUInteger)length {
    void *zeros = require(calloc(1, length + 1));
    return [self dataWithBytesNoCopy:zeros length:length freeWhenDone:YES];
}

- (void *)mutableBytes {
    return memory;
}

- (void)appendBytes:(const void *)bytes length:(NSUInteger)length {
    memory = require(realloc(memory, size + length + 1));
    memcpy((char *)memory + size, bytes, length);
    size += length;
}

@end
