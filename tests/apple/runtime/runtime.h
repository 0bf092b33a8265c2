/* runtime.h: the records that clang emits for Apple's Objective-C runtime, and what the files of
 * this runtime for Linux share. Section headings name the file that defines each part. */
#pragma once

#include <objc/runtime.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>

/* --- what clang emits --- */

typedef struct rt_list {
    uint32_t entry_size, count; /* the entries follow */
} rt_list;

typedef struct rt_method_record {
    const char *name, *types;
    IMP implementation;
} rt_method_record;

typedef struct rt_protocol_record rt_protocol_record;

typedef struct rt_protocol_list {
    uintptr_t count;
    rt_protocol_record *protocols[];
} rt_protocol_list;

/* Of methods there are names and types only. */
struct rt_protocol_record {
    void *isa;
    const char *name;
    const rt_protocol_list *adopted;
    const rt_list *methods, *class_methods, *optional_methods, *optional_class_methods;
};

typedef struct rt_property_record {
    const char *name, *attributes;
} rt_property_record;

typedef struct rt_variable_record {
    int32_t *offset;
    const char *name, *type;
    uint32_t alignment, size;
} rt_variable_record;

typedef struct rt_class_record {
    uint32_t flags, instance_start, instance_size, reserved;
    const uint8_t *strong_layout;
    const char *name;
    const rt_list *methods;
    const rt_protocol_list *protocols;
    const rt_list *ivars;
    const uint8_t *weak_layout;
    const rt_list *properties;
} rt_class_record;

typedef struct rt_category_record {
    const char *name;
    Class cls;
    const rt_list *instance_methods, *class_methods;
} rt_category_record;

typedef struct rt_image {
    const char **selectors, **selectors_end;
    Class *classes, *classes_end;
    rt_category_record **categories, **categories_end;
    rt_protocol_record **protocols, **protocols_end;
} rt_image;

#define RT_METACLASS 1u
#define RT_DEAD_CLASS ((uintptr_t)0xdeaddeaddeaddea0u)

/* --- table.c: from a pointer or a string to a pointer --- */

typedef struct rt_table {
    size_t count, capacity;
    bool strings; /* keys are compared as text; else as addresses */
    const void **keys;
    void **values;
} rt_table;

void *rt_table_get(const rt_table *table, const void *key);
/* The key is kept, not copied. */
void rt_table_set(rt_table *table, const void *key, void *value);

/* --- class.c --- */

typedef struct rt_class_state {
    rt_table methods; /* selector to objc_method */
    size_t instance_size;
    IMP destructor; /* of the instance variables that ARC owns; NULL: none */
    atomic_long live;
} rt_class_state;

struct objc_class {
    Class isa, superclass;
    rt_class_state *state; /* &_objc_empty_cache until the class is set up */
    void *unused;
    const rt_class_record *record;
};

struct objc_method {
    SEL selector;
    const char *types;
    IMP implementation;
};

typedef struct rt_super {
    id receiver;
    Class cls; /* the class whose superclass is meant */
} rt_super;

/* Held around everything that classes, selectors, weak references and counts are kept in. */
void rt_lock(void);
void rt_unlock(void);
/* Says what happened and aborts. */
void rt_fatal(const char *format, ...) __attribute__((noreturn, format(printf, 1, 2)));
void rt_add_image(const rt_image *image);
rt_class_state *rt_class_setup(Class cls);
/* What objc_msgSend calls: aborts if the object is gone, raises if it does not understand. */
IMP rt_find(id receiver, SEL selector);
IMP rt_find_super(const rt_super *super, SEL selector);
void rt_each_class(void (*visit)(Class cls, void *argument), void *argument);
/* The entries of a list, `index` below its count. */
const void *rt_list_entry(const rt_list *list, uint32_t index);

/* The class is no longer found by its name. */
void rt_hide_class(const char *name);

/* --- explore.c --- */

void rt_add_protocols(rt_protocol_record **protocols, rt_protocol_record **end);

/* --- object.c --- */

/* A zeroed object with a count of one. */
id rt_allocate(Class cls);
id rt_retain(id object);
void rt_release(id object);
size_t rt_retain_count(id object);
/* Ends an object whose -dealloc has run. */
void rt_dispose(id object);
id rt_autorelease(id object);

/* --- arc.c --- */

id objc_retain(id object);
void objc_release(id object);
id objc_autorelease(id object);

/* --- exception.c --- */

void objc_exception_throw(id exception) __attribute__((noreturn));

/* --- NSString.m --- */

#ifdef __OBJC__
@class NSString;
/* The text of a format and its arguments, autoreleased. */
NSString *rt_format(NSString *format, va_list *arguments);
#endif
