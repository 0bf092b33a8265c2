/* object.c: the life of objects: reference counts, weak references, autorelease pools, and what is
 * counted of them. A header before each object holds its count; a dead object stays recognisable
 * for a while, so that a message to it is found. */
#include "runtime.h"

#include <stdlib.h>
#include <string.h>

#include "counters.h"

#define QUARANTINE 4096

typedef struct header {
    atomic_long count;
    atomic_bool dying;
    atomic_bool weakly_referenced;
} header;

typedef struct weak_list {
    size_t count, capacity;
    id **locations;
} weak_list;

static rt_table weak_lists; /* object to weak_list */
static header *quarantine[QUARANTINE];
static size_t quarantine_next;
static atomic_long unpooled;

static header *header_of(id object) {
    return (header *)object - 1;
}

/* --- reference counts --- */

id rt_allocate(Class cls) {
    rt_class_state *state = rt_class_setup(cls);
    header *memory = calloc(1, sizeof *memory + state->instance_size);
    if (!memory) rt_fatal("out of memory");
    memory->count = 1;
    id object = (id)(memory + 1);
    object->isa = cls;
    state->live++;
    return object;
}

id rt_retain(id object) {
    if (header_of(object)->dying) rt_fatal("a dying %s was retained", object_getClassName(object));
    header_of(object)->count++;
    return object;
}

static void clear_weak_references(id object) {
    weak_list *list = rt_table_get(&weak_lists, object);
    for (size_t i = 0; list && i < list->count; i++) *list->locations[i] = NULL;
    if (list) list->count = 0;
}

void rt_release(id object) {
    header *memory = header_of(object);
    rt_lock();
    long left = --memory->count;
    if (left == 0) {
        memory->dying = true;
        if (memory->weakly_referenced) clear_weak_references(object);
    }
    rt_unlock();
    if (left < 0) rt_fatal("a %s was released too often", object_getClassName(object));
    if (left > 0) return;
    SEL dealloc = sel_registerName("dealloc");
    ((void (*)(id, SEL))rt_find(object, dealloc))(object, dealloc);
}

size_t rt_retain_count(id object) {
    return (size_t)header_of(object)->count;
}

/* Keeps the memory of the last few thousand objects. */
static void bury(header *memory) {
    rt_lock();
    header *oldest = quarantine[quarantine_next];
    quarantine[quarantine_next] = memory;
    quarantine_next = (quarantine_next + 1) % QUARANTINE;
    rt_unlock();
    free(oldest);
}

void rt_dispose(id object) {
    Class cls = object->isa;
    for (Class each = cls; each; each = each->superclass) {
        IMP destructor = rt_class_setup(each)->destructor;
        if (destructor) ((void (*)(id, SEL))destructor)(object, NULL);
    }
    rt_class_setup(cls)->live--;
    memset((void *)object, 0xdd, rt_class_setup(cls)->instance_size);
    object->isa = (Class)RT_DEAD_CLASS;
    bury(header_of(object));
}

/* --- weak references --- */

static void forget_weak(id *location) {
    weak_list *list = *location ? rt_table_get(&weak_lists, *location) : NULL;
    for (size_t i = 0; list && i < list->count; i++) {
        if (list->locations[i] != location) continue;
        list->locations[i] = list->locations[--list->count];
        return;
    }
}

static void remember_weak(id *location, id object) {
    weak_list *list = rt_table_get(&weak_lists, object);
    if (!list) {
        list = calloc(1, sizeof *list);
        if (!list) rt_fatal("out of memory");
        rt_table_set(&weak_lists, object, list);
    }
    if (list->count == list->capacity) {
        list->capacity = 2 * list->capacity + 4;
        list->locations = realloc(list->locations, list->capacity * sizeof *list->locations);
        if (!list->locations) rt_fatal("out of memory");
    }
    list->locations[list->count++] = location;
    header_of(object)->weakly_referenced = true;
}

id objc_storeWeak(id *location, id object) {
    rt_lock();
    forget_weak(location);
    if (object && header_of(object)->dying) object = NULL;
    *location = object;
    if (object) remember_weak(location, object);
    rt_unlock();
    return object;
}

id objc_initWeak(id *location, id object) {
    *location = NULL;
    return objc_storeWeak(location, object);
}

void objc_destroyWeak(id *location) {
    objc_storeWeak(location, NULL);
}

id objc_loadWeakRetained(id *location) {
    rt_lock();
    id object = *location;
    if (object) rt_retain(object);
    rt_unlock();
    return object;
}

void objc_copyWeak(id *target, id *source) {
    id object = objc_loadWeakRetained(source);
    objc_initWeak(target, object);
    objc_release(object);
}

void objc_moveWeak(id *target, id *source) {
    objc_copyWeak(target, source);
    objc_destroyWeak(source);
}

/* --- autorelease pools --- */

typedef struct pool_stack {
    id *objects; /* NULL marks where a pool begins */
    size_t count, capacity, depth;
} pool_stack;

static _Thread_local pool_stack pools;

static void push_pooled(id object) {
    if (pools.count == pools.capacity) {
        pools.capacity = 2 * pools.capacity + 64;
        pools.objects = realloc(pools.objects, pools.capacity * sizeof *pools.objects);
        if (!pools.objects) rt_fatal("out of memory");
    }
    pools.objects[pools.count++] = object;
}

void *objc_autoreleasePoolPush(void) {
    push_pooled(NULL);
    pools.depth++;
    return (void *)pools.count;
}

void objc_autoreleasePoolPop(void *token) {
    while (pools.count >= (size_t)token) {
        id object = pools.objects[--pools.count];
        if (object)
            objc_release(object);
        else
            pools.depth--;
    }
    if (pools.depth) return;
    free(pools.objects);
    pools = (pool_stack){0};
}

id rt_autorelease(id object) {
    if (pools.depth)
        push_pooled(object);
    else
        unpooled++;
    return object;
}

/* --- counters --- */

typedef struct visitor {
    void (*visit)(const char *class_name, long count, void *argument);
    void *argument;
} visitor;

static void visit_live(Class cls, void *argument) {
    visitor *visitor = argument;
    long live = rt_class_setup(cls)->live;
    if (live) visitor->visit(class_getName(cls), live, visitor->argument);
}

static void add_live(const char *class_name, long count, void *argument) {
    (void)class_name;
    *(long *)argument += count;
}

void runtime_each_live(void (*visit)(const char *class_name, long count, void *argument),
                       void *argument) {
    rt_each_class(visit_live, &(visitor){visit, argument});
}

long runtime_live_total(void) {
    long total = 0;
    runtime_each_live(add_live, &total);
    return total;
}

long runtime_live(const char *class_name) {
    Class cls = objc_lookUpClass(class_name);
    return cls ? rt_class_setup(cls)->live : 0;
}

long runtime_unpooled(void) {
    return unpooled;
}
