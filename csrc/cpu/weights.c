/* weights.c: reads weight files, checking each field of header and records (weight_format.h). */
#include "weights.h"

#include <string.h>

#include "../base/weight_format.h"

typedef struct stored {
    weight_dtype code;
    mil_dtype dtype;
    size_t size;
} stored;

static const stored stored_dtypes[] = {
    {WEIGHT_FP16, MIL_FP16, 2},   {WEIGHT_FP32, MIL_FP32, 4},    {WEIGHT_UINT8, MIL_UINT8, 1},
    {WEIGHT_INT8, MIL_INT8, 1},   {WEIGHT_INT16, MIL_INT16, 2},  {WEIGHT_UINT16, MIL_UINT16, 2},
    {WEIGHT_INT32, MIL_INT32, 4}, {WEIGHT_UINT32, MIL_UINT32, 4}};

static uint32_t read_u32(const unsigned char *at) {
    return (uint32_t)at[0] | (uint32_t)at[1] << 8 | (uint32_t)at[2] << 16 | (uint32_t)at[3] << 24;
}

static bool all_zero(const uint64_t *words, size_t count) {
    for (size_t i = 0; i < count; i++) {
        if (words[i]) return false;
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
        if ((uint32_t)stored_dtypes[i].code == code) return &stored_dtypes[i];
    }
    return NULL;
}

static ane_status check_header(const ane_weight_file *file, weight_header *header,
                               ane_error_info *error) {
    if (!file->data || file->size < sizeof *header)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "weight file shorter than its header");
    memcpy(header, file->data, sizeof *header);
    if (header->version != WEIGHT_VERSION) {
        return ane_fail(error, ANE_ERROR_WEIGHTS, "weight file of version %u, not %d",
                        header->version, WEIGHT_VERSION);
    }
    if (!all_zero(header->reserved, sizeof header->reserved / sizeof *header->reserved))
        return ane_fail(error, ANE_ERROR_WEIGHTS, "reserved bytes of the file header are not zero");
    return ANE_OK;
}

/* A record at `start`, a multiple of 64, and its data behind it. */
static ane_status check_record(const ane_weight_file *file, size_t start, mil_record *record,
                               ane_error_info *error) {
    weight_record read;
    if (start > file->size || file->size - start < sizeof read)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "record at %zu is outside the file", start);
    memcpy(&read, (const unsigned char *)file->data + start, sizeof read);
    const stored *dtype = find_code(read.dtype);
    if (read.sentinel != WEIGHT_SENTINEL)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "record at %zu lacks the mark 0xDEADBEEF", start);
    if (!dtype) {
        return ane_fail(error, ANE_ERROR_WEIGHTS, "record at %zu has dtype %u; not supported",
                        start, read.dtype);
    }
    if (!all_zero(read.reserved, sizeof read.reserved / sizeof *read.reserved))
        return ane_fail(error, ANE_ERROR_WEIGHTS, "reserved bytes of record at %zu not zero",
                        start);
    if (read.offset % WEIGHT_ALIGNMENT != 0 || read.offset < start + sizeof read)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "data of record at %zu is misplaced", start);
    if (read.offset > file->size || read.size > file->size - read.offset)
        return ane_fail(error, ANE_ERROR_WEIGHTS, "data of record at %zu leaves the file", start);
    const unsigned char *data = (const unsigned char *)file->data + read.offset;
    *record = (mil_record){dtype->dtype, data, read.size};
    return ANE_OK;
}

/* Where the next record can start. */
static size_t after(const ane_weight_file *file, const mil_record *record) {
    size_t end = (size_t)(record->data - (const unsigned char *)file->data) + record->size;
    return (end + WEIGHT_ALIGNMENT - 1) / WEIGHT_ALIGNMENT * WEIGHT_ALIGNMENT;
}

ane_status mil_record_read(const ane_weight_file *file, uint64_t offset, mil_record *record,
                           ane_error_info *error) {
    weight_header header;
    ane_status status = check_header(file, &header, error);
    if (status) return status;
    bool found = false;
    size_t start = sizeof header;
    for (uint32_t i = 0; i < header.count; i++) {
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
    return ane_fail(error, ANE_ERROR_WEIGHTS, "none of the %u records is at this offset",
                    header.count);
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
