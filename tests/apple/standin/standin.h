/* standin.h: the private classes as the stand-in has them, and what its files share. Section
 * headings name the file that defines each part. */
#pragma once

#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>

#include "../runtime/failure.h"
#include "computation.h"

#define STANDIN_DOMAIN @"com.apple.appleneuralengine"
#define STANDIN_COMPILER_DOMAIN @"com.apple.appleneuralengine.compiler"
#define STANDIN_ESPRESSO_DOMAIN @"com.apple.appleneuralengine.espresso"
#define STANDIN_WEIGHT_PREFIX @"@model_path/"

/* --- counts.m --- */

typedef struct standin_counts {
    long compiles, loads, unloads, evaluations;
} standin_counts;

extern standin_counts standin_count; /* changed with __atomic_add_fetch only */
#define STANDIN_ADD(counter, by) __atomic_add_fetch(&standin_count.counter, by, __ATOMIC_SEQ_CST)

/* Sets *error, where there is a place for it, and returns NO. */
BOOL standin_refuse(NSError **error, NSString *domain, NSInteger code, NSString *text);
/* Whether the call is to go on: NO with an error, or an exception, where a failure is asked for. */
BOOL standin_go_on(const char *call, NSError **error);
/* The same for calls that answer nil. */
BOOL standin_gives_object(const char *call);
/* NO with an error where quality of service or options are not what Apple's classes take. */
BOOL standin_check_call(unsigned int qos, id options, NSError **error);

/* --- digest.c --- */

#define STANDIN_DIGEST 64
/* 64 hexadecimal digits and a zero, from what was there before and the bytes. "" to begin. */
void standin_digest(char digest[STANDIN_DIGEST + 1], const void *bytes, size_t size);

/* --- the classes --- */

@interface _ANEInMemoryModelDescriptor : NSObject
@property(nonatomic, readonly) NSData *networkText;
@property(nonatomic, readonly) NSDictionary *weights;
@property(nonatomic, readonly) NSData *optionsPlist;
@property(nonatomic, readonly) NSString *hexStringIdentifier;
@property(nonatomic, readonly) NSString *networkTextHash;
+ (instancetype)modelWithMILText:(NSData *)text
                         weights:(NSDictionary *)weights
                    optionsPlist:(NSData *)options;
@end

@interface _ANEIOSurfaceObject : NSObject
@property(nonatomic, readonly) IOSurfaceRef ioSurface;
+ (instancetype)objectWithIOSurface:(IOSurfaceRef)surface;
@end

@interface _ANERequest : NSObject
@property(nonatomic, readonly) NSArray<_ANEIOSurfaceObject *> *inputArray, *outputArray;
@property(nonatomic, readonly) NSArray<NSNumber *> *inputIndexArray, *outputIndexArray;
@property(nonatomic, readonly) NSNumber *procedureIndex;
+ (instancetype)requestWithInputs:(NSArray *)inputs
                     inputIndices:(NSArray *)inputIndices
                          outputs:(NSArray *)outputs
                    outputIndices:(NSArray *)outputIndices
                    weightsBuffer:(id)weightsBuffer
                        perfStats:(NSArray *)perfStats
                   procedureIndex:(NSNumber *)procedureIndex;
@end

/* What is loaded: a new one for each load, so that one kept from an earlier load is stale. */
@interface _ANEModel : NSObject
@property(nonatomic, readonly) NSDictionary *modelAttributes;
@property(nonatomic) BOOL loaded, realTime;
- (instancetype)initWithComputation:(computation *)shared;
- (BOOL)evaluate:(id)request error:(NSError **)error;
@end

@interface _ANEInMemoryModel : NSObject
@property(nonatomic, readonly) NSString *hexStringIdentifier;
@property(nonatomic, readonly) _ANEModel *model;
@property(nonatomic, readonly) NSDictionary *modelAttributes;
+ (instancetype)inMemoryModelWithDescriptor:(_ANEInMemoryModelDescriptor *)descriptor;
- (NSString *)localModelPath;
- (BOOL)compiledModelExists;
- (BOOL)compileWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)loadWithQoS:(unsigned int)qos options:(NSDictionary *)options error:(NSError **)error;
- (BOOL)evaluateWithQoS:(unsigned int)qos
                options:(NSDictionary *)options
                request:(_ANERequest *)request
                  error:(NSError **)error;
- (BOOL)unloadWithQoS:(unsigned int)qos error:(NSError **)error;
@end

/* --- attributes.m --- */

/* The nested dictionaries in which a loaded program tells of its inputs and outputs. */
NSDictionary *standin_attributes(const computation *computation);

/* --- tale.m --- */

/* The same, changed as the environment asks for. */
NSDictionary *standin_retell(NSDictionary *told);
