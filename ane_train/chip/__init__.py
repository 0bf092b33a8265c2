"""What a chip can do: programs that are first proved right on the engine at hand, then timed."""

# Benchmarks and what they measure, for help that is instant; `table` has what they do.
HELP = {
    "peak": "throughput of convolutions and products, fp16 and int8",
    "latency": "calls that compute next to nothing, compiling and loading",
    "sram": "time over the size of a working set, and the knee in it",
    "update": "new weights: copied into a surface, or compiled anew",
    "io": "numbers into surfaces and out of them",
    "limits": "what the compiler and the chip take: alignment, versions, sizes",
    "train": "a micro-batch and its update, beside what `ane-train plan` says",
}
NAMES = tuple(HELP)
PRECISIONS = FP16, INT8 = ("fp16", "int8")
