/* tale.m: makes loaded programs tell something untrue of their outputs. ANE_STANDIN_TALE holds
 * items separated by semicolons: "symbols=a,b" for the names in the chip's order, "types=" for
 * values of no expected type, "Key=value" for what is told of the output that was declared last. */
#import "standin.h"

#include <stdlib.h>

static id value_of(const char *text) {
    char *end;
    long long number = strtoll(text, &end, 0);
    return *text && !*end ? @(number) : [NSString stringWithUTF8String:text];
}

static NSDictionary *with(NSDictionary *dictionary, NSString *key, id value) {
    NSMutableDictionary *changed = [dictionary mutableCopy];
    changed[key] = value;
    return changed;
}

static NSDictionary *with_symbols(NSDictionary *told, NSString *names) {
    NSArray *list = [names componentsSeparatedByString:@","];
    NSDictionary *description = told[@"ANEFModelDescription"];
    return with(told, @"ANEFModelDescription",
                with(description, @"kANEFModelOutputSymbolsArrayKey", list));
}

static NSDictionary *with_entry(NSDictionary *told, NSString *key, id value) {
    NSDictionary *status = [told[@"NetworkStatusList"] firstObject];
    NSArray *entries = status[@"LiveOutputList"];
    NSMutableArray *changed = [NSMutableArray array];
    for (NSDictionary *entry in entries) {
        bool last = changed.count + 1 == entries.count;
        [changed addObject:last ? with(entry, key, value) : entry];
    }
    return with(told, @"NetworkStatusList", @[ with(status, @"LiveOutputList", changed) ]);
}

static NSDictionary *with_item(NSDictionary *told, NSArray<NSString *> *item) {
    if ([item[0] isEqualToString:@"symbols"]) return with_symbols(told, item[1]);
    if ([item[0] isEqualToString:@"types"])
        return @{@"NetworkStatusList" : @5, @"ANEFModelDescription" : @[ @"kANEF" ]};
    return with_entry(told, item[0], value_of(item[1].UTF8String));
}

NSDictionary *standin_retell(NSDictionary *told) {
    const char *tale = getenv("ANE_STANDIN_TALE");
    NSString *text = [NSString stringWithUTF8String:tale ? tale : ""];
    for (NSString *item in [text componentsSeparatedByString:@";"]) {
        NSArray *parts = [item componentsSeparatedByString:@"="];
        if (parts.count == 2) told = with_item(told, parts);
    }
    return told;
}
