/* disguise.m: makes the framework look like one of another system: ANE_STANDIN_TYPES holds items
 * separated by commas: "-Class" leaves a class out, "Class selector=encoding" gives a method of the
 * class or of its objects another type encoding. */
#import "standin.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../runtime/runtime.h"

static void change_type(char *item) {
    char *space = strchr(item, ' '), *equals = strrchr(item, '=');
    if (!space || !equals) rt_fatal("ANE_STANDIN_TYPES does not understand %s", item);
    *space = *equals = '\0';
    Class cls = objc_lookUpClass(item);
    SEL selector = sel_registerName(space + 1);
    Method method = class_getInstanceMethod(cls, selector);
    if (!method) method = class_getClassMethod(cls, selector);
    if (!method) rt_fatal("ANE_STANDIN_TYPES names %s %s, which is not there", item, space + 1);
    method->types = strdup(equals + 1);
}

__attribute__((constructor)) static void disguise(void) {
    const char *setting = getenv("ANE_STANDIN_TYPES");
    char *items = setting ? strdup(setting) : NULL, *rest = NULL;
    for (char *item = items ? strtok_r(items, ",", &rest) : NULL; item;
         item = strtok_r(NULL, ",", &rest)) {
        if (*item == '-')
            rt_hide_class(item + 1);
        else
            change_type(item);
    }
    free(items);
}
