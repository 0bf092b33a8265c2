/* What the tiles ask of the rest of the core and of a C library, on a processor without an
 * operating system: memory from an arena that is empty again once all of it was given back, and one
 * thread that works through what several would do. */
#include "base/base.h"

#include <string.h>

#define ARENA ((size_t)32 << 20)
#define ALIGNMENT 64

static _Alignas(ALIGNMENT) char arena[ARENA];
static size_t used, pieces;

void *ane_alloc(size_t count, size_t size) {
    size_t bytes = (count * size + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
    if (bytes > ARENA - used) return NULL;
    char *memory = arena + used;
    used += bytes;
    pieces++;
    return memset(memory, 0, bytes);
}

void ane_free(void *memory) {
    if (memory && --pieces == 0) used = 0;
}

struct ane_pool {
    size_t threads;
};

ane_pool *ane_pool_create(size_t threads) {
    ane_pool *pool = ane_alloc(1, sizeof *pool);
    if (pool) pool->threads = threads;
    return pool;
}

void ane_pool_free(ane_pool *pool) {
    ane_free(pool);
}

size_t ane_pool_threads(const ane_pool *pool) {
    return pool->threads;
}

void ane_pool_run(ane_pool *pool, size_t count, ane_task task, void *argument) {
    (void)pool;
    for (size_t i = 0; i < count; i++) task(argument, i);
}

int pthread_mutex_init(pthread_mutex_t *mutex, const pthread_mutexattr_t *attributes) {
    (void)mutex, (void)attributes;
    return 0;
}

int pthread_mutex_lock(pthread_mutex_t *mutex) {
    (void)mutex;
    return 0;
}

int pthread_mutex_unlock(pthread_mutex_t *mutex) {
    (void)mutex;
    return 0;
}

int pthread_mutex_destroy(pthread_mutex_t *mutex) {
    (void)mutex;
    return 0;
}

/* Or the compiler turns these loops into calls of themselves. */
#define LOOP __attribute__((no_builtin("memcpy", "memset")))

LOOP void *memcpy(void *restrict to, const void *restrict from, size_t size) {
    for (size_t i = 0; i < size; i++) ((char *)to)[i] = ((const char *)from)[i];
    return to;
}

LOOP void *memset(void *to, int value, size_t size) {
    for (size_t i = 0; i < size; i++) ((char *)to)[i] = (char)value;
    return to;
}
