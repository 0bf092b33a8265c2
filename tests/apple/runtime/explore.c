/* explore.c: what the runtime tells of all classes of a file and of what a class declares: methods
 * apart, which class.c has. */
#include "runtime.h"

#include <dlfcn.h>
#include <stdlib.h>
#include <string.h>

static rt_table protocols = {.strings = true};

void rt_add_protocols(rt_protocol_record **first, rt_protocol_record **end) {
    for (rt_protocol_record **each = first; each < end; each++) {
        if (!rt_table_get(&protocols, (*each)->name)) {
            rt_table_set(&protocols, (*each)->name, *each);
        }
    }
}

/* --- files --- */

typedef struct name_list {
    const char *image; /* whose classes are listed; NULL: files are */
    const char **names;
    unsigned int count;
} name_list;

static void add_name(name_list *list, const char *name) {
    list->names = realloc(list->names, (list->count + 2) * sizeof *list->names);
    if (!list->names) rt_fatal("out of memory");
    list->names[list->count++] = name;
    list->names[list->count] = NULL;
}

/* Where the linker has put the class. */
static const char *image_of(Class cls) {
    Dl_info info;
    return dladdr(cls, &info) ? info.dli_fname : "";
}

static void visit_class(Class cls, void *argument) {
    name_list *list = argument;
    const char *image = image_of(cls);
    if (list->image) {
        if (strcmp(image, list->image) == 0) add_name(list, class_getName(cls));
        return;
    }
    for (unsigned int i = 0; i < list->count; i++) {
        if (strcmp(list->names[i], image) == 0) return;
    }
    add_name(list, image);
}

const char **objc_copyImageNames(unsigned int *count) {
    name_list list = {0};
    rt_each_class(visit_class, &list);
    *count = list.count;
    return list.names;
}

const char **objc_copyClassNamesForImage(const char *image, unsigned int *count) {
    name_list list = {.image = image};
    rt_each_class(visit_class, &list);
    *count = list.count;
    return list.names;
}

/* --- properties and instance variables --- */

static void *copy_pointers(const rt_list *list, unsigned int *count) {
    *count = list ? list->count : 0;
    const void **copy = *count ? calloc(*count + 1, sizeof *copy) : NULL;
    for (unsigned int i = 0; copy && i < *count; i++) copy[i] = rt_list_entry(list, i);
    return copy;
}

objc_property_t *class_copyPropertyList(Class cls, unsigned int *count) {
    return copy_pointers(cls->record->properties, count);
}

const char *property_getName(objc_property_t property) {
    return ((const rt_property_record *)property)->name;
}

const char *property_getAttributes(objc_property_t property) {
    return ((const rt_property_record *)property)->attributes;
}

Ivar *class_copyIvarList(Class cls, unsigned int *count) {
    return copy_pointers(cls->record->ivars, count);
}

const char *ivar_getName(Ivar ivar) {
    return ((const rt_variable_record *)ivar)->name;
}

const char *ivar_getTypeEncoding(Ivar ivar) {
    return ((const rt_variable_record *)ivar)->type;
}

/* --- protocols --- */

rt_protocols objc_copyProtocolList(unsigned int *count) {
    rt_lock();
    Protocol **copy = calloc(protocols.count + 1, sizeof *copy);
    *count = 0;
    for (size_t i = 0; copy && i < protocols.capacity; i++) {
        if (protocols.keys[i]) copy[(*count)++] = protocols.values[i];
    }
    rt_unlock();
    return copy;
}

rt_protocols class_copyProtocolList(Class cls, unsigned int *count) {
    const rt_protocol_list *list = cls->record->protocols;
    *count = list ? (unsigned int)list->count : 0;
    Protocol **copy = *count ? calloc(*count + 1, sizeof *copy) : NULL;
    for (unsigned int i = 0; copy && i < *count; i++) copy[i] = (Protocol *)list->protocols[i];
    return copy;
}

const char *protocol_getName(Protocol *protocol) {
    return ((const rt_protocol_record *)protocol)->name;
}

struct objc_method_description *protocol_copyMethodDescriptionList(Protocol *protocol,
                                                                   BOOL required, BOOL instance,
                                                                   unsigned int *count) {
    const rt_protocol_record *record = (const rt_protocol_record *)protocol;
    const rt_list *list =
        required ? (instance ? record->methods : record->class_methods)
                 : (instance ? record->optional_methods : record->optional_class_methods);
    *count = list ? list->count : 0;
    struct objc_method_description *copy = *count ? calloc(*count, sizeof *copy) : NULL;
    for (unsigned int i = 0; copy && i < *count; i++) {
        const rt_method_record *method = rt_list_entry(list, i);
        copy[i].name = sel_registerName(method->name);
        copy[i].types = (char *)(uintptr_t)method->types;
    }
    return copy;
}
