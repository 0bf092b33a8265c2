/* explore.c: asks the Objective-C runtime for the private classes and protocols and all that they
 * declare. C and not Objective-C, so that no message can be sent: no class is initialised and none
 * is instantiated. What the runtime does not tell is null. */
#include "explore.h"

#include <objc/runtime.h>

#include <stdlib.h>
#include <string.h>

#include "../base/base.h"
#include "encoding.h"

static bool is_private(const char *name) {
    return strncmp(name, EXPLORE_PREFIX, strlen(EXPLORE_PREFIX)) == 0;
}

static void put_encoding(json *out, const char *key, const char *encoding) {
    size_t size = encoding ? strlen(encoding) + 1 : 0;
    char *stripped = size ? ane_alloc(size, 1) : NULL;
    if (stripped) encoding_strip(encoding, stripped, size);
    if (size && !stripped) out->failed = true;
    json_string(out, key, stripped);
    ane_free(stripped);
}

static void open_member(json *out, const char *kind, const char *name) {
    json_open(out, NULL, '{');
    json_string(out, "kind", kind);
    json_string(out, "name", name);
}

/* --- classes --- */

static void put_methods(json *out, Class owner, const char *kind) {
    unsigned int count = 0;
    Method *methods = class_copyMethodList(owner, &count);
    for (unsigned int i = 0; methods && i < count; i++) {
        open_member(out, kind, sel_getName(method_getName(methods[i])));
        put_encoding(out, "encoding", method_getTypeEncoding(methods[i]));
        json_close(out, '}');
    }
    free(methods);
}

static void put_properties(json *out, Class owner, const char *kind) {
    unsigned int count = 0;
    objc_property_t *properties = class_copyPropertyList(owner, &count);
    for (unsigned int i = 0; properties && i < count; i++) {
        open_member(out, kind, property_getName(properties[i]));
        json_string(out, "attributes", property_getAttributes(properties[i]));
        json_close(out, '}');
    }
    free(properties);
}

static void put_variables(json *out, Class owner) {
    unsigned int count = 0;
    Ivar *variables = class_copyIvarList(owner, &count);
    json_open(out, "variables", '[');
    for (unsigned int i = 0; variables && i < count; i++) {
        json_open(out, NULL, '{');
        json_string(out, "name", ivar_getName(variables[i]));
        json_string(out, "encoding", ivar_getTypeEncoding(variables[i]));
        json_close(out, '}');
    }
    json_close(out, ']');
    free(variables);
}

static void put_adopted(json *out, Class owner) {
    unsigned int count = 0;
    Protocol **adopted = class_copyProtocolList(owner, &count);
    json_open(out, "protocols", '[');
    for (unsigned int i = 0; adopted && i < count; i++)
        json_string(out, NULL, protocol_getName(adopted[i]));
    json_close(out, ']');
    free(adopted);
}

/* Without the folder, which may lie in somebody's home. */
static const char *file_name(const char *path) {
    const char *slash = strrchr(path, '/');
    return slash ? slash + 1 : path;
}

static void put_class(json *out, const char *image, Class each) {
    Class meta = object_getClass((id)each), parent = class_getSuperclass(each);
    json_open(out, NULL, '{');
    json_string(out, "name", class_getName(each));
    json_string(out, "image", file_name(image));
    json_string(out, "superclass", parent ? class_getName(parent) : NULL);
    put_adopted(out, each);
    json_open(out, "methods", '[');
    put_methods(out, meta, "+");
    put_methods(out, each, "-");
    json_close(out, ']');
    json_open(out, "properties", '[');
    put_properties(out, meta, "+");
    put_properties(out, each, "-");
    json_close(out, ']');
    put_variables(out, each);
    json_close(out, '}');
}

static void put_image(json *out, const char *image) {
    unsigned int count = 0;
    const char **names = objc_copyClassNamesForImage(image, &count);
    for (unsigned int i = 0; names && i < count; i++) {
        Class each = is_private(names[i]) ? objc_lookUpClass(names[i]) : NULL;
        if (each) put_class(out, image, each);
    }
    free(names);
}

void explore_classes(json *out) {
    unsigned int count = 0;
    const char **images = objc_copyImageNames(&count);
    json_open(out, "explored", '[');
    for (unsigned int i = 0; images && i < count; i++) put_image(out, images[i]);
    json_close(out, ']');
    free(images);
}

/* --- protocols --- */

static void put_declared(json *out, Protocol *protocol, bool required, bool of_objects) {
    unsigned int count = 0;
    struct objc_method_description *methods =
        protocol_copyMethodDescriptionList(protocol, required, of_objects, &count);
    for (unsigned int i = 0; methods && i < count; i++) {
        open_member(out, of_objects ? "-" : "+", sel_getName(methods[i].name));
        put_encoding(out, "encoding", methods[i].types);
        json_bool(out, "required", required);
        json_close(out, '}');
    }
    free(methods);
}

static void put_protocol(json *out, Protocol *protocol) {
    json_open(out, NULL, '{');
    json_string(out, "name", protocol_getName(protocol));
    json_open(out, "methods", '[');
    for (int kind = 0; kind < 4; kind++) put_declared(out, protocol, kind & 1, kind & 2);
    json_close(out, ']');
    json_close(out, '}');
}

void explore_protocols(json *out) {
    unsigned int count = 0;
    Protocol **protocols = objc_copyProtocolList(&count);
    json_open(out, "protocols", '[');
    for (unsigned int i = 0; protocols && i < count; i++)
        if (is_private(protocol_getName(protocols[i]))) put_protocol(out, protocols[i]);
    json_close(out, ']');
    free(protocols);
}
