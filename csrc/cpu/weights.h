/* weights.h: the reader of weight files (MILBlob storage, version 2, little endian), stricter than
 * Apple's: anything that its writer would not write is an error. */
#pragma once

#include "mil.h"

typedef struct mil_record {
    mil_dtype dtype;
    const unsigned char *data; /* aligned to 64 bytes from the start of the file */
    size_t size;               /* bytes */
} mil_record;

/* Reads the metadata record at `offset`, after checking the file from its start. The caller places
 * the error: only status and text are set. */
ane_status mil_record_read(const ane_weight_file *file, uint64_t offset, mil_record *record,
                           ane_error_info *error);
size_t mil_dtype_size(mil_dtype dtype);
/* Elements to floats (fp16 or fp32 records) or to int32; false if an integer does not fit. */
void mil_record_floats(const mil_record *record, size_t count, float *floats);
bool mil_record_integers(const mil_record *record, size_t count, int32_t *integers);
