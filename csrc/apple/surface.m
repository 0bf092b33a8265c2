/* surface.m: IOSurfaces whose size and rows satisfy every published rule at once. */
#import <IOSurface/IOSurface.h>

#import "engine.h"
#import "errors.h"

#include <stdio.h>
#include <string.h>

/* Row stride: 64 bytes (tmc/apple, strides told by loaded programs). Smallest allocation: 49152
 * bytes = 768 channels of 64 (Orion, M4 Max; libane). Multiple of the allocation: 16 KiB, the page
 * of the chip and the name of an attribute of its programs; covers the 128 bytes asked for on M5
 * (maderix/ANE pull request 35). */
#define ROW_ALIGNMENT 64
#define SMALLEST_ALLOCATION 49152
#define ALLOCATION_ALIGNMENT 16384

static bool round_up(size_t value, size_t alignment, size_t *out) {
    if (!ane_size_add(value, alignment - 1, out)) return false;
    *out -= *out % alignment;
    return true;
}

static bool fill_geometry(ane_memory *memory, size_t *bytes) {
    return ane_size_mul(memory->width, memory->element_size, bytes) &&
           round_up(*bytes, ROW_ALIGNMENT, &memory->row_stride) &&
           ane_size_mul(memory->row_stride, memory->channels, bytes) &&
           round_up(*bytes < SMALLEST_ALLOCATION ? SMALLEST_ALLOCATION : *bytes,
                    ALLOCATION_ALIGNMENT, bytes);
}

/* One row of bytes: the chip computes its own rows, of row_stride bytes each. */
static IOSurfaceRef create_flat(size_t bytes) {
    NSDictionary *properties = @{
        (__bridge NSString *)kIOSurfaceWidth : @(bytes),
        (__bridge NSString *)kIOSurfaceHeight : @1,
        (__bridge NSString *)kIOSurfaceBytesPerElement : @1,
        (__bridge NSString *)kIOSurfaceBytesPerRow : @(bytes),
        (__bridge NSString *)kIOSurfaceAllocSize : @(bytes),
        (__bridge NSString *)kIOSurfacePixelFormat : @0,
    };
    return IOSurfaceCreate((__bridge CFDictionaryRef)properties);
}

static ane_status fail(ane_error_info *error, const char *verb, int code) {
    ane_fail(error, ANE_ERROR_SYSTEM, "cannot %s an IOSurface: error 0x%x", verb, (unsigned)code);
    snprintf(error->domain, sizeof error->domain, "IOSurface");
    error->code = code;
    return ANE_ERROR_SYSTEM;
}

static IOSurfaceLockOptions lock_options(bool read_only) {
    return read_only ? kIOSurfaceLockReadOnly : 0;
}

static ane_status lock(ane_memory *memory, bool read_only, ane_error_info *error) {
    IOSurfaceRef surface = (IOSurfaceRef)memory->handle;
    int code = IOSurfaceLock(surface, lock_options(read_only), NULL);
    if (code) return fail(error, "lock", code);
    memory->base = IOSurfaceGetBaseAddress(surface);
    if (memory->base) return ANE_OK;
    IOSurfaceUnlock(surface, lock_options(read_only), NULL);
    return ane_fail(error, ANE_ERROR_SYSTEM, "a locked IOSurface has no address");
}

static ane_status unlock(ane_memory *memory, bool read_only, ane_error_info *error) {
    int code = IOSurfaceUnlock((IOSurfaceRef)memory->handle, lock_options(read_only), NULL);
    return code ? fail(error, "unlock", code) : ANE_OK;
}

static ane_status create_zeroed(ane_memory *memory, ane_error_info *error) {
    size_t bytes;
    if (!fill_geometry(memory, &bytes))
        return ane_fail(error, ANE_ERROR_MEMORY, "a surface of %zu x %zu elements is too large",
                        memory->channels, memory->width);
    IOSurfaceRef surface = create_flat(bytes);
    if (!surface)
        return ane_fail(error, ANE_ERROR_MEMORY, "the system gives no surface of %zu bytes", bytes);
    memory->handle = surface;
    memory->size = IOSurfaceGetAllocSize(surface);
    if (memory->size < bytes)
        return ane_fail(error, ANE_ERROR_SYSTEM, "the system gives a surface of %zu bytes, not %zu",
                        memory->size, bytes);
    ane_status status = lock(memory, false, error);
    if (status) return status;
    memset(memory->base, 0, memory->size);
    return unlock(memory, false, error);
}

ane_status surface_create(void *engine, ane_memory *memory, ane_error_info *error) {
    (void)engine;
    memory->handle = NULL;
    ane_status status = errors_guard(error, ANE_ERROR_SYSTEM, "create a surface", ^{
      return create_zeroed(memory, error);
    });
    if (status) surface_free(engine, memory);
    return status;
}

void surface_free(void *engine, ane_memory *memory) {
    (void)engine;
    @autoreleasepool {
        if (memory->handle) CFRelease((IOSurfaceRef)memory->handle);
        memory->handle = NULL;
        memory->base = NULL;
    }
}

ane_status surface_lock(ane_memory *memory, bool read_only, ane_error_info *error) {
    return errors_guard(error, ANE_ERROR_SYSTEM, "lock a surface", ^{
      return lock(memory, read_only, error);
    });
}

ane_status surface_unlock(ane_memory *memory, bool read_only, ane_error_info *error) {
    return errors_guard(error, ANE_ERROR_SYSTEM, "unlock a surface", ^{
      return unlock(memory, read_only, error);
    });
}
