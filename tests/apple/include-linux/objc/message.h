/* message.h: sending messages from C, for Linux; every call casts the function first. */
#pragma once

#include <objc/runtime.h>

#pragma clang diagnostic push
#pragma clang diagnostic ignored "-Wincompatible-library-redeclaration"
void objc_msgSend(void);
#pragma clang diagnostic pop
