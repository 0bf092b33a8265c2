/* IOSurface.m: surfaces in shared memory, mapped twice: once for the processor, followed by a page
 * that cannot be touched, and once for the engine. Misuse is counted; with RUNTIME_STRICT_SURFACES
 * set, memory outside a lock cannot be touched at all. */
#import <Foundation/Foundation.h>
#import <IOSurface/IOSurface.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "counters.h"
#include "failure.h"
#include "runtime.h"
#include "surface.h"

#define PAGE ((size_t)16384) /* of macOS on arm64 */
#define NOT_LOCKED ((int)0xe00002bc)

const CFStringRef kIOSurfaceAllocSize = (CFStringRef) @"IOSurfaceAllocSize";
const CFStringRef kIOSurfaceWidth = (CFStringRef) @"IOSurfaceWidth";
const CFStringRef kIOSurfaceHeight = (CFStringRef) @"IOSurfaceHeight";
const CFStringRef kIOSurfaceBytesPerRow = (CFStringRef) @"IOSurfaceBytesPerRow";
const CFStringRef kIOSurfaceBytesPerElement = (CFStringRef) @"IOSurfaceBytesPerElement";
const CFStringRef kIOSurfacePixelFormat = (CFStringRef) @"IOSurfacePixelFormat";

static atomic_long violations;
static atomic_uint identifiers;

@interface IOSurface : NSObject {
  @package
    size_t width, height, bytesPerRow, size;
    void *processor, *engine;
    int readers, writers;
    uint32_t seed, identifier;
}
@end

static IOSurface *object_of(IOSurfaceRef surface) {
    return (IOSurface *)surface;
}

static bool is_strict(void) {
    return getenv("RUNTIME_STRICT_SURFACES") != NULL;
}

static void report(const IOSurface *surface, const char *what) {
    violations++;
    fprintf(stderr, "objc: surface %u %s\n", surface->identifier, what);
}

static void protect(IOSurface *surface) {
    bool open = !is_strict() || surface->readers || surface->writers;
    int access = !open ? PROT_NONE : PROT_READ | PROT_WRITE;
    if (mprotect(surface->processor, surface->size, access)) rt_fatal("mprotect failed");
}

static bool map_memory(IOSurface *surface) {
    int file = memfd_create("surface", 0);
    if (file < 0) return false;
    size_t size = surface->size;
    bool done = ftruncate(file, (off_t)size) == 0;
    if (done) {
        int access = PROT_READ | PROT_WRITE;
        surface->processor = mmap(NULL, size + PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        mmap(surface->processor, size, access, MAP_SHARED | MAP_FIXED, file, 0);
        surface->engine = mmap(NULL, size, access, MAP_SHARED, file, 0);
        done = surface->processor != MAP_FAILED && surface->engine != MAP_FAILED;
    }
    close(file);
    if (done) protect(surface);
    return done;
}

@implementation IOSurface

- (void)dealloc {
    if (readers || writers) report(self, "was freed while locked");
    if (processor) munmap(processor, size + PAGE);
    if (engine) munmap(engine, size);
    [super dealloc];
}

@end

static size_t number_at(NSDictionary *properties, CFStringRef key, size_t otherwise) {
    NSNumber *number = [properties objectForKey:(id)key];
    return number ? (size_t)number.unsignedLongLongValue : otherwise;
}

IOSurfaceRef IOSurfaceCreate(CFDictionaryRef dictionary) {
    NSDictionary *properties = (NSDictionary *)dictionary;
    size_t width = number_at(properties, kIOSurfaceWidth, 0);
    size_t height = number_at(properties, kIOSurfaceHeight, 0);
    size_t element = number_at(properties, kIOSurfaceBytesPerElement, 1);
    size_t row = number_at(properties, kIOSurfaceBytesPerRow, width * element);
    size_t size = number_at(properties, kIOSurfaceAllocSize, row * height);
    if (runtime_next_failure("surface")) return NULL;
    if (!width || !height || row < width * element || size < row * height) return NULL;
    IOSurface *surface = [IOSurface new];
    surface->width = width;
    surface->height = height;
    surface->bytesPerRow = row;
    surface->size = (size + PAGE - 1) / PAGE * PAGE;
    surface->identifier = ++identifiers;
    if (map_memory(surface)) return (IOSurfaceRef)surface;
    [surface release];
    return NULL;
}

int IOSurfaceLock(IOSurfaceRef reference, IOSurfaceLockOptions options, uint32_t *seed) {
    IOSurface *surface = object_of(reference);
    if (runtime_next_failure("lock")) return NOT_LOCKED;
    rt_lock();
    if (options & kIOSurfaceLockReadOnly)
        surface->readers++;
    else
        surface->writers++;
    protect(surface);
    if (seed) *seed = surface->seed;
    rt_unlock();
    return 0;
}

int IOSurfaceUnlock(IOSurfaceRef reference, IOSurfaceLockOptions options, uint32_t *seed) {
    IOSurface *surface = object_of(reference);
    bool reading = options & kIOSurfaceLockReadOnly;
    rt_lock();
    int *locks = reading ? &surface->readers : &surface->writers;
    bool locked = *locks > 0;
    if (locked)
        --*locks;
    else
        report(surface, "was unlocked without a lock of that kind");
    if (locked && !reading) surface->seed++;
    protect(surface);
    if (seed) *seed = surface->seed;
    rt_unlock();
    if (runtime_next_failure("unlock")) return NOT_LOCKED;
    return locked ? 0 : NOT_LOCKED;
}

void *IOSurfaceGetBaseAddress(IOSurfaceRef reference) {
    IOSurface *surface = object_of(reference);
    if (!surface->readers && !surface->writers) report(surface, "gave its address without a lock");
    return surface->processor;
}

size_t IOSurfaceGetAllocSize(IOSurfaceRef surface) {
    return object_of(surface)->size;
}

size_t IOSurfaceGetWidth(IOSurfaceRef surface) {
    return object_of(surface)->width;
}

size_t IOSurfaceGetHeight(IOSurfaceRef surface) {
    return object_of(surface)->height;
}

size_t IOSurfaceGetBytesPerRow(IOSurfaceRef surface) {
    return object_of(surface)->bytesPerRow;
}

IOSurfaceID IOSurfaceGetID(IOSurfaceRef surface) {
    return object_of(surface)->identifier;
}

void *runtime_surface_memory(IOSurfaceRef reference) {
    IOSurface *surface = object_of(reference);
    if (surface->writers) report(surface, "was used by the engine while locked");
    return surface->engine;
}

long runtime_surface_violations(void) {
    return violations;
}
