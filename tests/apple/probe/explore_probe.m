/* explore_probe.m: classes that declare one of everything that a listing can hold. They are never
 * used. */
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>

typedef struct {
    unsigned int words[8];
} token;

struct inner {
    double ratio;
    struct inner *next;
};

struct outer {
    int number;
    struct inner held, *seen;
    struct unknown *unknown;
    char name[16], **names;
    union {
        float real;
        unsigned char bytes[4];
    } either;
    unsigned int first : 3, second : 5;
    void (*call)(int);
};

@protocol _ANEProbing
@property(nonatomic, readonly) unsigned long probed;
- (BOOL)probe:(NSString *)name error:(NSError **)error;
+ (instancetype)prober;
@optional
- (void)reply:(void (^)(BOOL, NSError *))reply;
+ (void)forget;
@end

@protocol Strange
- (int)strange;
@end

@class NSURL;

@interface _ANEProbe : NSObject <_ANEProbing, Strange> {
    struct outer _outer;
    struct inner *_inner;
    NSArray<Strange> *_list;
    id<Strange> _any;
    __weak NSObject *_weak;
    int _grid[2][3];
    const char *_text;
    Class _class;
    SEL _selector;
}
@property(class, nonatomic, readonly) BOOL shared;
@property(nonatomic, copy) NSString *name;
@property(strong) NSURL *url;
@property(nonatomic, weak) _ANEProbe *parent;
@property(nonatomic, unsafe_unretained) id raw;
@property(nonatomic, getter=isReady, setter=makeReady:) BOOL ready;
@property(copy) void (^handler)(NSError *);
@property(nonatomic, readonly) IOSurfaceRef surface;
@property(nonatomic) token mark;
@property(readonly) double computed;
@end

@implementation _ANEProbe

+ (instancetype)prober {
    return nil;
}

+ (BOOL)shared {
    return NO;
}

- (unsigned long)probed {
    return 0;
}

- (double)computed {
    return 0;
}

- (int)strange {
    return 0;
}

- (BOOL)probe:(NSString *)name error:(NSError **)error {
    return name && error;
}

- (token)tokenOf:(struct outer *)outer inner:(struct inner)inner {
    (void)outer;
    (void)inner;
    return _mark;
}

- (const void *)bytes:(char *)bytes out:(out long *)length shape:(const int (*)[4])shape {
    (void)length;
    (void)shape;
    return bytes;
}

- (void (^)(void))block:(id (^)(short))block and:(float)number {
    (void)block;
    (void)number;
    return nil;
}

- (oneway void)scalars:(char)a b:(unsigned char)b c:(unsigned short)c d:(long double)d e:(Class)e {
    (void)a;
    (void)b;
    (void)c;
    (void)d;
    (void)e;
}

@end

@interface _ANEProbeChild : _ANEProbe
@end

@implementation _ANEProbeChild
@end

/* Not private, so not listed. */
@interface PublicProbe : _ANEProbe
@end

@implementation PublicProbe
@end
