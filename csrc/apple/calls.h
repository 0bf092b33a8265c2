/* calls.h: the only place that sends private messages: one function per method of the table in
 * framework.m, with the method's types spelt out in the cast. */
#pragma once

#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>
#import <objc/message.h>

/* The quality of service that all published code compiles, loads and evaluates with. */
static const unsigned int CALL_QOS = 21;

static inline id call_descriptor(Class class, NSData *text, NSDictionary *weights) {
    return ((id (*)(id, SEL, id, id, id))objc_msgSend)(
        class, @selector(modelWithMILText:weights:optionsPlist:), text, weights, nil);
}

static inline id call_model(Class class, id descriptor) {
    return ((id (*)(id, SEL, id))objc_msgSend)(class, @selector(inMemoryModelWithDescriptor:),
                                               descriptor);
}

static inline id call_identifier(id model) {
    return ((id (*)(id, SEL))objc_msgSend)(model, @selector(hexStringIdentifier));
}

static inline BOOL call_compile(id model, NSError **error) {
    return ((BOOL (*)(id, SEL, unsigned int, id, NSError **))objc_msgSend)(
        model, @selector(compileWithQoS:options:error:), CALL_QOS, @{}, error);
}

static inline BOOL call_load(id model, NSError **error) {
    return ((BOOL (*)(id, SEL, unsigned int, id, NSError **))objc_msgSend)(
        model, @selector(loadWithQoS:options:error:), CALL_QOS, @{}, error);
}

static inline BOOL call_unload(id model, NSError **error) {
    return ((BOOL (*)(id, SEL, unsigned int, NSError **))objc_msgSend)(
        model, @selector(unloadWithQoS:error:), CALL_QOS, error);
}

static inline BOOL call_evaluate(id model, id request, NSError **error) {
    return ((BOOL (*)(id, SEL, unsigned int, id, id, NSError **))objc_msgSend)(
        model, @selector(evaluateWithQoS:options:request:error:), CALL_QOS, @{}, request, error);
}

static inline id call_inner_model(id model) {
    return ((id (*)(id, SEL))objc_msgSend)(model, @selector(model));
}

static inline id call_attributes(id inner_model) {
    return ((id (*)(id, SEL))objc_msgSend)(inner_model, @selector(modelAttributes));
}

static inline id call_surface_object(Class class, IOSurfaceRef surface) {
    return ((id (*)(id, SEL, IOSurfaceRef))objc_msgSend)(class, @selector(objectWithIOSurface:),
                                                         surface);
}

/* Procedure 0, without a weights buffer and without statistics. */
static inline id call_request(Class class, NSArray *inputs, NSArray *input_indices,
                              NSArray *outputs, NSArray *output_indices) {
    return ((id (*)(id, SEL, id, id, id, id, id, id, id))objc_msgSend)(
        class,
        @selector(requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:
                  procedureIndex:),
        inputs, input_indices, outputs, output_indices, nil, nil, @0);
}

static inline id call_connection(Class client) {
    return ((id (*)(id, SEL))objc_msgSend)(client, @selector(sharedConnection));
}

static inline BOOL call_evaluate_direct(id client, id inner_model, id request, NSError **error) {
    return ((BOOL (*)(id, SEL, id, id, id, unsigned int, NSError **))objc_msgSend)(
        client, @selector(doEvaluateDirectWithModel:options:request:qos:error:), inner_model, @{},
        request, CALL_QOS, error);
}

static inline BOOL call_load_realtime(id client, id inner_model, NSError **error) {
    return ((BOOL (*)(id, SEL, id, id, unsigned int, NSError **))objc_msgSend)(
        client, @selector(loadRealTimeModel:options:qos:error:), inner_model, @{}, CALL_QOS, error);
}

static inline BOOL call_unload_realtime(id client, id inner_model, NSError **error) {
    return ((BOOL (*)(id, SEL, id, id, unsigned int, NSError **))objc_msgSend)(
        client, @selector(unloadRealTimeModel:options:qos:error:), inner_model, @{}, CALL_QOS,
        error);
}

static inline BOOL call_evaluate_realtime(id client, id inner_model, id request, NSError **error) {
    return ((BOOL (*)(id, SEL, id, id, id, NSError **))objc_msgSend)(
        client, @selector(evaluateRealTimeWithModel:options:request:error:), inner_model, @{},
        request, error);
}

static inline BOOL call_has_ane(Class device) {
    return ((BOOL (*)(id, SEL))objc_msgSend)(device, @selector(hasANE));
}

static inline BOOL call_is_virtual(Class device) {
    return ((BOOL (*)(id, SEL))objc_msgSend)(device, @selector(isVirtualMachine));
}

static inline unsigned int call_engines(Class device) {
    return ((unsigned int (*)(id, SEL))objc_msgSend)(device, @selector(numANEs));
}

static inline unsigned int call_cores(Class device) {
    return ((unsigned int (*)(id, SEL))objc_msgSend)(device, @selector(numANECores));
}

static inline id call_architecture(Class device) {
    return ((id (*)(id, SEL))objc_msgSend)(device, @selector(aneArchitectureType));
}

static inline id call_sub_type(Class device) {
    return ((id (*)(id, SEL))objc_msgSend)(device, @selector(aneSubType));
}

static inline id call_product(Class device) {
    return ((id (*)(id, SEL))objc_msgSend)(device, @selector(productName));
}

static inline id call_build(Class device) {
    return ((id (*)(id, SEL))objc_msgSend)(device, @selector(buildVersion));
}
