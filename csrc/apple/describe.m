/* describe.m: what can be told of the framework and the chip without opening them, as JSON; and of
 * the framework alone, without a message to its classes. */
#import "calls.h"
#import "engine.h"
#import "errors.h"
#include "explore.h"
#include "json.h"

#include <stdio.h>
#include <string.h>

static const char *const VERDICTS[] = {"same", "missing", "different"};

typedef struct part_name {
    unsigned part;
    const char *name;
} part_name;

static const part_name PARTS[] = {
    {PART_CORE, "core"},         {PART_ATTRIBUTES, "attributes"}, {PART_DIRECT, "direct"},
    {PART_REALTIME, "realtime"}, {PART_DEVICE, "device"},
};

/* How a fact of the chip is asked for; one of the functions is there. */
typedef struct device_fact {
    const char *selector;
    BOOL (*flag)(Class);
    unsigned int (*number)(Class);
    id (*words)(Class);
} device_fact;

static const device_fact FACTS[] = {
    {"hasANE", call_has_ane, NULL, NULL},
    {"numANEs", NULL, call_engines, NULL},
    {"numANECores", NULL, call_cores, NULL},
    {"aneArchitectureType", NULL, NULL, call_architecture},
    {"aneSubType", NULL, NULL, call_sub_type},
    {"isVirtualMachine", call_is_virtual, NULL, NULL},
    {"productName", NULL, NULL, call_product},
    {"buildVersion", NULL, NULL, call_build},
};

static void describe_framework(json *out, const framework *known) {
    json_open(out, "framework", '{');
    json_string(out, "path", framework_path());
    json_bool(out, "loaded", known->loaded);
    json_string(out, "failure", known->loaded ? NULL : known->failure);
    json_close(out, '}');
}

/* Each class once. */
static void describe_classes(json *out) {
    size_t count;
    const framework_method *methods = framework_methods(&count);
    json_open(out, "classes", '{');
    for (size_t i = 0; i < count; i++) {
        bool seen = false;
        for (size_t j = 0; j < i; j++)
            seen = seen || strcmp(methods[j].class_name, methods[i].class_name) == 0;
        if (!seen)
            json_bool(out, methods[i].class_name, framework_has_class(methods[i].class_name));
    }
    json_close(out, '}');
}

static void describe_method(json *out, const framework_method *method) {
    char found[ENCODING_SIZE], kind[2] = {method->kind, '\0'};
    method_verdict verdict = framework_verdict(method, found);
    json_open(out, NULL, '{');
    json_string(out, "class", method->class_name);
    json_string(out, "kind", kind);
    json_string(out, "selector", method->selector);
    json_string(out, "expected", method->encoding);
    json_string(out, "found", verdict == METHOD_MISSING ? NULL : found);
    json_string(out, "verdict", VERDICTS[verdict]);
    json_string(out, "seen", method->seen);
    json_close(out, '}');
}

static void describe_methods(json *out) {
    size_t count;
    const framework_method *methods = framework_methods(&count);
    json_open(out, "methods", '[');
    for (size_t i = 0; i < count; i++) describe_method(out, &methods[i]);
    json_close(out, ']');
    json_open(out, "usable", '{');
    for (size_t i = 0; i < sizeof PARTS / sizeof *PARTS; i++)
        json_bool(out, PARTS[i].name, framework_has(PARTS[i].part));
    json_close(out, '}');
}

static void describe_fact(json *out, const device_fact *fact, Class device) {
    if (fact->flag) json_bool(out, fact->selector, fact->flag(device));
    if (fact->number) json_number(out, fact->selector, fact->number(device));
    if (!fact->words) return;
    id words = fact->words(device);
    json_string(out, fact->selector,
                [words isKindOfClass:[NSString class]] ? [words UTF8String] : NULL);
}

/* A fact whose method is not as known, or raises, is left out. */
static void describe_device(json *out, const framework *known) {
    json_open(out, "device", '{');
    for (size_t i = 0; i < sizeof FACTS / sizeof *FACTS; i++) {
        const device_fact *fact = &FACTS[i];
        ane_error_info ignored = {0};
        if (!framework_has_device_fact(fact->selector)) continue;
        errors_guard(&ignored, ANE_ERROR_SYSTEM, "ask for a fact", ^{
          describe_fact(out, fact, known->device);
          return ANE_OK;
        });
    }
    json_close(out, '}');
}

/* The beginning, which sends no private message. */
static void describe_known(json *out, const framework *known) {
    json_open(out, NULL, '{');
    json_string(out, "engine", "hardware");
    json_string(out, "system", framework_system().UTF8String);
    describe_framework(out, known);
    describe_classes(out);
    describe_methods(out);
}

static ane_status take(json *out, char **text, ane_error_info *error) {
    json_close(out, '}');
    *text = json_take(out);
    return *text ? ANE_OK : ane_fail(error, ANE_ERROR_MEMORY, "no memory for a description");
}

static ane_status describe_all(json *out, char **text, ane_error_info *error) {
    const framework *known = framework_get();
    describe_known(out, known);
    describe_device(out, known);
    return take(out, text, error);
}

static ane_status explore_all(json *out, char **text, ane_error_info *error) {
    ane_status status = framework_require_loaded(error);
    if (status) return status;
    describe_known(out, framework_get());
    explore_classes(out);
    explore_protocols(out);
    return take(out, text, error);
}

ane_status describe(const ane_options *options, char **text, ane_error_info *error) {
    (void)options;
    json written = {0}, *out = &written;
    *text = NULL;
    return errors_guard(error, ANE_ERROR_SYSTEM, "describe the engine", ^{
      return describe_all(out, text, error);
    });
}

ane_status explore(const ane_options *options, char **text, ane_error_info *error) {
    (void)options;
    json written = {0}, *out = &written;
    *text = NULL;
    return errors_guard(error, ANE_ERROR_SYSTEM, "explore the framework", ^{
      return explore_all(out, text, error);
    });
}
