/* _ANEDeviceInfo.m: a chip that does not exist. */
#import "standin.h"

@interface _ANEDeviceInfo : NSObject
@end

@implementation _ANEDeviceInfo

+ (BOOL)hasANE {
    return standin_go_on("device", NULL) && runtime_setting("ANE_STANDIN_HAS_ANE", 1) != 0;
}

+ (BOOL)isVirtualMachine {
    return runtime_setting("ANE_STANDIN_VIRTUAL", 0) != 0;
}

+ (unsigned int)numANEs {
    return 1;
}

+ (unsigned int)numANECores {
    return 16;
}

+ (NSString *)aneArchitectureType {
    return @"h16g";
}

+ (NSString *)aneSubType {
    return @"h16";
}

+ (NSString *)productName {
    return @"macOS";
}

+ (NSString *)buildVersion {
    return @"23A344";
}

@end
