/* counts.m: what happened in the stand-in, told as JSON on request and when the process ends, and
 * the ways in which a call is refused. */
#import "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/counters.h"

standin_counts standin_count;

BOOL standin_refuse(NSError **error, NSString *domain, NSInteger code, NSString *text) {
    NSDictionary *information = @{NSLocalizedDescriptionKey : text};
    if (error) *error = [NSError errorWithDomain:domain code:code userInfo:information];
    return NO;
}

static NSInteger injected_code(const char *call) {
    return strcmp(call, "load") == 0 ? 0x50004 : 1;
}

BOOL standin_go_on(const char *call, NSError **error) {
    runtime_failure failure = runtime_next_failure(call);
    if (failure == RUNTIME_PASS) return YES;
    NSString *text = [NSString stringWithFormat:@"%s was made to fail", call];
    if (failure == RUNTIME_FAIL) {
        return standin_refuse(error, STANDIN_DOMAIN, injected_code(call), text);
    }
    [NSException raise:NSGenericException format:@"%@", text];
    return NO;
}

BOOL standin_gives_object(const char *call) {
    return standin_go_on(call, NULL);
}

/* Found to work: 0 to 63 (maderix/ANE), and -1 as an unsigned number for the default (cgane). The
 * refusal of others is our own. */
static BOOL is_quality(unsigned int qos) {
    return qos <= 63 || qos == UINT32_MAX;
}

/* All exported names of keys begin so (tmc/apple); some systems reject keys that they do not know
 * (Espresso, which then tries without options). */
static BOOL are_known(NSDictionary *options) {
    for (NSString *key in options) {
        if (![key hasPrefix:@"kANEF"]) return NO;
    }
    return YES;
}

BOOL standin_check_call(unsigned int qos, id options, NSError **error) {
    if (!is_quality(qos)) {
        NSString *text = [NSString stringWithFormat:@"quality of service %u", qos];
        return standin_refuse(error, STANDIN_DOMAIN, 1, text);
    }
    if (![options isKindOfClass:[NSDictionary class]]) {
        [NSException raise:NSInvalidArgumentException format:@"options must be a dictionary"];
    }
    return are_known(options) || standin_refuse(error, STANDIN_DOMAIN, 1, @"unknown option");
}

/* --- the report --- */

typedef struct live_list {
    FILE *out;
    long private_objects;
    const char *separator;
} live_list;

static void print_live(const char *name, long count, void *argument) {
    live_list *list = argument;
    if (strncmp(name, "_ANE", 4) == 0) list->private_objects += count;
    fprintf(list->out, "%s\"%s\": %ld", list->separator, name, count);
    list->separator = ", ";
}

/* A JSON object, malloc'ed. */
char *standin_report(void) {
    char *text = NULL;
    size_t size = 0;
    FILE *out = open_memstream(&text, &size);
    live_list list = {out, 0, ""};
    fprintf(out, "{\"compiles\": %ld, \"loads\": %ld, \"unloads\": %ld, ", standin_count.compiles,
            standin_count.loads, standin_count.unloads);
    fprintf(out, "\"loaded\": %ld, ", standin_count.loads - standin_count.unloads);
    fprintf(out, "\"evaluations\": %ld, \"unpooled\": %ld, ", standin_count.evaluations,
            runtime_unpooled());
    fprintf(out, "\"surface_violations\": %ld, \"live\": {", runtime_surface_violations());
    runtime_each_live(print_live, &list);
    fprintf(out, "}, \"live_private\": %ld}\n", list.private_objects);
    fclose(out);
    return text;
}

/* Forgets counts and the calls towards failures; programs that are loaded stay counted. */
void standin_reset(void) {
    long loaded = standin_count.loads - standin_count.unloads;
    standin_count = (standin_counts){.loads = loaded};
    runtime_reset_failures();
}

__attribute__((destructor)) static void write_report(void) {
    const char *path = getenv("ANE_STANDIN_REPORT");
    FILE *file = path && *path ? fopen(path, "w") : NULL;
    char *text = file ? standin_report() : NULL;
    if (text) fputs(text, file);
    if (file) fclose(file);
    free(text);
}
