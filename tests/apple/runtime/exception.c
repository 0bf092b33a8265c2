/* exception.c: @throw, @catch and @synchronized. Exceptions are C++ exceptions of the system's C++
 * library, whose type records carry the class, as in Apple's runtime. */
#include "runtime.h"

#include <stdlib.h>

typedef struct type_record {
    const void **functions;
    const char *name;
    Class cls; /* NULL: any object */
} type_record;

typedef struct thrown {
    id object;
    type_record type;
} thrown;

void *__cxa_allocate_exception(size_t size);
void __cxa_throw(void *thrown, void *type, void (*destroy)(void *)) __attribute__((noreturn));
void *__cxa_begin_catch(void *exception);
void __cxa_end_catch(void);
void __cxa_rethrow(void) __attribute__((noreturn));
int __gxx_personality_v0(int version, int actions, uint64_t class, void *exception, void *context);

static bool catches(type_record *wanted, type_record *thrown, void **object, unsigned outer);

static void destroy_record(void *record) {
    (void)record;
}

static bool answer_no(void *record) {
    (void)record;
    return false;
}

/* The virtual functions of std::type_info, in the order of the Itanium C++ ABI as libstdc++ has it:
 * two destructors, is-pointer, is-function, do-catch, do-upcast. */
const void *objc_ehtype_vtable[] = {
    NULL, NULL, destroy_record, destroy_record, answer_no, answer_no, catches, answer_no,
};

#define RECORD_FUNCTIONS (objc_ehtype_vtable + 2)

type_record OBJC_EHTYPE_id = {RECORD_FUNCTIONS, "id", NULL};

static bool catches(type_record *wanted, type_record *type, void **object, unsigned outer) {
    (void)outer;
    if (type->functions != RECORD_FUNCTIONS || wanted->functions != RECORD_FUNCTIONS) return false;
    id exception = *(id *)*object;
    Class cls = exception->isa;
    while (wanted->cls && cls && cls != wanted->cls) cls = cls->superclass;
    if (!cls) return false;
    *object = exception;
    return true;
}

static void release_thrown(void *memory) {
    objc_release(((thrown *)memory)->object);
}

void objc_exception_throw(id exception) {
    thrown *memory = __cxa_allocate_exception(sizeof *memory);
    memory->object = objc_retain(exception);
    memory->type = (type_record){RECORD_FUNCTIONS, object_getClassName(exception), exception->isa};
    __cxa_throw(memory, &memory->type, release_thrown);
}

void objc_exception_rethrow(void) {
    __cxa_rethrow();
}

void *objc_begin_catch(void *exception) {
    return __cxa_begin_catch(exception);
}

void objc_end_catch(void) {
    __cxa_end_catch();
}

void objc_terminate(void) {
    rt_fatal("an exception left a function that must not throw");
}

int __objc_personality_v0(int version, int actions, uint64_t class, void *exception,
                          void *context) {
    return __gxx_personality_v0(version, actions, class, exception, context);
}

/* --- @synchronized --- */

static rt_table monitors; /* object to pthread_mutex_t */

static pthread_mutex_t *monitor_of(id object) {
    rt_lock();
    pthread_mutex_t *monitor = rt_table_get(&monitors, object);
    if (!monitor) {
        pthread_mutexattr_t attributes;
        monitor = malloc(sizeof *monitor);
        if (!monitor) rt_fatal("out of memory");
        pthread_mutexattr_init(&attributes);
        pthread_mutexattr_settype(&attributes, PTHREAD_MUTEX_RECURSIVE);
        pthread_mutex_init(monitor, &attributes);
        rt_table_set(&monitors, object, monitor);
    }
    rt_unlock();
    return monitor;
}

int objc_sync_enter(id object) {
    return object ? pthread_mutex_lock(monitor_of(object)) : 0;
}

int objc_sync_exit(id object) {
    return object ? pthread_mutex_unlock(monitor_of(object)) : 0;
}
