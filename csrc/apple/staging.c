/* staging.c: claims and removes the directories of programs; see staging.h. The lock file of an
 * identifier outlives its directory, and is not empty while the directory is one of ours. */
#define _GNU_SOURCE /* nftw */
#include "staging.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOCK_FOLDER "ane-train"
#define LOCK_SUFFIX ".lock"
#define MODEL_PREFIX "@model_path/"
#define CLAIM_ATTEMPTS 100
#define OPEN_FILES 8 /* that nftw may hold at a time */

static const char *const RESERVED[] = {"model.mil", "net.plist", "data"};

struct staging {
    char directory[PATH_MAX]; /* root/identifier */
    char fresh[PATH_MAX];     /* the directory before its claim is marked, in the lock folder */
    char lock_path[PATH_MAX];
    char lock_folder[PATH_MAX];
    int lock;
};

static ane_status system_error(ane_error_info *error, const char *verb, const char *name) {
    int code = errno;
    ane_fail(error, ANE_ERROR_SYSTEM, "cannot %s '%s': %s", verb, name, strerror(code));
    error->code = code;
    snprintf(error->domain, sizeof error->domain, "POSIX");
    return ANE_ERROR_SYSTEM;
}

static bool path_print(char path[PATH_MAX], const char *folder, const char *name,
                       const char *suffix) {
    int length = snprintf(path, PATH_MAX, "%s/%s%s", folder, name, suffix);
    if (length >= 0 && length < PATH_MAX) return true;
    errno = ENAMETOOLONG;
    return false;
}

/* One component that is neither empty nor a way out. */
static bool component_is_plain(const char *name, size_t length) {
    return length > 0 && !(length == 1 && name[0] == '.') &&
           !(length == 2 && name[0] == '.' && name[1] == '.');
}

static bool name_is_inside(const char *name) {
    for (const char *part = name;; part += 1) {
        size_t length = strcspn(part, "/");
        if (!component_is_plain(part, length)) return false;
        part += length;
        if (!*part) return true;
    }
}

ane_status staging_weight_name(const char *path, const char **name, ane_error_info *error) {
    size_t prefix = strlen(MODEL_PREFIX);
    if (strncmp(path, MODEL_PREFIX, prefix) != 0)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "weight file '%.200s' does not start with '%s'",
                        path, MODEL_PREFIX);
    if (!name_is_inside(path + prefix))
        return ane_fail(error, ANE_ERROR_WEIGHTS, "weight file '%.200s' is not inside '%s'", path,
                        MODEL_PREFIX);
    for (size_t i = 0; i < sizeof RESERVED / sizeof *RESERVED; i++)
        if (strcmp(path + prefix, RESERVED[i]) == 0)
            return ane_fail(error, ANE_ERROR_WEIGHTS,
                            "weight file '%s' has the name of a file of the engine", path);
    *name = path + prefix;
    return ANE_OK;
}

/* A descriptor that holds the lock, or -1 with errno; EWOULDBLOCK: somebody else holds it. A file
 * whose name was removed between open and flock protects nothing, hence the comparison. */
static int lock_open(const char *path, int flags) {
    for (;;) {
        int lock = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
        if (lock < 0) return -1;
        struct stat held, named;
        if (flock(lock, LOCK_EX | LOCK_NB) != 0) {
            int code = errno;
            close(lock);
            if (code == EINTR) continue;
            errno = code;
            return -1;
        }
        if (fstat(lock, &held) == 0 && stat(path, &named) == 0 && held.st_dev == named.st_dev &&
            held.st_ino == named.st_ino)
            return lock;
        close(lock);
    }
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *level) {
    (void)status, (void)type, (void)level;
    return remove(path);
}

static bool exists(const char *path) {
    struct stat status;
    return lstat(path, &status) == 0;
}

/* Removes what was made under the lock, and nothing else. False if something of it stays. */
static bool wipe(const staging *place) {
    struct stat mark;
    rmdir(place->fresh);
    if (fstat(place->lock, &mark) != 0 || mark.st_size == 0) return true;
    nftw(place->directory, remove_entry, OPEN_FILES, FTW_DEPTH | FTW_PHYS);
    return !exists(place->directory);
}

/* The lock file goes last: while it is there, the next sweep knows what is left to do. */
static void surrender(const staging *place) {
    if (wipe(place)) {
        unlink(place->lock_path);
        rmdir(place->lock_folder); /* which fails while other locks are in it */
    }
    close(place->lock);
}

static bool paths_fill(staging *place, const char *root, const char *identifier) {
    return path_print(place->lock_folder, root, LOCK_FOLDER, "") &&
           path_print(place->directory, root, identifier, "") &&
           path_print(place->fresh, place->lock_folder, identifier, ".new") &&
           path_print(place->lock_path, place->lock_folder, identifier, LOCK_SUFFIX);
}

/* Another process may remove the empty lock folder just after it was made here. */
static int lock_make(const staging *place) {
    int lock = -1;
    for (size_t attempt = 0; attempt < CLAIM_ATTEMPTS && lock < 0; attempt++) {
        if (mkdir(place->lock_folder, 0700) != 0 && errno != EEXIST) return -1;
        lock = lock_open(place->lock_path, O_CREAT);
        if (lock < 0 && errno != ENOENT) return -1;
    }
    return lock;
}

/* 1: made; 0: the name is somebody else's; -1: errno. The mark comes between making and naming the
 * directory, so that at each moment a sweep removes exactly what is ours. */
static int directory_make(const staging *place) {
    if (ftruncate(place->lock, 0) != 0 || mkdir(place->fresh, 0700) != 0) return -1;
    if (exists(place->directory)) return 0;
    if (pwrite(place->lock, "1", 1, 0) != 1) return -1;
    if (rename(place->fresh, place->directory) == 0) return 1;
    if (errno != ENOTEMPTY && errno != EEXIST && errno != ENOTDIR) return -1;
    return ftruncate(place->lock, 0);
}

/* 1, 0 or -1, as directory_make. */
static int directory_claim(staging *place) {
    place->lock = lock_make(place);
    if (place->lock >= 0 && !wipe(place)) {
        close(place->lock); /* what a dead process left cannot be removed: its name stays taken */
        return 0;
    }
    int made = place->lock >= 0 ? directory_make(place) : errno == EWOULDBLOCK ? 0 : -1;
    int code = errno;
    if (place->lock < 0)
        rmdir(place->lock_folder);
    else if (made <= 0)
        surrender(place);
    errno = code;
    return made;
}

ane_status staging_claim(const char *root, const char *identifier, staging **claimed,
                         ane_error_info *error) {
    *claimed = NULL;
    if (!component_is_plain(identifier, strlen(identifier)) || strchr(identifier, '/'))
        return ane_fail(error, ANE_ERROR_SYSTEM, "identifier '%.200s' is not a file name",
                        identifier);
    staging *place = ane_alloc(1, sizeof *place);
    if (!place) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for a staging directory");
    int made = paths_fill(place, root, identifier) ? directory_claim(place) : -1;
    if (made < 0) system_error(error, "make the directory", identifier);
    if (made > 0)
        *claimed = place;
    else
        ane_free(place);
    return made < 0 ? ANE_ERROR_SYSTEM : ANE_OK;
}

void staging_free(staging *place) {
    if (!place) return;
    surrender(place);
    ane_free(place);
}

static bool folders_make(const staging *place, const char *name) {
    char path[PATH_MAX];
    for (const char *slash = strchr(name, '/'); slash; slash = strchr(slash + 1, '/')) {
        if (!path_print(path, place->directory, name, "")) return false;
        path[strlen(place->directory) + 1 + (size_t)(slash - name)] = '\0';
        if (mkdir(path, 0700) != 0 && errno != EEXIST) return false;
    }
    return true;
}

static bool write_all(int file, const char *data, size_t size) {
    while (size > 0) {
        ssize_t written = write(file, data, size < (1u << 30) ? size : (1u << 30));
        if (written < 0 && errno == EINTR) continue;
        if (written < 0) return false;
        data += written;
        size -= (size_t)written;
    }
    return true;
}

static int file_create(const staging *place, const char *name) {
    char path[PATH_MAX];
    if (!folders_make(place, name) || !path_print(path, place->directory, name, "")) return -1;
    return open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
}

ane_status staging_write(const staging *place, const char *name, const void *data, size_t size,
                         ane_error_info *error) {
    int file = file_create(place, name);
    if (file < 0) return system_error(error, "create", name);
    bool written = write_all(file, data, size);
    if (!written) system_error(error, "write", name);
    if (close(file) != 0 && written) return system_error(error, "write", name);
    return written ? ANE_OK : ANE_ERROR_SYSTEM;
}

static bool copy_all(int source, int target) {
    char block[1 << 14];
    for (;;) {
        ssize_t count = read(source, block, sizeof block);
        if (count < 0 && errno == EINTR) continue;
        if (count <= 0) return count == 0;
        if (!write_all(target, block, (size_t)count)) return false;
    }
}

ane_status staging_copy(const staging *from, const staging *to, const char *name,
                        ane_error_info *error) {
    char path[PATH_MAX];
    int source =
        path_print(path, from->directory, name, "") ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (source < 0) return system_error(error, "read", name);
    int target = file_create(to, name);
    bool copied = target >= 0 && copy_all(source, target);
    if (!copied) system_error(error, "copy", name);
    close(source);
    if (target >= 0 && close(target) != 0 && copied) return system_error(error, "copy", name);
    return copied ? ANE_OK : ANE_ERROR_SYSTEM;
}

static void sweep_one(const char *root, const char *lock_name) {
    size_t length = strlen(lock_name), suffix = strlen(LOCK_SUFFIX);
    char identifier[NAME_MAX + 1];
    if (length <= suffix || strcmp(lock_name + length - suffix, LOCK_SUFFIX) != 0) return;
    snprintf(identifier, sizeof identifier, "%.*s", (int)(length - suffix), lock_name);
    staging place;
    if (!component_is_plain(identifier, strlen(identifier)) ||
        !paths_fill(&place, root, identifier))
        return;
    place.lock = lock_open(place.lock_path, 0);
    if (place.lock >= 0) surrender(&place);
}

void staging_sweep(const char *root) {
    char folder[PATH_MAX];
    DIR *locks = path_print(folder, root, LOCK_FOLDER, "") ? opendir(folder) : NULL;
    if (!locks) return;
    for (struct dirent *entry = readdir(locks); entry; entry = readdir(locks))
        sweep_one(root, entry->d_name);
    closedir(locks);
    rmdir(folder);
}
