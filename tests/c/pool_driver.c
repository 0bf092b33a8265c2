/* Drives the thread pool under a sanitizer; exits with the line of the first broken rule. */
#include "base/base.h"

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT 1000
#define CALLERS 4
#define EXPECT(condition)                                                                          \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "line %d: %s\n", __LINE__, #condition);                                \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static void increment(void *argument, size_t index) {
    size_t *calls = argument;
    calls[index]++; /* not atomic: a second call on another thread would be a race */
}

static void each_index_runs_once_and_is_seen_by_the_caller(size_t threads) {
    ane_pool *pool = ane_pool_create(threads);
    EXPECT(pool && ane_pool_threads(pool) == threads);
    for (size_t count = 0; count <= COUNT; count = count < 4 ? count + 1 : count * 6) {
        size_t calls[COUNT] = {0};
        ane_pool_run(pool, count, increment, calls);
        for (size_t i = 0; i < COUNT; i++) EXPECT(calls[i] == (i < count));
    }
    ane_pool_free(pool);
}

static void *call_often(void *argument) {
    for (size_t round = 0; round < 200; round++) {
        size_t calls[37] = {0};
        ane_pool_run(argument, 37, increment, calls);
        for (size_t i = 0; i < 37; i++) EXPECT(calls[i] == 1);
    }
    return NULL;
}

static void several_callers_share_a_pool(size_t threads) {
    ane_pool *pool = ane_pool_create(threads);
    pthread_t callers[CALLERS];
    for (size_t i = 0; i < CALLERS; i++)
        EXPECT(pthread_create(&callers[i], NULL, call_often, pool) == 0);
    for (size_t i = 0; i < CALLERS; i++) pthread_join(callers[i], NULL);
    ane_pool_free(pool);
}

static void append(void *argument, size_t index) {
    size_t *state = argument;
    EXPECT(state[0] == index);
    state[0]++;
}

static void no_pool_runs_in_order(void) {
    size_t state[1] = {0};
    ane_pool_run(NULL, COUNT, append, state);
    EXPECT(state[0] == COUNT && ane_pool_threads(NULL) == 1);
    ane_pool_free(NULL);
}

typedef struct attendance {
    pthread_key_t key;
    pthread_t caller;
    atomic_size_t came, left;
} attendance;

static void leave_pool(void *argument) {
    attendance *here = argument;
    atomic_fetch_add(&here->left, 1);
}

static void attend(void *argument, size_t index) {
    attendance *here = argument;
    (void)index;
    if (pthread_equal(pthread_self(), here->caller) || pthread_getspecific(here->key)) return;
    pthread_setspecific(here->key, here);
    atomic_fetch_add(&here->came, 1);
}

static void no_worker_outlives_its_pool(void) {
    attendance here = {.caller = pthread_self()};
    pthread_key_create(&here.key, leave_pool);
    for (size_t round = 0; round < 20; round++) {
        ane_pool *pool = ane_pool_create(5);
        for (size_t i = 0; i < 20; i++) ane_pool_run(pool, 50, attend, &here);
        ane_pool_free(pool);
        EXPECT(atomic_load(&here.came) == atomic_load(&here.left));
    }
    pthread_key_delete(here.key);
}

int main(void) {
    for (size_t threads = 1; threads <= 5; threads++)
        each_index_runs_once_and_is_seen_by_the_caller(threads);
    several_callers_share_a_pool(1);
    several_callers_share_a_pool(3);
    no_pool_runs_in_order();
    no_worker_outlives_its_pool();
    ane_pool_free(ane_pool_create(0));
    puts("ok");
    return 0;
}
