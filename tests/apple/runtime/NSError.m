/* NSError.m: errors and exceptions. */
#import <Foundation/Foundation.h>

#include "runtime.h"

NSErrorDomain const NSCocoaErrorDomain = @"NSCocoaErrorDomain";
NSErrorDomain const NSPOSIXErrorDomain = @"NSPOSIXErrorDomain";
NSErrorUserInfoKey const NSLocalizedDescriptionKey = @"NSLocalizedDescription";
NSErrorUserInfoKey const NSLocalizedFailureReasonErrorKey = @"NSLocalizedFailureReason";
NSErrorUserInfoKey const NSUnderlyingErrorKey = @"NSUnderlyingError";
NSExceptionName const NSInvalidArgumentException = @"NSInvalidArgumentException";
NSExceptionName const NSRangeException = @"NSRangeException";
NSExceptionName const NSGenericException = @"NSGenericException";

@implementation NSError {
    NSErrorDomain errorDomain;
    NSInteger errorCode;
    NSDictionary *information;
}

+ (instancetype)errorWithDomain:(NSErrorDomain)domain
                           code:(NSInteger)code
                       userInfo:(NSDictionary *)userInfo {
    NSError *error = [[self new] autorelease];
    error->errorDomain = [domain copy];
    error->errorCode = code;
    error->information = userInfo ? [userInfo copy] : [[NSDictionary dictionary] retain];
    return error;
}

- (void)dealloc {
    [errorDomain release];
    [information release];
    [super dealloc];
}

- (id)copyWithZone:(NSZone *)zone {
    (void)zone;
    return [self retain];
}

- (NSErrorDomain)domain {
    return errorDomain;
}

- (NSInteger)code {
    return errorCode;
}

- (NSDictionary *)userInfo {
    return information;
}

- (NSString *)localizedDescription {
    NSString *text = [information objectForKey:NSLocalizedDescriptionKey];
    if (text) return text;
    return [NSString stringWithFormat:@"The operation could not be completed. (%@ error %ld.)",
                                      errorDomain, errorCode];
}

- (NSString *)localizedFailureReason {
    return [information objectForKey:NSLocalizedFailureReasonErrorKey];
}

@end

@implementation NSException {
    NSExceptionName exceptionName;
    NSString *exceptionReason;
}

+ (NSException *)exceptionWithName:(NSExceptionName)name
                            reason:(NSString *)reason
                          userInfo:(NSDictionary *)userInfo {
    (void)userInfo;
    NSException *exception = [[self new] autorelease];
    exception->exceptionName = [name copy];
    exception->exceptionReason = [reason copy];
    return exception;
}

+ (void)raise:(NSExceptionName)name format:(NSString *)format, ... {
    va_list arguments;
    va_start(arguments, format);
    NSString *reason = rt_format(format, &arguments);
    va_end(arguments);
    [[self exceptionWithName:name reason:reason userInfo:nil] raise];
}

- (void)dealloc {
    [exceptionName release];
    [exceptionReason release];
    [super dealloc];
}

- (NSExceptionName)name {
    return exceptionName;
}

- (NSString *)reason {
    return exceptionReason;
}

- (NSString *)description {
    return exceptionReason ? exceptionReason : exceptionName;
}

- (void)raise {
    objc_exception_throw(self);
}

@end
