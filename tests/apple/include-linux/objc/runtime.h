/* runtime.h: what a program asks the runtime about classes and methods, for Linux. */
#pragma once

#include <objc/objc.h>

typedef struct objc_method *Method;

Class objc_getClass(const char *name);
Class objc_lookUpClass(const char *name);
Class object_getClass(id object);
const char *class_getName(Class cls);
Class class_getSuperclass(Class cls);
size_t class_getInstanceSize(Class cls);
Method class_getInstanceMethod(Class cls, SEL name);
Method class_getClassMethod(Class cls, SEL name);
BOOL class_respondsToSelector(Class cls, SEL name);
/* The methods that the class itself has, malloc'ed. */
Method *class_copyMethodList(Class cls, unsigned int *count);
SEL method_getName(Method method);
const char *method_getTypeEncoding(Method method);
IMP method_getImplementation(Method method);
