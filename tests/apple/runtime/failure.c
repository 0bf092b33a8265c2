/* failure.c: counts the calls that may be made to fail, and compares them with what the environment
 * asks for. */
#include "failure.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "runtime.h"

typedef struct failure_item {
    char call[32], how[8];
    long count, after;
} failure_item;

static const char *const WAYS[] = {"throw", "crash", "hang"};
static rt_table calls = {.strings = true}; /* name to the number of calls */

long runtime_setting(const char *variable, long otherwise) {
    const char *text = getenv(variable);
    return text && *text ? strtol(text, NULL, 0) : otherwise;
}

static void parse_item(const char *text, failure_item *item) {
    *item = (failure_item){0};
    int fields =
        sscanf(text, "%31[^:,]:%ld@%ld:%7[a-z]", item->call, &item->count, &item->after, item->how);
    if (fields == 2) sscanf(text, "%*[^:,]:%*d:%7[a-z]", item->how);
    bool known = !*item->how;
    for (size_t i = 0; i < sizeof WAYS / sizeof *WAYS; i++)
        known = known || strcmp(item->how, WAYS[i]) == 0;
    if (fields < 2 || !known) rt_fatal("ANE_STANDIN_FAIL does not understand %s", text);
}

static long count_call(const char *call) {
    rt_lock();
    long made = (long)rt_table_get(&calls, call);
    rt_table_set(&calls, call, (void *)(made + 1));
    rt_unlock();
    return made;
}

/* A failure or an exception; a crash and a hang do not return. */
static runtime_failure happen(const char *how) {
    if (strcmp(how, "crash") == 0) abort();
    while (strcmp(how, "hang") == 0) pause();
    return *how ? RUNTIME_THROW : RUNTIME_FAIL;
}

runtime_failure runtime_next_failure(const char *call) {
    const char *text = getenv("ANE_STANDIN_FAIL");
    long made = count_call(call);
    while (text && *text) {
        failure_item item;
        parse_item(text, &item);
        if (strcmp(item.call, call) == 0 && made >= item.after && made < item.after + item.count) {
            return happen(item.how);
        }
        text = strchr(text, ',');
        if (text) text++;
    }
    return RUNTIME_PASS;
}

void runtime_reset_failures(void) {
    rt_lock();
    for (size_t i = 0; i < calls.capacity; i++) calls.values[i] = NULL;
    rt_unlock();
}
