/* NSBlock.m: blocks as objects, and the functions that clang calls to copy what they capture. */
#import <Foundation/Foundation.h>

#include <stdlib.h>
#include <string.h>

#include "runtime.h"

typedef struct block_descriptor {
    unsigned long reserved, size;
    void (*copy)(void *target, const void *source); /* with BLOCK_HAS_COPY only, as the next */
    void (*dispose)(const void *block);
} block_descriptor;

typedef struct block {
    void *isa;
    int flags, count;
    void (*invoke)(void *, ...);
    const block_descriptor *descriptor;
} block;

/* A variable marked __block. */
typedef struct shared_variable {
    void *isa;
    struct shared_variable *forwarding;
    int flags;
    unsigned int size;
    void (*keep)(struct shared_variable *target, struct shared_variable *source);
    void (*destroy)(struct shared_variable *variable);
} shared_variable;

enum { BLOCK_ON_HEAP = 1 << 24, BLOCK_HAS_COPY = 1 << 25, BLOCK_IS_GLOBAL = 1 << 28 };
enum { FIELD_IS_OBJECT = 3, FIELD_IS_BLOCK = 7, FIELD_IS_SHARED = 8, FIELD_IS_CALLER = 128 };

@interface NSBlock : NSObject
@end
@interface NSStackBlock : NSBlock
@end
@interface NSMallocBlock : NSBlock
@end
@interface NSGlobalBlock : NSBlock
@end

__asm__(".globl _NSConcreteStackBlock\n.set _NSConcreteStackBlock, OBJC_CLASS_$_NSStackBlock");
__asm__(".globl _NSConcreteGlobalBlock\n.set _NSConcreteGlobalBlock, OBJC_CLASS_$_NSGlobalBlock");

void *_Block_copy(const void *source) {
    block *original = (block *)source;
    if (!original || original->flags & BLOCK_IS_GLOBAL) return original;
    if (original->flags & BLOCK_ON_HEAP) {
        __atomic_add_fetch(&original->count, 1, __ATOMIC_SEQ_CST);
        return original;
    }
    block *copy = malloc(original->descriptor->size);
    if (!copy) rt_fatal("out of memory");
    memcpy(copy, original, original->descriptor->size);
    copy->isa = [NSMallocBlock class];
    copy->flags |= BLOCK_ON_HEAP;
    copy->count = 1;
    if (copy->flags & BLOCK_HAS_COPY) copy->descriptor->copy(copy, original);
    rt_class_setup([NSMallocBlock class])->live++;
    return copy;
}

void _Block_release(const void *source) {
    block *released = (block *)source;
    if (!released || !(released->flags & BLOCK_ON_HEAP)) return;
    if (__atomic_sub_fetch(&released->count, 1, __ATOMIC_SEQ_CST) > 0) return;
    if (released->flags & BLOCK_HAS_COPY) released->descriptor->dispose(released);
    rt_class_setup([NSMallocBlock class])->live--;
    free(released);
}

static shared_variable *copy_shared(shared_variable *variable) {
    if (variable->forwarding->flags & BLOCK_ON_HEAP) {
        __atomic_add_fetch(&variable->forwarding->flags, 1, __ATOMIC_SEQ_CST);
        return variable->forwarding;
    }
    shared_variable *copy = malloc(variable->size);
    if (!copy) rt_fatal("out of memory");
    memcpy(copy, variable, variable->size);
    copy->flags |= BLOCK_ON_HEAP | 2; /* the block's and the frame's */
    copy->forwarding = variable->forwarding = copy;
    if (copy->flags & BLOCK_HAS_COPY) variable->keep(copy, variable);
    return copy;
}

static void release_shared(shared_variable *variable) {
    shared_variable *heap = variable->forwarding;
    if (!(heap->flags & BLOCK_ON_HEAP)) return;
    if (__atomic_sub_fetch(&heap->flags, 1, __ATOMIC_SEQ_CST) & 0xffff) return;
    if (heap->flags & BLOCK_HAS_COPY) heap->destroy(heap);
    free(heap);
}

void _Block_object_assign(void *target, const void *object, int field) {
    if (!(field & FIELD_IS_CALLER) && field & FIELD_IS_SHARED) {
        *(void **)target = copy_shared((shared_variable *)object);
    } else if (field == FIELD_IS_BLOCK)
        *(void **)target = _Block_copy(object);
    else if (field == FIELD_IS_OBJECT)
        *(id *)target = objc_retain((id)object);
    else
        *(const void **)target = object;
}

void _Block_object_dispose(const void *object, int field) {
    if (!(field & FIELD_IS_CALLER) && field & FIELD_IS_SHARED) {
        release_shared((shared_variable *)object);
    } else if (field == FIELD_IS_BLOCK)
        _Block_release(object);
    else if (field == FIELD_IS_OBJECT)
        objc_release((id)object);
}

id objc_retainBlock(id object) {
    return _Block_copy(object);
}

@implementation NSBlock

- (instancetype)retain {
    return _Block_copy(self);
}

- (oneway void)release {
    _Block_release(self);
}

- (id)copy {
    return _Block_copy(self);
}

@end

@implementation NSStackBlock
@end

@implementation NSMallocBlock
@end

@implementation NSGlobalBlock
@end
