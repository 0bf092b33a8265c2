/* pool.c: a fixed set of worker threads. A job lives on its caller's stack: it is linked into the
 * pool while it may have unclaimed indices and is left by the caller only when no worker is inside
 * it. Callers claim indices like workers do, so a job ends even if every worker is busy elsewhere.
 */
#include "base.h"

#include <pthread.h>
#include <stdatomic.h>

#define SPINS 4000 /* looks before a thread sleeps: about as long as it takes to wake one up */

typedef struct job {
    ane_task task;
    void *argument;
    size_t count;
    atomic_size_t next;    /* first unclaimed index */
    atomic_size_t workers; /* inside this job now; changed under the pool's lock */
    struct job *following;
} job;

struct ane_pool {
    pthread_mutex_t lock;
    pthread_cond_t work; /* a job was linked, or the pool is closing */
    pthread_cond_t left; /* the last worker left some job */
    job *first;          /* jobs that may have unclaimed indices */
    size_t sleepers;
    bool closing;
    atomic_size_t linked; /* length of the list, for spinning without the lock */
    size_t worker_count;
    pthread_t workers[];
};

static void relax(void) {
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static void drain(job *current) {
    size_t index;
    while ((index = atomic_fetch_add_explicit(&current->next, 1, memory_order_relaxed)) <
           current->count)
        current->task(current->argument, index);
}

static void link_job(ane_pool *pool, job *added) {
    job **end = &pool->first;
    while (*end) end = &(*end)->following;
    *end = added;
    atomic_fetch_add_explicit(&pool->linked, 1, memory_order_relaxed);
}

/* Nothing happens if the job is not in the list any more. */
static void unlink_job(ane_pool *pool, job *removed) {
    for (job **at = &pool->first; *at; at = &(*at)->following) {
        if (*at != removed) continue;
        *at = removed->following;
        atomic_fetch_sub_explicit(&pool->linked, 1, memory_order_relaxed);
        return;
    }
}

/* Until the number is zero, or is not any more; not for long. */
static void spin_while(atomic_size_t *number, bool zero) {
    for (size_t i = 0; i < SPINS; i++) {
        if ((atomic_load_explicit(number, memory_order_acquire) == 0) != zero) return;
        relax();
    }
}

/* Called with the lock held; NULL when the pool is closing. */
static job *wait_for_job(ane_pool *pool) {
    while (!pool->first && !pool->closing) {
        pool->sleepers++;
        pthread_cond_wait(&pool->work, &pool->lock);
        pool->sleepers--;
    }
    return pool->first;
}

static void *work(void *argument) {
    ane_pool *pool = argument;
    for (;;) {
        spin_while(&pool->linked, true);
        pthread_mutex_lock(&pool->lock);
        job *current = wait_for_job(pool);
        if (!current) break;
        current->workers++;
        pthread_mutex_unlock(&pool->lock);
        drain(current);
        pthread_mutex_lock(&pool->lock);
        unlink_job(pool, current);
        if (--current->workers == 0) pthread_cond_broadcast(&pool->left);
        pthread_mutex_unlock(&pool->lock);
    }
    pthread_mutex_unlock(&pool->lock);
    return NULL;
}

void ane_block_signals(sigset_t *former) {
    static const int errors[] = {SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGTRAP};
    sigset_t others;
    sigfillset(&others);
    for (size_t i = 0; i < sizeof errors / sizeof *errors; i++) sigdelset(&others, errors[i]);
    pthread_sigmask(SIG_BLOCK, &others, former);
}

ane_pool *ane_pool_create(size_t threads) {
    size_t workers = threads > 1 ? threads - 1 : 0, bytes;
    if (!ane_size_mul(workers, sizeof(pthread_t), &bytes) ||
        !ane_size_add(bytes, sizeof(ane_pool), &bytes))
        return NULL;
    ane_pool *pool = ane_alloc(1, bytes);
    if (!pool) return NULL;
    pthread_mutex_init(&pool->lock, NULL);
    pthread_cond_init(&pool->work, NULL);
    pthread_cond_init(&pool->left, NULL);
    atomic_init(&pool->linked, 0);
    sigset_t former;
    ane_block_signals(&former);
    while (pool->worker_count < workers &&
           pthread_create(&pool->workers[pool->worker_count], NULL, work, pool) == 0)
        pool->worker_count++;
    pthread_sigmask(SIG_SETMASK, &former, NULL);
    if (pool->worker_count == workers) return pool;
    ane_pool_free(pool);
    return NULL;
}

void ane_pool_free(ane_pool *pool) {
    if (!pool) return;
    pthread_mutex_lock(&pool->lock);
    pool->closing = true;
    pthread_cond_broadcast(&pool->work);
    pthread_mutex_unlock(&pool->lock);
    for (size_t i = 0; i < pool->worker_count; i++) pthread_join(pool->workers[i], NULL);
    pthread_cond_destroy(&pool->left);
    pthread_cond_destroy(&pool->work);
    pthread_mutex_destroy(&pool->lock);
    ane_free(pool);
}

size_t ane_pool_threads(const ane_pool *pool) {
    return pool ? pool->worker_count + 1 : 1;
}

static void publish(ane_pool *pool, job *published) {
    pthread_mutex_lock(&pool->lock);
    link_job(pool, published);
    size_t sleepers = pool->sleepers;
    pthread_mutex_unlock(&pool->lock);
    /* After the lock is free, or the woken would at once sleep again. */
    for (size_t i = 0; i < sleepers && i + 1 < published->count; i++)
        pthread_cond_signal(&pool->work);
}

/* Every index is claimed when this is called, so an empty job is a finished one. */
static void leave(ane_pool *pool, job *drained) {
    pthread_mutex_lock(&pool->lock);
    unlink_job(pool, drained);
    pthread_mutex_unlock(&pool->lock);
    spin_while(&drained->workers, false);
    pthread_mutex_lock(&pool->lock);
    while (drained->workers > 0) pthread_cond_wait(&pool->left, &pool->lock);
    pthread_mutex_unlock(&pool->lock);
}

void ane_pool_run(ane_pool *pool, size_t count, ane_task task, void *argument) {
    if (!pool || pool->worker_count == 0 || count < 2) {
        for (size_t i = 0; i < count; i++) task(argument, i);
        return;
    }
    job current = {.task = task, .argument = argument, .count = count};
    publish(pool, &current);
    drain(&current);
    leave(pool, &current);
}
