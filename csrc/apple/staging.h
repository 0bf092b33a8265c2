/* staging.h: the directories in which the framework looks for the files of a program: one under the
 * temporary directory, named after the program's identifier. A directory belongs to whoever holds
 * the lock on a file beside it; the system drops the lock of a process that dies, and what such a
 * process left is swept. */
#pragma once

#include "../base/base.h"

typedef struct staging staging;

/* The file's name inside the directory, "weights/w.bin" of "@model_path/weights/w.bin": points into
 * path. ANE_ERROR_WEIGHTS for any other prefix, for a name that leaves the directory, and for names
 * that the framework uses itself. */
ane_status staging_weight_name(const char *path, const char **name, ane_error_info *error);

/* Makes root/identifier for this process alone. *claimed is NULL where somebody else has it: a
 * living holder, in this process or another, or a directory that was not made here. */
ane_status staging_claim(const char *root, const char *identifier, staging **claimed,
                         ane_error_info *error);
/* Removes the directory and gives the identifier back. NULL is allowed. */
void staging_free(staging *place);

/* Writes a new file; the folders in its name are made. ANE_ERROR_SYSTEM with errno as the code. */
ane_status staging_write(const staging *place, const char *name, const void *data, size_t size,
                         ane_error_info *error);
ane_status staging_copy(const staging *from, const staging *to, const char *name,
                        ane_error_info *error);

/* Removes every directory whose holder is dead. */
void staging_sweep(const char *root);
