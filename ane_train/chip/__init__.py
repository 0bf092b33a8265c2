"""What a chip can do: programs that are first proved right on the engine at hand, then timed.

`table` has the benchmarks of these names.
"""

NAMES = ("peak", "latency", "sram", "update", "io", "limits", "train")
PRECISIONS = FP16, INT8 = ("fp16", "int8")
