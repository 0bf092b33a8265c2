/* class.c: selectors, classes and their methods, and the search for the method that answers a
 * message. A class is set up once and never goes away. */
#include "runtime.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void *_objc_empty_cache[4];

static rt_table selectors = {.strings = true};
static rt_table classes = {.strings = true};
static pthread_mutex_t lock = PTHREAD_RECURSIVE_MUTEX_INITIALIZER_NP;

void rt_lock(void) {
    pthread_mutex_lock(&lock);
}

void rt_unlock(void) {
    pthread_mutex_unlock(&lock);
}

void rt_fatal(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    fputs("objc: ", stderr);
    vfprintf(stderr, format, arguments);
    fputc('\n', stderr);
    va_end(arguments);
    abort();
}

/* --- selectors --- */

SEL sel_registerName(const char *name) {
    rt_lock();
    const char *unique = rt_table_get(&selectors, name);
    if (!unique) {
        unique = strdup(name);
        rt_table_set(&selectors, unique, (void *)unique);
    }
    rt_unlock();
    return (SEL)unique;
}

const char *sel_getName(SEL selector) {
    return selector ? (const char *)selector : "<null selector>";
}

/* --- setting up --- */

static bool is_metaclass(Class cls) {
    return cls->record->flags & RT_METACLASS;
}

const void *rt_list_entry(const rt_list *list, uint32_t index) {
    return (const char *)(list + 1) + (size_t)index * (list->entry_size & 0xfffcu);
}

static void add_methods(rt_class_state *state, const rt_list *list) {
    for (uint32_t i = 0; list && i < list->count; i++) {
        const rt_method_record *record = rt_list_entry(list, i);
        Method method = malloc(sizeof *method);
        if (!method) rt_fatal("out of memory");
        *method = (struct objc_method){sel_registerName(record->name), record->types,
                                       record->implementation};
        rt_table_set(&state->methods, method->selector, method);
        if (strcmp(record->name, ".cxx_destruct") == 0) state->destructor = record->implementation;
    }
}

rt_class_state *rt_class_setup(Class cls) {
    rt_lock();
    if (!cls->state || (void *)cls->state == (void *)_objc_empty_cache) {
        rt_class_state *state = calloc(1, sizeof *state);
        if (!state) rt_fatal("out of memory");
        state->instance_size = cls->record->instance_size;
        if (cls->superclass && !is_metaclass(cls)) {
            size_t inherited = rt_class_setup(cls->superclass)->instance_size;
            if (cls->record->instance_start < inherited) {
                rt_fatal("%s was compiled for a smaller superclass", cls->record->name);
            }
        }
        add_methods(state, cls->record->methods);
        cls->state = state;
    }
    rt_unlock();
    return cls->state;
}

void rt_add_image(const rt_image *image) {
    rt_lock();
    for (const char **name = image->selectors; name < image->selectors_end; name++) {
        *name = (const char *)sel_registerName(*name);
    }
    for (Class *cls = image->classes; cls < image->classes_end; cls++) {
        rt_class_setup(*cls);
        rt_class_setup((*cls)->isa);
        rt_table_set(&classes, (*cls)->record->name, *cls);
    }
    for (rt_category_record **each = image->categories; each < image->categories_end; each++) {
        add_methods(rt_class_setup((*each)->cls), (*each)->instance_methods);
        add_methods(rt_class_setup((*each)->cls->isa), (*each)->class_methods);
    }
    rt_add_protocols(image->protocols, image->protocols_end);
    rt_unlock();
}

/* --- finding methods --- */

static Method find_method(Class cls, SEL selector) {
    Method method = NULL;
    rt_lock();
    for (; cls && !method; cls = cls->superclass) {
        method = rt_table_get(&rt_class_setup(cls)->methods, selector);
    }
    rt_unlock();
    return method;
}

static void refuse_message(id receiver, SEL selector) {
    SEL handler = sel_registerName("doesNotRecognizeSelector:");
    Method method = find_method(receiver->isa, handler);
    if (method) {
        ((void (*)(id, SEL, SEL))method->implementation)(receiver, handler, selector);
    }
    rt_fatal("[%s %s]: unrecognized selector", class_getName(receiver->isa), sel_getName(selector));
}

IMP rt_find(id receiver, SEL selector) {
    if ((uintptr_t)receiver->isa == RT_DEAD_CLASS) {
        rt_fatal("message %s sent to a deallocated object", sel_getName(selector));
    }
    Method method = find_method(receiver->isa, selector);
    if (!method) refuse_message(receiver, selector);
    return method->implementation;
}

IMP rt_find_super(const rt_super *super, SEL selector) {
    Method method = find_method(super->cls->superclass, selector);
    if (!method) refuse_message(super->receiver, selector);
    return method->implementation;
}

void rt_each_class(void (*visit)(Class cls, void *argument), void *argument) {
    rt_lock();
    for (size_t i = 0; i < classes.capacity; i++) {
        if (classes.values[i]) visit(classes.values[i], argument);
    }
    rt_unlock();
}

void rt_hide_class(const char *name) {
    rt_lock();
    if (rt_table_get(&classes, name)) rt_table_set(&classes, name, NULL);
    rt_unlock();
}

/* --- questions --- */

Class objc_lookUpClass(const char *name) {
    rt_lock();
    Class cls = rt_table_get(&classes, name);
    rt_unlock();
    return cls;
}

Class objc_getClass(const char *name) {
    return objc_lookUpClass(name);
}

Class object_getClass(id object) {
    return object ? object->isa : NULL;
}

const char *class_getName(Class cls) {
    return cls ? cls->record->name : "nil";
}

const char *object_getClassName(id object) {
    return class_getName(object_getClass(object));
}

Class class_getSuperclass(Class cls) {
    return cls ? cls->superclass : NULL;
}

size_t class_getInstanceSize(Class cls) {
    return cls ? rt_class_setup(cls)->instance_size : 0;
}

Method class_getInstanceMethod(Class cls, SEL name) {
    return cls && name ? find_method(cls, name) : NULL;
}

Method class_getClassMethod(Class cls, SEL name) {
    return cls && name ? find_method(cls->isa, name) : NULL;
}

BOOL class_respondsToSelector(Class cls, SEL name) {
    return class_getInstanceMethod(cls, name) != NULL;
}

Method *class_copyMethodList(Class cls, unsigned int *count) {
    const rt_table *methods = &rt_class_setup(cls)->methods;
    Method *list = calloc(methods->count + 1, sizeof *list);
    unsigned int found = 0;
    for (size_t i = 0; list && i < methods->capacity; i++) {
        if (methods->keys[i]) list[found++] = methods->values[i];
    }
    if (count) *count = found;
    return list;
}

SEL method_getName(Method method) {
    return method->selector;
}

const char *method_getTypeEncoding(Method method) {
    return method ? method->types : NULL;
}

IMP method_getImplementation(Method method) {
    return method ? method->implementation : NULL;
}
