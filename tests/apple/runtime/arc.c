/* arc.c: the functions that clang calls for automatic reference counting, properties and common
 * messages. Retain, release and autorelease are messages, because constants override them. */
#include "runtime.h"

#include <string.h>

static id send(id receiver, const char *name) {
    SEL selector = sel_registerName(name);
    return receiver ? ((id (*)(id, SEL))rt_find(receiver, selector))(receiver, selector) : NULL;
}

id objc_retain(id object) {
    return send(object, "retain");
}

void objc_release(id object) {
    send(object, "release");
}

id objc_autorelease(id object) {
    return send(object, "autorelease");
}

id objc_retainAutorelease(id object) {
    return objc_autorelease(objc_retain(object));
}

id objc_autoreleaseReturnValue(id object) {
    return objc_autorelease(object);
}

id objc_retainAutoreleaseReturnValue(id object) {
    return objc_retainAutorelease(object);
}

id objc_retainAutoreleasedReturnValue(id object) {
    return objc_retain(object);
}

id objc_claimAutoreleasedReturnValue(id object) {
    return objc_retain(object);
}

id objc_unsafeClaimAutoreleasedReturnValue(id object) {
    return object;
}

void objc_storeStrong(id *location, id object) {
    id old = *location;
    if (old == object) return;
    *location = objc_retain(object);
    objc_release(old);
}

/* --- common messages --- */

id objc_alloc(Class cls) {
    return send((id)cls, "alloc");
}

id objc_alloc_init(Class cls) {
    return send(objc_alloc(cls), "init");
}

id objc_opt_new(Class cls) {
    return objc_alloc_init(cls);
}

id objc_opt_self(id object) {
    return object;
}

Class objc_opt_class(id object) {
    return (Class)send(object, "class");
}

bool objc_opt_isKindOfClass(id object, Class wanted) {
    Class cls = object_getClass(object);
    while (cls && cls != wanted) cls = cls->superclass;
    return cls && wanted;
}

bool objc_opt_respondsToSelector(id object, SEL selector) {
    return class_respondsToSelector(object_getClass(object), selector);
}

/* --- properties --- */

static id *location_in(id object, ptrdiff_t offset) {
    return (id *)((char *)object + offset);
}

id objc_getProperty(id object, SEL selector, ptrdiff_t offset, bool atomic) {
    (void)selector, (void)atomic;
    rt_lock();
    id value = objc_retain(*location_in(object, offset));
    rt_unlock();
    return objc_autorelease(value);
}

static void set_property(id object, ptrdiff_t offset, id retained) {
    rt_lock();
    id old = *location_in(object, offset);
    *location_in(object, offset) = retained;
    rt_unlock();
    objc_release(old);
}

void objc_setProperty_atomic(id object, SEL selector, id value, ptrdiff_t offset) {
    (void)selector;
    set_property(object, offset, objc_retain(value));
}

void objc_setProperty_nonatomic(id object, SEL selector, id value, ptrdiff_t offset) {
    objc_setProperty_atomic(object, selector, value, offset);
}

void objc_setProperty_atomic_copy(id object, SEL selector, id value, ptrdiff_t offset) {
    (void)selector;
    set_property(object, offset, send(value, "copy"));
}

void objc_setProperty_nonatomic_copy(id object, SEL selector, id value, ptrdiff_t offset) {
    objc_setProperty_atomic_copy(object, selector, value, offset);
}

void objc_copyStruct(void *target, const void *source, ptrdiff_t size, bool atomic, bool strong) {
    (void)atomic, (void)strong;
    rt_lock();
    memmove(target, source, (size_t)size);
    rt_unlock();
}

void objc_enumerationMutation(id collection) {
    rt_fatal("a %s was changed while it was enumerated", object_getClassName(collection));
}
