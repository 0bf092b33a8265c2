/* redirect.c: linked into the driver under test with --wrap=dlopen: Apple's framework is the
 * stand-in, which lies beside the runtime, or what ANE_STANDIN_FRAMEWORK names. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

void *__real_dlopen(const char *path, int flags);
void *__wrap_dlopen(const char *path, int flags);

void *__wrap_dlopen(const char *path, int flags) {
    const char *other = getenv("ANE_STANDIN_FRAMEWORK");
    bool framework = path && strstr(path, "/AppleNeuralEngine.framework/");
    if (framework && getenv("ANE_STANDIN_ABSENT"))
        path = "/nonexistent/AppleNeuralEngine";
    else if (framework)
        path = other ? other : STANDIN_PATH;
    return __real_dlopen(path, flags);
}
