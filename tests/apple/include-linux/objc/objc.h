/* objc.h: the types of the Objective-C language, for Linux. For macOS the compiler's own copy of
 * Apple's header takes its place. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

typedef struct objc_class *Class;
struct objc_object {
    Class isa;
};
typedef struct objc_object *id;
typedef struct objc_selector *SEL;
/* Without arguments, so that a call without a cast does not compile. */
typedef void (*IMP)(void);
typedef bool BOOL;
#define OBJC_BOOL_IS_BOOL 1

#ifdef __OBJC__
@class Protocol;
#define YES __objc_yes
#define NO __objc_no
#else
#define YES true
#define NO false
#endif
#define nil ((void *)0)
#define Nil ((void *)0)

const char *sel_getName(SEL selector);
SEL sel_registerName(const char *name);
const char *object_getClassName(id object);
