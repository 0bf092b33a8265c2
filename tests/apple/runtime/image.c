/* image.c: part of every shared object with Objective-C in it: hands its sections to the runtime
 * when the object is loaded. */
#include "runtime.h"

#define BOUNDS(type, section)                                                                      \
    extern type __start_##section[] __attribute__((weak, visibility("hidden")));                   \
    extern type __stop_##section[] __attribute__((weak, visibility("hidden")))

BOUNDS(const char *, objc_selrefs);
BOUNDS(Class, objc_classlist);
BOUNDS(rt_category_record *, objc_catlist);
BOUNDS(rt_protocol_record *, objc_protolist);

__attribute__((constructor(101))) static void add_image(void) {
    rt_add_image(&(rt_image){
        .selectors = __start_objc_selrefs,
        .selectors_end = __stop_objc_selrefs,
        .classes = __start_objc_classlist,
        .classes_end = __stop_objc_classlist,
        .categories = __start_objc_catlist,
        .categories_end = __stop_objc_catlist,
        .protocols = __start_objc_protolist,
        .protocols_end = __stop_objc_protolist,
    });
}
