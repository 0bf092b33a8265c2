/* NSString.m: strings, kept as UTF-8. Lengths and positions count bytes, so a string that is not
 * ASCII is refused where they would differ from Apple's. */
#import <Foundation/Foundation.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "runtime.h"

@interface NSString () {
  @package
    char *text;
}
@end

/* What clang emits for @"...": its memory is the compiler's. */
@interface NSConstantString : NSString
@end

struct constant_string {
    Class isa;
    int flags;
    const char *text;
    long length;
};

#define UTF8_FLAGS 0x7c8

__asm__(".globl __CFConstantStringClassReference\n"
        ".set __CFConstantStringClassReference, OBJC_CLASS_$_NSConstantString");

static NSString *take_text(char *text) {
    NSString *string = [NSString alloc];
    string->text = text;
    return [string autorelease];
}

static NSString *copy_text(const char *text, size_t length) {
    char *copy = strndup(text, length);
    if (!copy) rt_fatal("out of memory");
    return take_text(copy);
}

static void require_ascii(const char *text) {
    for (; *text; text++) {
        if ((unsigned char)*text >= 0x80) rt_fatal("positions in a string that is not ASCII");
    }
}

static bool is_utf8(const char *text) {
    for (const unsigned char *at = (const unsigned char *)text; *at; at++) {
        int more = *at < 0x80 ? 0 : *at < 0xc2 ? -1 : *at < 0xe0 ? 1 : *at < 0xf0 ? 2 : 3;
        if (more < 0 || *at > 0xf4) return false;
        while (more-- > 0) {
            if ((*++at & 0xc0) != 0x80) return false;
        }
    }
    return true;
}

/* --- formats --- */

static void print_one(FILE *out, const char *piece, va_list *arguments) {
    char kind = piece[strlen(piece) - 1];
    bool is_long = strpbrk(piece, "lzqtj") != NULL;
    if (strchr("dic", kind) && is_long)
        fprintf(out, piece, va_arg(*arguments, long));
    else if (strchr("dic", kind))
        fprintf(out, piece, va_arg(*arguments, int));
    else if (strchr("ouxX", kind) && is_long)
        fprintf(out, piece, va_arg(*arguments, unsigned long));
    else if (strchr("ouxX", kind))
        fprintf(out, piece, va_arg(*arguments, unsigned));
    else if (strchr("aefgAEFG", kind))
        fprintf(out, piece, va_arg(*arguments, double));
    else if (kind == 's')
        fprintf(out, piece, va_arg(*arguments, const char *));
    else if (kind == 'p')
        fprintf(out, piece, va_arg(*arguments, void *));
    else if (kind == '@') {
        id object = va_arg(*arguments, id);
        fputs(object ? [[object description] UTF8String] : "(null)", out);
    } else
        rt_fatal("format %s is not supported", piece);
}

NSString *rt_format(NSString *format, va_list *arguments) {
    char *result = NULL;
    size_t length = 0;
    FILE *out = open_memstream(&result, &length);
    for (const char *at = [format UTF8String]; *at;) {
        size_t plain = strcspn(at, "%");
        fwrite(at, 1, plain, out);
        at += plain;
        if (at[0] == '%' && at[1] == '%') {
            fputc('%', out);
            at += 2;
        } else if (at[0] == '%') {
            char piece[32] = "";
            size_t size = 1 + strcspn(at + 1, "dicouxXaefgAEFGsp@");
            if (size + 1 >= sizeof piece || !at[size]) rt_fatal("format %s is not supported", at);
            memcpy(piece, at, size + 1);
            print_one(out, piece, arguments);
            at += size + 1;
        }
    }
    fclose(out);
    return take_text(result);
}

@implementation NSString

+ (instancetype)string {
    return copy_text("", 0);
}

+ (instancetype)stringWithUTF8String:(const char *)text {
    if (!text) [NSException raise:NSInvalidArgumentException format:@"a string from NULL"];
    return is_utf8(text) ? copy_text(text, strlen(text)) : nil;
}

+ (instancetype)stringWithFormat:(NSString *)format, ... {
    va_list arguments;
    va_start(arguments, format);
    NSString *string = rt_format(format, &arguments);
    va_end(arguments);
    return string;
}

- (instancetype)initWithBytes:(const void *)bytes
                       length:(NSUInteger)length
                     encoding:(NSStringEncoding)encoding {
    (void)encoding;
    text = strndup(bytes, length);
    if (is_utf8(text)) return self;
    [self release];
    return nil;
}

- (instancetype)initWithData:(NSData *)data encoding:(NSStringEncoding)encoding {
    return [self initWithBytes:data.bytes length:data.length encoding:encoding];
}

- (void)dealloc {
    free(text);
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    return [self retain];
}

- (const char *)UTF8String {
    return text;
}

- (const char *)fileSystemRepresentation {
    return self.UTF8String;
}

- (NSUInteger)length {
    require_ascii(self.UTF8String);
    return strlen(self.UTF8String);
}

- (NSString *)description {
    return self;
}

- (BOOL)isEqualToString:(NSString *)string {
    return string && strcmp(self.UTF8String, string.UTF8String) == 0;
}

- (BOOL)isEqual:(id)object {
    return [object isKindOfClass:[NSString class]] && [self isEqualToString:object];
}

- (NSUInteger)hash {
    NSUInteger hash = 5381;
    for (const char *at = self.UTF8String; *at; at++) hash = 33 * hash ^ (unsigned char)*at;
    return hash;
}

- (BOOL)hasPrefix:(NSString *)string {
    const char *prefix = string.UTF8String;
    return *prefix && strncmp(self.UTF8String, prefix, strlen(prefix)) == 0;
}

- (BOOL)hasSuffix:(NSString *)string {
    const char *suffix = string.UTF8String;
    size_t length = strlen(self.UTF8String), tail = strlen(suffix);
    return tail && length >= tail && strcmp(self.UTF8String + length - tail, suffix) == 0;
}

- (BOOL)containsString:(NSString *)string {
    return strstr(self.UTF8String, string.UTF8String) != NULL;
}

- (NSString *)substringFromIndex:(NSUInteger)from {
    if (from > self.length) [NSException raise:NSRangeException format:@"index out of bounds"];
    return copy_text(self.UTF8String + from, self.length - from);
}

- (NSString *)substringToIndex:(NSUInteger)to {
    if (to > self.length) [NSException raise:NSRangeException format:@"index out of bounds"];
    return copy_text(self.UTF8String, to);
}

- (NSString *)stringByAppendingString:(NSString *)string {
    if (!string) [NSException raise:NSInvalidArgumentException format:@"nil was appended"];
    return [NSString stringWithFormat:@"%@%@", self, string];
}

- (NSString *)stringByAppendingPathComponent:(NSString *)component {
    if (!component) [NSException raise:NSInvalidArgumentException format:@"nil was appended"];
    const char *path = self.UTF8String;
    size_t length = strlen(path);
    while (length > 1 && path[length - 1] == '/') length--;
    if (!length) return component;
    const char *separator = path[length - 1] == '/' ? "" : "/";
    return [NSString stringWithFormat:@"%@%s%@", copy_text(path, length), separator, component];
}

- (NSString *)lastPathComponent {
    const char *slash = strrchr(self.UTF8String, '/');
    return slash ? copy_text(slash + 1, strlen(slash + 1)) : self;
}

- (NSString *)stringByDeletingLastPathComponent {
    const char *path = self.UTF8String, *slash = strrchr(path, '/');
    if (!slash) return @"";
    return copy_text(path, slash == path ? 1 : (size_t)(slash - path));
}

- (NSArray *)componentsSeparatedByString:(NSString *)separator {
    NSMutableArray *parts = [NSMutableArray arrayWithCapacity:2];
    const char *at = self.UTF8String, *next;
    while ((next = strstr(at, separator.UTF8String))) {
        [parts addObject:copy_text(at, (size_t)(next - at))];
        at = next + strlen(separator.UTF8String);
    }
    [parts addObject:copy_text(at, strlen(at))];
    return parts;
}

- (NSData *)dataUsingEncoding:(NSStringEncoding)encoding {
    (void)encoding;
    return [NSData dataWithBytes:self.UTF8String length:strlen(self.UTF8String)];
}

@end

@implementation NSConstantString

- (const char *)UTF8String {
    const struct constant_string *constant = (const struct constant_string *)self;
    if (constant->flags != UTF8_FLAGS) rt_fatal("a constant string that is not ASCII");
    return constant->text;
}

- (instancetype)retain {
    return self;
}

- (oneway void)release {
}

- (instancetype)autorelease {
    return self;
}

@end
