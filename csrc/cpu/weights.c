/* weights.c: layout of a weight file: a header of 64 bytes (u32 count, u32 version, zeros), then
 * for each tensor a metadata record of 64 bytes (u32 sentinel, u32 dtype, u64 size, u64 offset of
 * the data, u64 padding bits, zeros) and its data, each at a multiple of 64 bytes. */
#include "weights.h"

#include <string.h>

#define HEADER_SIZE 64
#define RECORD_SIZE 64
#define ALIGNMENT 64
#define VERSION 2
#define SENTINEL 0xDEADBEEFu

typedef struct stored {
    uint32_t code;
    mil_dtype dtype;
    size_t size;
} stored;

static const stored stored_dtypes[] = {{1, MIL_FP16, 2},   {2, MIL_FP32, 4},   {3, MIL_UINT8, 1},
                                       {4, MIL_INT8, 1},   {6, MIL_INT16, 2},  {7, MIL_UINT16, 2},
                                       {14, MIL_INT32, 4}, {15, MIL_UINT32, 4}};

static uint32_t read_u32(const unsigned char *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static uint64_t read_u64(const unsigned char *at) {
    return read_u32(at) | (uint64_t)read_u32(at + 4) << 32;
}

/* Padding bits count as reserved: only dtypes of less than a byte have any. */
static bool all_zero(const unsigned char *from, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (from[i]) return false;
    }
    return true;
}

size_t mil_dtype_size(mil_dtype dtype) {
    for (size_t i = 0; i < sizeof stored_dtypes / sizeof *stored_dtypes; i++) {
        if (stored_dtypes[i].dtype == dtype) return stored_dtypes[i].size;
    }
    return 0;
}

static const stored *find_code(uint32_t code) {
    for (size_t i = 0; i < sizeof stored_dtypes / sizeof *stored_dtypes; i++) {
        if (stored_dtypes[i].code == code) return &stored_dtypes[i];
    }
    return NULL;
}

static ane_status check_header(const ane_weight_file *file, ane_error_info *error) {
    const unsigned char *bytes = file->data;
    if (!bytes || file->size < HEADER_SIZE)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "weight file shorter than its header");
    if (read_u32(bytes + 4) != VERSION) {
        return ane_fail(error, ANE_ERROR_WEIGHTS, "weight file of version %u, not %d",
                        read_u32(bytes + 4), VERSION);
    }
    if (!all_zero(bytes + 8, HEADER_SIZE - 8))
        return ane_fail(error, ANE_ERROR_WEIGHTS, "reserved bytes of the file header are not zero");
    return ANE_OK;
}

/* A record at `start`, a multiple of 64, and its data behind it. */
static ane_status check_record(const ane_weight_file *file, size_t start, mil_record *record,
                               ane_error_info *error) {
    if (start > file->size || file->size - start < RECORD_SIZE)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "record at %zu is outside the file", start);
    const unsigned char *at = (const unsigned char *)file->data + start;
    const stored *dtype = find_code(read_u32(at + 4));
    uint64_t size = read_u64(at + 8), offset = read_u64(at + 16);
    if (read_u32(at) != SENTINEL)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "record at %zu lacks the mark 0xDEADBEEF", start);
    if (!dtype) {
        return ane_fail(error, ANE_ERROR_WEIGHTS, "record at %zu has dtype %u; not supported",
                        start, read_u32(at + 4));
    }
    if (!all_zero(at + 24, RECORD_SIZE - 24))
        return ane_fail(error, ANE_ERROR_WEIGHTS, "reserved bytes of record at %zu not zero",
                        start);
    if (offset % ALIGNMENT != 0 || offset < start + RECORD_SIZE)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "data of record at %zu is misplaced", start);
    if (offset > file->size || size > file->size - offset)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "data of record at %zu leaves the file", start);
    *record = (mil_record){dtype->dtype, (const unsigned char *)file->data + offset, size};
    return ANE_OK;
}

/* Where the next record can start. */
static size_t after(const ane_weight_file *file, const mil_record *record) {
    size_t end = (size_t)(record->data - (const unsigned char *)file->data) + record->size;
    return (end + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;
}

ane_status mil_record_read(const ane_weight_file *file, uint64_t offset, mil_record *record,
                           ane_error_info *error) {
    ane_status status = check_header(file, error);
    if (status) return status;
    uint32_t count = read_u32(file->data);
    bool found = false;
    size_t start = HEADER_SIZE;
    for (uint32_t i = 0; i < count; i++) {
        mil_record each;
        status = check_record(file, start, &each, error);
        if (status) return status;
        if (start == offset) {
            *record = each;
            found = true;
        }
        start = after(file, &each);
    }
    if (found) return ANE_OK;
    return ane_fail(error, ANE_ERROR_WEIGHTS, "none of the %u records is at this offset", count);
}

static float float_at(const unsigned char *data) {
    uint32_t bits = read_u32(data);
    float value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

/* Through a buffer, since the caller's bytes need not be aligned. */
static void read_halves(const unsigned char *data, size_t count, float *floats) {
    uint16_t halves[512];
    for (size_t done = 0; done < count;) {
        size_t part = count - done < 512 ? count - done : 512;
        for (size_t i = 0; i < part; i++)
            halves[i] = (uint16_t)(data[2 * (done + i)] | data[2 * (done + i) + 1] << 8);
        ane_floats_from_halves(part, halves, floats + done);
        done += part;
    }
}

void mil_record_floats(const mil_record *record, size_t count, float *floats) {
    if (record->dtype == MIL_FP16) {
        read_halves(record->data, count, floats);
        return;
    }
    for (size_t i = 0; i < count; i++) floats[i] = float_at(record->data + 4 * i);
}

static int64_t integer_at(mil_dtype dtype, const unsigned char *data, size_t i) {
    switch (dtype) {
    case MIL_INT8:
        return (int8_t)data[i];
    case MIL_UINT8:
        return data[i];
    case MIL_INT16:
        return (int16_t)(data[2 * i] | data[2 * i + 1] << 8);
    case MIL_UINT16:
        return data[2 * i] | data[2 * i + 1] << 8;
    case MIL_INT32:
        return (int32_t)read_u32(data + 4 * i);
    default:
        return read_u32(data + 4 * i);
    }
}

bool mil_record_integers(const mil_record *record, size_t count, int32_t *integers) {
    for (size_t i = 0; i < count; i++) {
        int64_t value = integer_at(record->dtype, record->data, i);
        if (value > INT32_MAX) return false;
        integers[i] = (int32_t)value;
    }
    return true;
}
