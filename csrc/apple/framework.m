/* framework.m: loads the framework once and compares it with the table; see framework.h. */
#import "framework.h"

#import <objc/runtime.h>

#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>

#include "encoding.h"

#define PATH "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine"

#define CLIENT_PARTS (PART_DIRECT | PART_REALTIME)
#define INNER_PARTS (PART_ATTRIBUTES | PART_DIRECT | PART_REALTIME)

/* Published reports, by project; dev-erik is a fork of maderix/ANE. */
#define SEEN_ALL "maderix/ANE, Orion, libane, tmc/apple"
#define SEEN_CLIENT "dev-erik, libane, tmc/apple"
#define SEEN_TMC "tmc/apple"

static const framework_method METHODS[] = {
    {PART_CORE, '+', "_ANEInMemoryModelDescriptor",
     "modelWithMILText:weights:optionsPlist:", "@@:@@@", SEEN_ALL},
    {PART_CORE, '+', "_ANEInMemoryModel", "inMemoryModelWithDescriptor:", "@@:@", SEEN_ALL},
    {PART_CORE, '-', "_ANEInMemoryModel", "hexStringIdentifier", "@@:", SEEN_ALL},
    {PART_CORE, '-', "_ANEInMemoryModel", "compileWithQoS:options:error:", "B@:I@^@", SEEN_ALL},
    {PART_CORE, '-', "_ANEInMemoryModel", "loadWithQoS:options:error:", "B@:I@^@", SEEN_ALL},
    {PART_CORE, '-', "_ANEInMemoryModel", "evaluateWithQoS:options:request:error:", "B@:I@@^@",
     SEEN_ALL},
    {PART_CORE, '-', "_ANEInMemoryModel", "unloadWithQoS:error:", "B@:I^@", SEEN_ALL},
    {PART_CORE, '+', "_ANERequest",
     "requestWithInputs:inputIndices:outputs:outputIndices:weightsBuffer:perfStats:procedureIndex:",
     "@@:@@@@@@@", SEEN_ALL},
    {PART_CORE, '+', "_ANEIOSurfaceObject", "objectWithIOSurface:", "@@:^{__IOSurface=}", SEEN_ALL},
    {INNER_PARTS, '-', "_ANEInMemoryModel", "model", "@@:", SEEN_TMC},
    {PART_ATTRIBUTES, '-', "_ANEModel", "modelAttributes", "@@:", SEEN_TMC},
    {CLIENT_PARTS, '+', "_ANEClient", "sharedConnection", "@@:", SEEN_CLIENT},
    {PART_DIRECT, '-', "_ANEClient",
     "doEvaluateDirectWithModel:options:request:qos:error:", "B@:@@@I^@", SEEN_CLIENT},
    {PART_REALTIME, '-', "_ANEClient", "loadRealTimeModel:options:qos:error:", "B@:@@I^@",
     SEEN_CLIENT},
    {PART_REALTIME, '-', "_ANEClient", "unloadRealTimeModel:options:qos:error:", "B@:@@I^@",
     SEEN_CLIENT},
    {PART_REALTIME, '-', "_ANEClient",
     "evaluateRealTimeWithModel:options:request:error:", "B@:@@@^@", SEEN_CLIENT},
    {PART_DEVICE, '+', "_ANEDeviceInfo", "hasANE", "B@:", SEEN_TMC},
    {PART_DEVICE, '+', "_ANEDeviceInfo", "isVirtualMachine", "B@:", SEEN_TMC},
    {PART_DEVICE, '+', "_ANEDeviceInfo", "numANEs", "I@:", SEEN_TMC},
    {PART_DEVICE, '+', "_ANEDeviceInfo", "numANECores", "I@:", SEEN_TMC},
    {PART_DEVICE, '+', "_ANEDeviceInfo", "aneArchitectureType", "@@:", SEEN_TMC},
    {PART_DEVICE, '+', "_ANEDeviceInfo", "aneSubType", "@@:", SEEN_TMC},
    {PART_DEVICE, '+', "_ANEDeviceInfo", "productName", "@@:", SEEN_TMC},
    {PART_DEVICE, '+', "_ANEDeviceInfo", "buildVersion", "@@:", SEEN_TMC},
};

static framework shared;
static pthread_once_t shared_once = PTHREAD_ONCE_INIT;

static void load_shared(void) {
    @autoreleasepool {
        shared.loaded = dlopen(PATH, RTLD_NOW) != NULL;
        const char *failure = shared.loaded ? NULL : dlerror();
        snprintf(shared.failure, sizeof shared.failure, "%s", failure ? failure : "");
        shared.descriptor = objc_lookUpClass("_ANEInMemoryModelDescriptor");
        shared.model = objc_lookUpClass("_ANEInMemoryModel");
        shared.inner_model = objc_lookUpClass("_ANEModel");
        shared.request = objc_lookUpClass("_ANERequest");
        shared.surface = objc_lookUpClass("_ANEIOSurfaceObject");
        shared.client = objc_lookUpClass("_ANEClient");
        shared.device = objc_lookUpClass("_ANEDeviceInfo");
    }
}

const framework *framework_get(void) {
    pthread_once(&shared_once, load_shared);
    return &shared;
}

ane_status framework_require_loaded(ane_error_info *error) {
    const framework *known = framework_get();
    if (known->loaded) return ANE_OK;
    return ane_fail(error, ANE_ERROR_MISSING, "no AppleNeuralEngine framework: %s", known->failure);
}

const char *framework_path(void) {
    return PATH;
}

NSString *framework_system(void) {
    return NSProcessInfo.processInfo.operatingSystemVersionString;
}

const framework_method *framework_methods(size_t *count) {
    *count = sizeof METHODS / sizeof *METHODS;
    return METHODS;
}

bool framework_has_class(const char *name) {
    return objc_lookUpClass(name) != Nil;
}

method_verdict framework_verdict(const framework_method *method, char found[ENCODING_SIZE]) {
    Class class = objc_lookUpClass(method->class_name);
    SEL selector = sel_registerName(method->selector);
    Method at_hand = NULL;
    if (class && method->kind == '+') at_hand = class_getClassMethod(class, selector);
    if (class && method->kind == '-') at_hand = class_getInstanceMethod(class, selector);
    const char *encoding = at_hand ? method_getTypeEncoding(at_hand) : NULL;
    found[0] = '\0';
    if (!at_hand) return METHOD_MISSING;
    if (encoding) encoding_strip(encoding, found, ENCODING_SIZE);
    return strcmp(found, method->encoding) == 0 ? METHOD_SAME : METHOD_DIFFERENT;
}

bool framework_has(unsigned part) {
    char found[ENCODING_SIZE];
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++)
        if (METHODS[i].parts & part && framework_verdict(&METHODS[i], found) != METHOD_SAME)
            return false;
    return true;
}

bool framework_has_device_fact(const char *selector) {
    char found[ENCODING_SIZE];
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++)
        if (METHODS[i].parts == PART_DEVICE && strcmp(METHODS[i].selector, selector) == 0)
            return framework_verdict(&METHODS[i], found) == METHOD_SAME;
    return false;
}

static ane_status refuse(const framework_method *method, method_verdict verdict, const char *found,
                         ane_error_info *error) {
    const char *system = framework_system().UTF8String;
    if (!framework_has_class(method->class_name))
        return ane_fail(error, ANE_ERROR_MISSING, "macOS %s has no class %s (for %s)", system,
                        method->class_name, method->selector);
    if (verdict == METHOD_MISSING)
        return ane_fail(error, ANE_ERROR_MISSING, "macOS %s has no method %c[%s %s]", system,
                        method->kind, method->class_name, method->selector);
    return ane_fail(error, ANE_ERROR_MISSING,
                    "%c[%s %s] has the type encoding '%s' on macOS %s; known is '%s' (%s)",
                    method->kind, method->class_name, method->selector, found, system,
                    method->encoding, method->seen);
}

static ane_status compare(unsigned part, bool missing_is_fine, ane_error_info *error) {
    char found[ENCODING_SIZE];
    for (size_t i = 0; i < sizeof METHODS / sizeof *METHODS; i++) {
        if (!(METHODS[i].parts & part)) continue;
        method_verdict verdict = framework_verdict(&METHODS[i], found);
        if (verdict == METHOD_SAME || (verdict == METHOD_MISSING && missing_is_fine)) continue;
        return refuse(&METHODS[i], verdict, found, error);
    }
    return ANE_OK;
}

ane_status framework_require(unsigned part, ane_error_info *error) {
    return compare(part, false, error);
}

ane_status framework_refuse_differences(unsigned part, ane_error_info *error) {
    return compare(part, true, error);
}
