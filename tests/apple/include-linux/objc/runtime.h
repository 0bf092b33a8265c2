/* runtime.h: what a program asks the runtime about classes and methods, for Linux. Lists whose
 * functions are called copy are malloc'ed; NULL where there is nothing in them. */
#pragma once

#include <objc/objc.h>

typedef struct objc_method *Method;
typedef struct objc_property *objc_property_t;
typedef struct objc_ivar *Ivar;
#ifndef __OBJC__
typedef struct objc_object Protocol;
#endif

struct objc_method_description {
    SEL name;
    char *types;
};

Class objc_getClass(const char *name);
Class objc_lookUpClass(const char *name);
Class object_getClass(id object);
const char *class_getName(Class cls);
Class class_getSuperclass(Class cls);
size_t class_getInstanceSize(Class cls);
Method class_getInstanceMethod(Class cls, SEL name);
Method class_getClassMethod(Class cls, SEL name);
BOOL class_respondsToSelector(Class cls, SEL name);
/* The methods that the class itself has. */
Method *class_copyMethodList(Class cls, unsigned int *count);
SEL method_getName(Method method);
const char *method_getTypeEncoding(Method method);
IMP method_getImplementation(Method method);

/* The files with classes in them, and the names of the classes of one. */
const char **objc_copyImageNames(unsigned int *count);
const char **objc_copyClassNamesForImage(const char *image, unsigned int *count);
objc_property_t *class_copyPropertyList(Class cls, unsigned int *count);
const char *property_getName(objc_property_t property);
const char *property_getAttributes(objc_property_t property);
Ivar *class_copyIvarList(Class cls, unsigned int *count);
const char *ivar_getName(Ivar ivar);
const char *ivar_getTypeEncoding(Ivar ivar);

#ifdef __OBJC__
typedef Protocol * __unsafe_unretained * rt_protocols;
#else
typedef Protocol **rt_protocols;
#endif
rt_protocols objc_copyProtocolList(unsigned int *count);
rt_protocols class_copyProtocolList(Class cls, unsigned int *count);
const char *protocol_getName(Protocol *protocol);
struct objc_method_description *protocol_copyMethodDescriptionList(Protocol *protocol,
                                                                   BOOL required, BOOL instance,
                                                                   unsigned int *count);
