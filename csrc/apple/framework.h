/* framework.h: the private framework as it is known: its classes, and one table of every private
 * method that the driver may send. Nothing is sent that the system at hand does not have under the
 * same type encoding. */
#pragma once

#import <Foundation/Foundation.h>

#include "../base/base.h"

#define ENCODING_SIZE 128

/* What a method is needed for; or-ed where it serves several. */
typedef enum framework_part {
    PART_CORE = 1,       /* compile, load, evaluate, unload */
    PART_ATTRIBUTES = 2, /* what a loaded program tells of its ports */
    PART_DIRECT = 4,     /* ANE_DISPATCH_DIRECT */
    PART_REALTIME = 8,   /* ANE_DISPATCH_REALTIME */
    PART_DEVICE = 16     /* facts of the chip; each is used where it is there */
} framework_part;

typedef struct framework_method {
    unsigned parts;
    char kind; /* '+' of the class, '-' of its objects */
    const char *class_name, *selector;
    const char *encoding; /* without offsets */
    const char *seen;     /* which projects published it */
} framework_method;

typedef enum method_verdict { METHOD_SAME, METHOD_MISSING, METHOD_DIFFERENT } method_verdict;

typedef struct framework {
    bool loaded;
    char failure[200]; /* why it is not loaded */
    Class descriptor, model, inner_model, request, surface, client, device;
} framework;

/* Loads the framework at the first call. */
const framework *framework_get(void);
/* ANE_ERROR_MISSING with the reason where it does not load. */
ane_status framework_require_loaded(ane_error_info *error);
const char *framework_path(void);
/* "Version 26.3 (Build 25D125)" */
NSString *framework_system(void);

const framework_method *framework_methods(size_t *count);
bool framework_has_class(const char *name);
/* found becomes the encoding at hand without offsets, or empty. */
method_verdict framework_verdict(const framework_method *method, char found[ENCODING_SIZE]);
bool framework_has(unsigned part);
/* Whether a class method of _ANEDeviceInfo is as known. */
bool framework_has_device_fact(const char *selector);
/* ANE_ERROR_MISSING that names the first class or method of the part that is not as known. */
ane_status framework_require(unsigned part, ane_error_info *error);
/* The same, except that a part whose methods are missing is no error: only a difference is. */
ane_status framework_refuse_differences(unsigned part, ane_error_info *error);
