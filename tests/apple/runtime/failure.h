/* failure.h: failures on demand, and settings, from the environment. */
#pragma once

typedef enum runtime_failure { RUNTIME_PASS, RUNTIME_FAIL, RUNTIME_THROW } runtime_failure;

/* Whether this call is to fail. ANE_STANDIN_FAIL holds items "call:count", "call:count@after" and
 * either with ":throw", ":crash" or ":hang" behind it, separated by commas: after `after` calls of
 * that name, `count` calls fail. "results" counts evaluations, which then give a wrong number. */
runtime_failure runtime_next_failure(const char *call);
/* Forgets the calls made so far. */
void runtime_reset_failures(void);
long runtime_setting(const char *variable, long otherwise);
