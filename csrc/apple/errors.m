/* errors.m: Apple's errors as ours, and one table of those that are known. */
#import "errors.h"

#include <ctype.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>

#define ENGINE "com.apple.appleneuralengine"
#define COMPILER "com.apple.appleneuralengine.compiler"
#define ESPRESSO "com.apple.appleneuralengine.espresso"
#define ANY_DOMAIN NULL
#define ANY_CODE LLONG_MIN
#define LOAD_LIMIT_CODE 0x50004
#define CHAIN_DEPTH 4
#define CHAIN_SIZE 2048
#define CHAIN_SHOWN 300 /* so that the advice is never cut off */

typedef struct known_error {
    const char *domain;
    long long code;
    const char *word;  /* that the text holds; "" always */
    ane_status status; /* ANE_OK: the caller's */
    const char *advice;
} known_error;

/* The first row that fits counts. Domains, codes and words are those of published reports. */
static const known_error KNOWN[] = {
    {ANY_DOMAIN, ANY_CODE, "0x50004", ANE_ERROR_LIMIT,
     "too many programs are loaded: unload or free some"},
    {ANY_DOMAIN, LOAD_LIMIT_CODE, "", ANE_ERROR_LIMIT,
     "too many programs are loaded: unload or free some"},
    {COMPILER, ANY_CODE, "InvalidMILProgram", ANE_ERROR_COMPILE,
     "the compiler takes the text for malformed: a type, a name, an op or its arguments"},
    {COMPILER, ANY_CODE, "CompilationFailure", ANE_ERROR_COMPILE,
     "the text is well-formed, but the chip cannot do it: simplify ops or shapes"},
    {ESPRESSO, -1, "", ANE_ERROR_COMPILE,
     "the compiler did not find the program's files: is the temporary directory writable?"},
    {ENGINE, 8, "0x1d", ANE_OK, "number, order, size or width of the surfaces do not fit"},
    {ENGINE, 8, "0x16", ANE_OK, "number, order, size or width of the surfaces do not fit"},
    {ENGINE, 8, "0x9", ANE_OK, "the width of a surface is too small for this chip"},
    {ENGINE, ANY_CODE, "Program Inference error", ANE_OK, "unload the program and load it again"},
    {ENGINE, 10, "", ANE_OK, "this system refuses models of this kind"},
    {ENGINE, 13, "", ANE_OK, "the surfaces could not be mapped"},
};

static const char NO_REASON[] = "the system gives no reason";
static const char NO_COMPILER_REASON[] =
    "the system gives no reason, as it does in a process that has compiled about 119 programs: a "
    "new process starts anew";

static void append(char text[CHAIN_SIZE], const char *separator, const char *words) {
    size_t length = strlen(text);
    snprintf(text + length, CHAIN_SIZE - length, "%s%s", separator, words ? words : "?");
}

/* The word, not the beginning of a longer one: 0x1 is not in 0x1d. */
static bool holds_word(const char *text, const char *word) {
    size_t length = strlen(word);
    if (length == 0) return true;
    for (const char *at = strstr(text, word); at; at = strstr(at + 1, word))
        if (!isalnum((unsigned char)at[length])) return true;
    return false;
}

/* A text that was cut may end inside a character. */
static void trim_character(char *text) {
    size_t end = strlen(text), start = end;
    while (start > 0 && end - start < 3 && (text[start - 1] & 0xC0) == 0x80) start--;
    if (start == 0) return;
    unsigned char lead = (unsigned char)text[start - 1];
    size_t expected = lead >= 0xF0 ? 4 : lead >= 0xE0 ? 3 : lead >= 0xC0 ? 2 : 1;
    if (lead >= 0x80 && end - (start - 1) < expected) text[start - 1] = '\0';
}

static void set_origin(ane_error_info *error, const char *domain, int64_t code) {
    snprintf(error->domain, sizeof error->domain, "%s", domain ? domain : "");
    trim_character(error->domain);
    trim_character(error->text);
    error->code = code;
}

static const known_error *find_known(NSError *cause, const char *text) {
    const char *domain = cause.domain.UTF8String;
    for (size_t i = 0; i < sizeof KNOWN / sizeof *KNOWN; i++) {
        const known_error *known = &KNOWN[i];
        if (known->domain && (!domain || strcmp(known->domain, domain) != 0)) continue;
        if (known->code != ANY_CODE && known->code != cause.code) continue;
        if (holds_word(text, known->word)) return known;
    }
    return NULL;
}

/* What the error says, and what those beneath it say. */
static void describe_chain(char text[CHAIN_SIZE], NSError *cause) {
    id beneath = cause;
    for (size_t depth = 0; depth < CHAIN_DEPTH; depth++) {
        if (![beneath isKindOfClass:[NSError class]]) return;
        NSError *one = beneath;
        char origin[96];
        snprintf(origin, sizeof origin, "(%.64s %lld)", one.domain.UTF8String, (long long)one.code);
        append(text, depth ? ": " : "", one.localizedDescription.UTF8String);
        append(text, " ", origin);
        beneath = one.userInfo[NSUnderlyingErrorKey];
    }
}

ane_status errors_fail(ane_error_info *error, ane_status status, const char *action,
                       NSError *cause) {
    char chain[CHAIN_SIZE] = "";
    if (cause)
        describe_chain(chain, cause);
    else
        append(chain, "", status == ANE_ERROR_COMPILE ? NO_COMPILER_REASON : NO_REASON);
    const known_error *known = cause ? find_known(cause, chain) : NULL;
    if (known && known->status) status = known->status;
    if (strlen(chain) > CHAIN_SHOWN) {
        chain[CHAIN_SHOWN] = '\0';
        trim_character(chain);
    }
    ane_fail(error, status, "cannot %s: %s%s%s", action, chain, known ? "; " : "",
             known ? known->advice : "");
    set_origin(error, cause.domain.UTF8String, cause.code);
    return status;
}

static ane_status fail_exception(ane_error_info *error, ane_status status, const char *action,
                                 NSException *thrown) {
    ane_fail(error, status, "cannot %s: the system raised %s: %s", action, thrown.name.UTF8String,
             thrown.reason ? thrown.reason.UTF8String : "no reason given");
    set_origin(error, thrown.name.UTF8String, 0);
    return status;
}

ane_status errors_guard(ane_error_info *error, ane_status status, const char *action,
                        __attribute__((noescape)) guarded_call call) {
    @autoreleasepool {
        @try {
            return call();
        } @catch (NSException *thrown) {
            return fail_exception(error, status, action, thrown);
        }
    }
}
