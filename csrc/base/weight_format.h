/* weight_format.h: the layout of a weight file (MILBlob storage, version 2): a header, then for
 * each tensor a metadata record and its data, each at a multiple of 64 bytes. Reader and writer
 * share it. Everything is little endian, as are the hosts. */
#pragma once

#include <stdint.h>

#define WEIGHT_ALIGNMENT 64
#define WEIGHT_VERSION 2
#define WEIGHT_SENTINEL 0xDEADBEEFu

typedef enum weight_dtype {
    WEIGHT_FP16 = 1,
    WEIGHT_FP32 = 2,
    WEIGHT_UINT8 = 3,
    WEIGHT_INT8 = 4,
    WEIGHT_INT16 = 6,
    WEIGHT_UINT16 = 7,
    WEIGHT_INT32 = 14,
    WEIGHT_UINT32 = 15
} weight_dtype;

typedef struct weight_header {
    uint32_t count; /* of records */
    uint32_t version;
    uint64_t reserved[7];
} weight_header;

typedef struct weight_record {
    uint32_t sentinel;
    uint32_t dtype;
    uint64_t size;   /* of the data, in bytes */
    uint64_t offset; /* of the data, from the start of the file */
    /* The first counts padding bits of dtypes of less than a byte, of which there are none here. */
    uint64_t reserved[5];
} weight_record;

_Static_assert(sizeof(weight_header) == WEIGHT_ALIGNMENT, "a header takes 64 bytes");
_Static_assert(sizeof(weight_record) == WEIGHT_ALIGNMENT, "a record takes 64 bytes");
_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the host is little endian");
