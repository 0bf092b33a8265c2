"""What the driver may import from macOS, and which public methods it may call: exactly that."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Library:
    """A library of the system: where it is, and the names that are used of it."""

    path: str
    symbols: frozenset[str]
    classes: frozenset[str] = frozenset()


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


def _names(text: str) -> frozenset[str]:
    return frozenset(f"_{name}" for name in _words(text))


_FRAMEWORKS = "/System/Library/Frameworks"

SYSTEM = Library(
    "/usr/lib/libSystem.B.dylib",
    _names(
        "dlopen dlerror free realloc posix_memalign bzero memcpy memset "
        "memchr strchr strrchr strcmp strcspn strerror strlen strncmp strstr snprintf vsnprintf "
        "__snprintf_chk "
        "_DefaultRuneLocale __maskrune __error "
        "open close read write pwrite ftruncate flock lstat fstat stat mkdir rmdir unlink remove "
        "rename opendir readdir closedir nftw nanosleep "
        "pthread_once pthread_mutex_init pthread_mutex_lock pthread_mutex_unlock "
        "pthread_mutex_destroy pthread_rwlock_init pthread_rwlock_rdlock pthread_rwlock_wrlock "
        "pthread_rwlock_unlock pthread_rwlock_destroy _NSConcreteGlobalBlock _Unwind_Resume"
    ),
)
OBJC = Library(
    "/usr/lib/libobjc.A.dylib",
    _names(
        "objc_msgSend objc_retain objc_release objc_retainAutorelease "
        "objc_retainAutoreleasedReturnValue objc_autoreleaseReturnValue "
        "objc_autoreleasePoolPush objc_autoreleasePoolPop objc_begin_catch objc_end_catch "
        "objc_exception_rethrow objc_terminate objc_enumerationMutation objc_lookUpClass "
        "class_getClassMethod class_getInstanceMethod method_getTypeEncoding sel_registerName "
        "objc_copyImageNames objc_copyClassNamesForImage class_getName class_getSuperclass "
        "object_getClass class_copyMethodList method_getName sel_getName "
        "class_copyPropertyList property_getName property_getAttributes "
        "class_copyIvarList ivar_getName ivar_getTypeEncoding class_copyProtocolList "
        "objc_copyProtocolList protocol_getName protocol_copyMethodDescriptionList "
        "__objc_personality_v0"
    ),
)
FOUNDATION = Library(
    f"{_FRAMEWORKS}/Foundation.framework/Versions/C/Foundation",
    _names("NSTemporaryDirectory NSUnderlyingErrorKey"),
    frozenset({"NSNumber", "NSProcessInfo", "NSString", "NSError"}),
)
CORE_FOUNDATION = Library(
    f"{_FRAMEWORKS}/CoreFoundation.framework/Versions/A/CoreFoundation",
    _names(
        "CFRelease __CFConstantStringClassReference __NSDictionary0__ OBJC_EHTYPE_$_NSException"
    ),
    frozenset({"NSArray", "NSMutableArray", "NSDictionary", "NSMutableDictionary", "NSData"}),
)
IOSURFACE = Library(
    f"{_FRAMEWORKS}/IOSurface.framework/Versions/A/IOSurface",
    _names(
        "IOSurfaceCreate IOSurfaceLock IOSurfaceUnlock IOSurfaceGetBaseAddress "
        "IOSurfaceGetAllocSize kIOSurfaceAllocSize kIOSurfaceWidth kIOSurfaceHeight "
        "kIOSurfaceBytesPerRow kIOSurfaceBytesPerElement kIOSurfacePixelFormat"
    ),
)
LIBRARIES = (SYSTEM, OBJC, FOUNDATION, CORE_FOUNDATION, IOSURFACE)
EXPORTS = {"_ane_hardware_driver"}
PREFIX = "_ANE"  # of the classes that are explored
FRAMEWORK = "/System/Library/PrivateFrameworks/AppleNeuralEngine.framework/AppleNeuralEngine"

PUBLIC_SELECTORS = _words(
    "UTF8String isEqualToString: hasSuffix: length substringToIndex: stringWithUTF8String: bytes "
    "dataWithBytes:length: count objectAtIndexedSubscript: objectForKeyedSubscript: "
    "setObject:forKeyedSubscript: addObject: arrayWithCapacity: dictionaryWithCapacity: "
    "dictionaryWithObjects:forKeys:count: countByEnumeratingWithState:objects:count: "
    "isKindOfClass: class domain code userInfo localizedDescription name reason processInfo "
    "operatingSystemVersionString numberWithInt: numberWithUnsignedLong: "
    "numberWithUnsignedLongLong: unsignedLongLongValue"
)


def importable() -> set[str]:
    """Every symbol that is imported."""
    symbols = set().union(*(library.symbols for library in LIBRARIES))
    classes = set().union(*(library.classes for library in LIBRARIES))
    return symbols | {f"_OBJC_CLASS_$_{name}" for name in classes}
