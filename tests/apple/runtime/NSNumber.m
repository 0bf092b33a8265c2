/* NSNumber.m: whole numbers and floating-point numbers. */
#import <Foundation/Foundation.h>

@interface NSNumber () {
  @package
    long long whole;
    double real;
    BOOL isReal;
}
@end

static NSNumber *make_whole(long long value) {
    NSNumber *number = [NSNumber alloc];
    number->whole = value;
    number->real = (double)value;
    return [number autorelease];
}

static NSNumber *make_real(double value) {
    NSNumber *number = [NSNumber alloc];
    number->whole = (long long)value;
    number->real = value;
    number->isReal = YES;
    return [number autorelease];
}

#define WHOLE(name, type)                                                                          \
    +(NSNumber *)numberWith##name : (type)value {                                                  \
        return make_whole((long long)value);                                                       \
    }

@implementation NSNumber

WHOLE(Char, char)
WHOLE(UnsignedChar, unsigned char)
WHOLE(Short, short)
WHOLE(UnsignedShort, unsigned short)
WHOLE(Int, int)
WHOLE(UnsignedInt, unsigned int)
WHOLE(Long, long)
WHOLE(UnsignedLong, unsigned long)
WHOLE(LongLong, long long)
WHOLE(UnsignedLongLong, unsigned long long)
WHOLE(Bool, BOOL)
WHOLE(Integer, NSInteger)
WHOLE(UnsignedInteger, NSUInteger)

+ (NSNumber *)numberWithFloat:(float)value {
    return make_real((double)value);
}

+ (NSNumber *)numberWithDouble:(double)value {
    return make_real(value);
}

- (int)intValue {
    return (int)whole;
}

- (unsigned int)unsignedIntValue {
    return (unsigned int)whole;
}

- (long long)longLongValue {
    return whole;
}

- (unsigned long long)unsignedLongLongValue {
    return (unsigned long long)whole;
}

- (NSInteger)integerValue {
    return (NSInteger)whole;
}

- (NSUInteger)unsignedIntegerValue {
    return (NSUInteger)whole;
}

- (double)doubleValue {
    return real;
}

- (BOOL)boolValue {
    return real != 0;
}

- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    return [self retain];
}

- (BOOL)isEqual:(id)object {
    if (![object isKindOfClass:[NSNumber class]]) return NO;
    NSNumber *other = object;
    return isReal || other->isReal ? real == other->real : whole == other->whole;
}

- (NSUInteger)hash {
    return (NSUInteger)whole;
}

- (NSString *)description {
    if (isReal) return [NSString stringWithFormat:@"%g", real];
    return [NSString stringWithFormat:@"%lld", whole];
}

@end
