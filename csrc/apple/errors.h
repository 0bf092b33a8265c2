/* errors.h: how NSError and NSException become an ane_error_info. */
#pragma once

#import <Foundation/Foundation.h>

#include "../base/base.h"

typedef ane_status (^guarded_call)(void);

/* Runs the call in an autorelease pool of its own. An exception becomes an error of the given
 * status whose domain is the exception's name. */
ane_status errors_guard(ane_error_info *error, ane_status status, const char *action,
                        __attribute__((noescape)) guarded_call call);

/* "cannot <action>: what the error and those beneath it say; what to do", with domain and code of
 * the error. A known error may have a status of its own. A nil error is allowed. */
ane_status errors_fail(ane_error_info *error, ane_status status, const char *action,
                       NSError *cause);
