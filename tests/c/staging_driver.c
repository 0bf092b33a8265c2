/* Claims, writes and sweeps staging directories, one command a process, so that a test can kill it
 * at any moment. Prints one line per result; errors as "status code text". */
#include "apple/staging.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

static ane_error_info error;
static const char *replaced_before_locking; /* what staging.c's first flock finds anew */

/* staging.c is compiled with this in place of flock. */
#undef flock
int flock(int file, int operation);
int tested_flock(int file, int operation);
int tested_flock(int file, int operation) {
    if (replaced_before_locking) {
        unlink(replaced_before_locking);
        close(open(replaced_before_locking, O_CREAT | O_WRONLY, 0600));
    }
    replaced_before_locking = NULL;
    return flock(file, operation);
}

static int report(ane_status status, const char *done) {
    if (status)
        printf("%d %lld %s\n", (int)status, (long long)error.code, error.text);
    else
        puts(done);
    fflush(stdout);
    return 0;
}

/* Holds root/identifier until its input ends. */
static int hold(char **words) {
    staging *place, *second = NULL;
    ane_status status = staging_claim(words[0], words[1], &place, &error);
    if (status || !place) return report(status, "taken");
    if (staging_write(place, "weights/w.bin", "w", 1, &error)) return report(error.status, "");
    if (staging_claim(words[0], words[1], &second, &error) || second) return 1;
    report(ANE_OK, "claimed");
    while (getchar() != EOF) continue;
    staging_free(place);
    return 0;
}

/* The last owner removes the lock file after it was opened here, and the next one makes it anew. */
static int hold_replaced(char **words) {
    replaced_before_locking = words[2];
    return hold(words);
}

/* Becomes, with the identifier claimed, a process that sweeps. */
static int reborn(char **words) {
    staging *place;
    if (staging_claim(words[0], words[1], &place, &error) || !place) return 1;
    return execl(words[2], words[2], "sweep", words[0], "1", (char *)NULL);
}

/* Claims the identifier over and over. Whoever has it finds no file of another holder. */
static int churn(char **words) {
    size_t rounds = strtoul(words[2], NULL, 10), claimed = 0;
    for (size_t round = 0; round < rounds; round++) {
        staging *place;
        if (staging_claim(words[0], words[1], &place, &error)) return report(error.status, "");
        if (!place) continue;
        claimed++;
        if (staging_write(place, "weights/owner", "o", 1, &error)) return report(error.status, "");
        staging_free(place);
    }
    return report(ANE_OK, claimed ? "claimed" : "never");
}

static int sweep(char **words) {
    for (size_t rounds = strtoul(words[1], NULL, 10); rounds > 0; rounds--) staging_sweep(words[0]);
    return report(ANE_OK, "swept");
}

static int name(char **words) {
    const char *inside = "";
    ane_status status = staging_weight_name(words[0], &inside, &error);
    return report(status, inside);
}

/* Writes "file" of so many bytes where a file may have no more than `limit`. */
static int fill(char **words) {
    size_t size = strtoul(words[2], NULL, 10);
    struct rlimit limit = {strtoul(words[3], NULL, 10), RLIM_INFINITY};
    signal(SIGXFSZ, SIG_IGN);
    staging *place;
    char *data = calloc(size, 1);
    ane_status status = staging_claim(words[0], words[1], &place, &error);
    if (!status && setrlimit(RLIMIT_FSIZE, &limit)) return 1;
    if (!status) status = staging_write(place, "weights/file", data, size, &error);
    report(status, "written");
    free(data);
    staging_free(place);
    return 0;
}

static int copy(char **words) {
    staging *from, *to;
    if (staging_claim(words[0], "FROM", &from, &error)) return 1;
    if (staging_claim(words[0], "TO", &to, &error)) return 1;
    size_t size = strtoul(words[1], NULL, 10);
    char *data = calloc(size + 1, 1);
    for (size_t i = 0; i < size; i++) data[i] = (char)(i * 2654435761u >> 13);
    report(staging_copy(from, to, "net.plist", &error), "copied");
    if (staging_write(from, "net.plist", data, size, &error)) return 1;
    report(staging_copy(from, to, "net.plist", &error), "copied");
    report(staging_copy(from, to, "net.plist", &error), "copied");
    while (getchar() != EOF) continue;
    free(data);
    staging_free(from);
    staging_free(to);
    return 0;
}

typedef struct command {
    const char *name;
    int words;
    int (*run)(char **words);
} command;

static const command COMMANDS[] = {
    {"hold", 2, hold},     {"hold_replaced", 3, hold_replaced},
    {"reborn", 3, reborn}, {"churn", 3, churn},
    {"sweep", 2, sweep},   {"name", 1, name},
    {"fill", 4, fill},     {"copy", 2, copy},
};

int main(int count, char **words) {
    for (size_t i = 0; i < sizeof COMMANDS / sizeof *COMMANDS; i++)
        if (count == COMMANDS[i].words + 2 && strcmp(words[1], COMMANDS[i].name) == 0)
            return COMMANDS[i].run(words + 2);
    return 2;
}
