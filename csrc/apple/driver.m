/* driver.m: opens the Neural Engine where the system is as it is known, and holds the table of the
 * driver, the one symbol of this library. */
#import "calls.h"
#import "engine.h"
#import "errors.h"

/* The parts that each way of evaluating needs besides the core. */
static const unsigned DISPATCH_PARTS[] = {
    [ANE_DISPATCH_QUEUE] = 0,
    [ANE_DISPATCH_DIRECT] = PART_DIRECT,
    [ANE_DISPATCH_REALTIME] = PART_REALTIME,
};

static ane_status check_device(const framework *known, ane_error_info *error) {
    if (framework_has_device_fact("hasANE") && !call_has_ane(known->device))
        return ane_fail(error, ANE_ERROR_MISSING, "this machine has no Neural Engine");
    if (framework_has_device_fact("isVirtualMachine") && call_is_virtual(known->device))
        return ane_fail(error, ANE_ERROR_MISSING,
                        "this is a virtual machine, where the Neural Engine is out of reach");
    return ANE_OK;
}

static ane_status check_system(const framework *known, ane_dispatch way, ane_error_info *error) {
    ane_status status = framework_require_loaded(error);
    if (!status) status = framework_require(PART_CORE | DISPATCH_PARTS[way], error);
    if (!status) status = framework_refuse_differences(PART_ATTRIBUTES, error);
    return status ? status : check_device(known, error);
}

static ane_status open_checked(const ane_options *options, void **engine, ane_error_info *error) {
    const framework *known = framework_get();
    ane_status status = check_system(known, options->dispatch, error);
    if (status) return status;
    apple_engine *opened = ane_alloc(1, sizeof *opened);
    if (!opened) return ane_fail(error, ANE_ERROR_MEMORY, "no memory for an engine");
    staging_sweep(NSTemporaryDirectory().UTF8String);
    *opened = (apple_engine){known, options->dispatch};
    *engine = opened;
    return ANE_OK;
}

static ane_status engine_open(ane_context *context, const ane_options *options, void **engine,
                              ane_error_info *error) {
    (void)context;
    *engine = NULL;
    if ((size_t)options->dispatch >= sizeof DISPATCH_PARTS / sizeof *DISPATCH_PARTS)
        return ane_fail(error, ANE_ERROR_ARGUMENT, "no dispatch path %d", (int)options->dispatch);
    return errors_guard(error, ANE_ERROR_MISSING, "open the Neural Engine", ^{
      return open_checked(options, engine, error);
    });
}

static void engine_close(void *engine) {
    ane_free(engine);
}

static const ane_driver DRIVER = {
    .version = ANE_DRIVER_VERSION,
    .name = "hardware",
    .describe = describe,
    .explore = explore,
    .open = engine_open,
    .close = engine_close,
    .surface_create = surface_create,
    .surface_free = surface_free,
    .surface_lock = surface_lock,
    .surface_unlock = surface_unlock,
    .program_compile = program_compile,
    .program_load = program_load,
    .program_unload = program_unload,
    .program_free = program_free,
    .request_create = request_create,
    .request_evaluate = request_evaluate,
    .request_free = request_free,
};

__attribute__((visibility("default"))) const ane_driver *ane_hardware_driver(void) {
    return &DRIVER;
}
