/* layout.m: order and geometry of ports out of a loaded program's attributes; see layout.h. Nothing
 * is taken for granted about the types of what those hold. */
#import "layout.h"

#include "../engine/surface.h"

#include <string.h>

#define OUTPUT_SUFFIX @"@output" /* that the compiler puts behind the names of outputs */

typedef struct known_type {
    const char *name;
    size_t size;
} known_type;

static const known_type TYPES[] = {
    {"Float16", 2}, {"Float32", 4}, {"Int32", 4}, {"UInt32", 4}, {"Int16", 2},
    {"UInt16", 2},  {"Int8", 1},    {"UInt8", 1}, {"Bool", 1},
};

static NSDictionary *as_dictionary(id value) {
    return [value isKindOfClass:[NSDictionary class]] ? value : nil;
}

static NSArray *as_array(id value) {
    return [value isKindOfClass:[NSArray class]] ? value : nil;
}

static NSString *as_string(id value) {
    return [value isKindOfClass:[NSString class]] ? value : nil;
}

static id first_of(id value) {
    NSArray *array = as_array(value);
    return array.count ? array[0] : nil;
}

/* 0 where there is no such number. */
static unsigned long long number_in(NSDictionary *entry, NSString *key) {
    id value = entry[key];
    return [value isKindOfClass:[NSNumber class]] ? [value unsignedLongLongValue] : 0;
}

static const char *side_name(const layout_side *side) {
    return side->output ? "output" : "input";
}

static bool is_named(id symbol, const char *name) {
    NSString *text = as_string(symbol);
    if ([text hasSuffix:OUTPUT_SUFFIX])
        text = [text substringToIndex:text.length - OUTPUT_SUFFIX.length];
    return text && strcmp(text.UTF8String, name) == 0;
}

static size_t find_port(const layout_side *side, id symbol) {
    for (size_t i = 0; i < side->count; i++)
        if (is_named(symbol, side->ports[i].name)) return i;
    return side->count;
}

static void order_alphabetically(const layout_side *side, layout_slot *slots) {
    for (size_t i = 0; i < side->count; i++) {
        size_t position = 0;
        for (size_t j = 0; j < side->count; j++)
            if (strcmp(side->ports[j].name, side->ports[i].name) < 0) position++;
        slots[position] = (layout_slot){.port = i, .symbol = position};
    }
}

/* The symbol at a position of the first procedure: an index into the symbols of all procedures. */
static unsigned long long symbol_at(NSArray *indices, size_t position) {
    id index = position < indices.count ? indices[position] : nil;
    return [index isKindOfClass:[NSNumber class]] ? [index unsignedLongLongValue] : position;
}

static bool is_taken(const layout_slot *slots, size_t position) {
    for (size_t i = 0; i < position; i++)
        if (slots[i].port == slots[position].port) return true;
    return false;
}

static ane_status order_by_symbols(NSArray *symbols, NSArray *indices, const layout_side *side,
                                   layout_slot *slots, ane_error_info *error) {
    size_t count = indices ? indices.count : symbols.count;
    if (count != side->count)
        return ane_fail(error, ANE_ERROR_UNSUPPORTED,
                        "the loaded program has %zu %ss, its text %zu", count, side_name(side),
                        side->count);
    for (size_t i = 0; i < count; i++) {
        unsigned long long symbol = symbol_at(indices, i);
        id name = symbol < symbols.count ? symbols[symbol] : nil;
        slots[i] = (layout_slot){.port = find_port(side, name), .symbol = symbol};
        if (slots[i].port < side->count && !is_taken(slots, i)) continue;
        const char *words = as_string(name) ? as_string(name).UTF8String : "without a name";
        return ane_fail(error, ANE_ERROR_UNSUPPORTED,
                        "%s %zu of the loaded program is '%.200s', not one of its text's, or twice",
                        side_name(side), i, words);
    }
    return ANE_OK;
}

static ane_status differ(const char *port, const char *what, unsigned long long found,
                         unsigned long long expected, ane_error_info *error) {
    return ane_fail(error, ANE_ERROR_UNSUPPORTED,
                    "port '%.200s': the loaded program has %s %llu, the surface %llu", port, what,
                    found, expected);
}

typedef struct expectation {
    const char *what;
    unsigned long long found; /* 0: not told */
    unsigned long long expected;
} expectation;

static unsigned long long at_least_one(unsigned long long value) {
    return value ? value : 1;
}

static unsigned long long element_size_of(NSDictionary *entry) {
    const char *type = as_string(entry[@"Type"]).UTF8String;
    for (size_t i = 0; type && i < sizeof TYPES / sizeof *TYPES; i++)
        if (strcmp(type, TYPES[i].name) == 0) return TYPES[i].size;
    return 0;
}

/* Rows of all but the last dimension lie row_stride apart, whatever the chip calls them. */
static ane_status check_geometry(NSDictionary *entry, const char *port, const ane_memory *memory,
                                 ane_error_info *error) {
    unsigned long long batches = at_least_one(number_in(entry, @"Batches"));
    unsigned long long height = at_least_one(number_in(entry, @"Height"));
    unsigned long long channels = number_in(entry, @"Channels");
    unsigned long long planes = batches * at_least_one(number_in(entry, @"Depth")) * channels;
    unsigned long long plane = number_in(entry, @"PlaneStride");
    const expectation expectations[] = {
        {"bytes per element", element_size_of(entry), memory->element_size},
        {"Interleave", number_in(entry, @"Interleave"), 1},
        {"Width", number_in(entry, @"Width"), memory->width},
        {"rows", planes * height, memory->channels},
        {"RowStride", number_in(entry, @"RowStride"), memory->row_stride},
        {"PlaneStride", planes > 1 ? plane : 0, height * memory->row_stride},
    };
    for (size_t i = 0; i < sizeof expectations / sizeof *expectations; i++) {
        const expectation *one = &expectations[i];
        if (one->found && one->found != one->expected)
            return differ(port, one->what, one->found, one->expected, error);
    }
    unsigned long long batch = number_in(entry, @"BatchStride");
    unsigned long long bytes = batch ? batch * batches : plane * planes;
    return bytes > memory->size ? differ(port, "bytes", bytes, memory->size, error) : ANE_OK;
}

static NSDictionary *find_entry(NSArray *entries, const char *port) {
    for (id one in entries) {
        NSDictionary *entry = as_dictionary(one);
        if (is_named(entry[@"Name"], port) || is_named(entry[@"Symbol"], port)) return entry;
    }
    return nil;
}

static ane_status check_ports(NSArray *entries, const layout_side *side, ane_error_info *error) {
    for (size_t i = 0; i < side->count; i++) {
        const char *name = side->ports[i].name;
        NSDictionary *entry = find_entry(entries, name);
        if (!entry)
            return ane_fail(error, ANE_ERROR_UNSUPPORTED, "the loaded program has no %s '%.200s'",
                            side_name(side), name);
        ane_status status = check_geometry(entry, name, &side->surfaces[i]->memory, error);
        if (status) return status;
    }
    return ANE_OK;
}

ane_status layout_resolve(id attributes, const layout_side *side, layout_slot *slots,
                          ane_error_info *error) {
    NSDictionary *told = as_dictionary(attributes);
    NSDictionary *description = as_dictionary(told[@"ANEFModelDescription"]);
    NSDictionary *procedure = as_dictionary(first_of(description[@"ANEFModelProcedures"]));
    NSDictionary *network = as_dictionary(first_of(told[@"NetworkStatusList"]));
    NSArray *symbols = as_array(description[side->output ? @"kANEFModelOutputSymbolsArrayKey"
                                                         : @"kANEFModelInputSymbolsArrayKey"]);
    NSArray *indices = as_array(procedure[side->output ? @"ANEFModelOutputSymbolIndexArray"
                                                       : @"ANEFModelInputSymbolIndexArray"]);
    NSArray *entries = as_array(network[side->output ? @"LiveOutputList" : @"LiveInputList"]);
    order_alphabetically(side, slots);
    ane_status status = ANE_OK;
    if (symbols) status = order_by_symbols(symbols, indices, side, slots, error);
    if (!status && entries) status = check_ports(entries, side, error);
    return status;
}
