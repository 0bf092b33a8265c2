/* attributes.m: what a loaded program tells of its inputs and outputs, under the keys that
 * tmc/apple reads. */
#import "standin.h"

#include <string.h>

static NSDictionary *port_entry(const computation_port *port) {
    NSString *name = [NSString stringWithUTF8String:port->name];
    BOOL half = strcmp(port->dtype, "fp16") == 0;
    return @{
        @"Name" : name,
        @"Symbol" : name,
        @"Type" : half ? @"Float16" : @"Float32",
        @"Channels" : @(port->channels),
        @"Height" : @(port->height),
        @"Width" : @(port->width),
        @"RowStride" : @(port->row_stride),
        @"PlaneStride" : @(port->row_stride * port->height),
    };
}

static NSArray *port_entries(const computation_port *ports, size_t count) {
    NSMutableArray *entries = [NSMutableArray array];
    for (size_t i = 0; i < count; i++) [entries addObject:port_entry(&ports[i])];
    return entries;
}

/* The names in the chip's order. */
static NSArray *symbols(const computation_port *ports, size_t count) {
    NSMutableArray *names = [NSMutableArray array];
    for (size_t symbol = 0; symbol < count; symbol++) {
        for (size_t i = 0; i < count; i++) {
            if (ports[i].symbol != symbol) continue;
            [names addObject:[NSString stringWithUTF8String:ports[i].name]];
        }
    }
    return names;
}

NSDictionary *standin_attributes(const computation *from) {
    NSDictionary *status = @{
        @"LiveInputList" : port_entries(from->inputs, from->input_count),
        @"LiveOutputList" : port_entries(from->outputs, from->output_count),
    };
    NSDictionary *description = @{
        @"kANEFModelInputSymbolsArrayKey" : symbols(from->inputs, from->input_count),
        @"kANEFModelOutputSymbolsArrayKey" : symbols(from->outputs, from->output_count),
    };
    return @{@"NetworkStatusList" : @[ status ], @"ANEFModelDescription" : description};
}
