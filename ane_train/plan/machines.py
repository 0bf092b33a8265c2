"""The one table of constants of machines, each with where it is from.

Of the Neural Engine itself `mil.chips` is the table; here is what time depends on. A constant is
published, or fitted to published times of single parts of a step (measurements.py); the test of
this table does the fit again. None is fitted to the length of a step but that of `rotation`.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from types import MappingProxyType

from ane_train.errors import ConfigError
from ane_train.mil.chips import Chip, get_chip

MEGABYTE = 1 << 20


@dataclass(frozen=True, slots=True)
class Constant:
    """A value in SI units, and its source."""

    value: float
    source: str


@dataclass(frozen=True, slots=True)
class Machine:
    """A chip as it is sold; `chip` names its Neural Engine in `mil.chips`.

    dispatch: seconds of an evaluation besides its work. rate: FLOP/s of chains of products that are
    as narrow as a sequence. constant_bandwidth, surface_bandwidth: bytes/s of weights that are
    constants, and of inputs and outputs. sram: bytes; beyond it everything takes `spill` times as
    long. compile: seconds of a program. blas: FLOP/s of fp32 products on the CPU. The rest are
    seconds per unit of `work.KINDS`, on one core.
    """

    name: str
    title: str
    chip: str
    clusters: int
    dispatch: Constant
    rate: Constant
    constant_bandwidth: Constant
    surface_bandwidth: Constant
    sram: Constant
    spill: Constant
    compile: Constant
    blas: Constant
    copy: Constant
    convert: Constant
    elementwise: Constant
    exp: Constant
    transpose: Constant
    strided: Constant
    rotation: Constant

    @property
    def engine(self) -> Chip:
        """The profile of the Neural Engine."""
        return get_chip(self.chip)

    def constants(self) -> Mapping[str, Constant]:
        """All constants by name."""
        found = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in found.items() if isinstance(value, Constant)}


_ISSUE = "maderix/ANE#3"
_ANEMLL = "Anemll/anemll-bench README, ANE bandwidth"
_RESULTS = "maderix/ANE benchmarks/community_results.json"
_M3_ULTRA = "maderix/ANE#28"
_M5_MAX = "maderix/ANE#50, benchmarks/m5max_result.md"
_M4_CLASSIFIER = f"{_ISSUE}, M4 mini: 12.6 GFLOP of the classifier in 8.8 ms"
_NOT_MEASURED = "not published; as on M4"

_M4 = Machine(
    name="m4",
    title="Apple M4",
    chip="m4",
    clusters=1,
    dispatch=Constant(95e-6, "maderix/ANE, Inside the M4 Apple Neural Engine, part 2"),
    rate=Constant(
        15.6e12, f"{_ISSUE}, M4 mini, inmem_peak: 32 to 128 times 512 channels, width 64"
    ),
    constant_bandwidth=Constant(64e9, _ANEMLL),
    surface_bandwidth=Constant(42.0e9, "fitted to engine times of all machines"),
    sram=Constant(32 * MEGABYTE, "maderix/ANE, Inside the M4 Apple Neural Engine, part 2"),
    spill=Constant(1 / 0.7, "maderix/ANE, Inside the M4 Apple Neural Engine, part 2: -30 %"),
    compile=Constant(3.3 / 60, f"{_ISSUE}, M4 mini: 60 programs"),
    blas=Constant(1.43e12, _M4_CLASSIFIER),
    copy=Constant(9.47e-12, "fitted to copies of the dynamic pipeline in fp32"),
    convert=Constant(18.4e-12, "fitted to copies of the static pipeline"),
    elementwise=Constant(6.61e-12, "fitted to times of RMSNorm and its backward"),
    exp=Constant(0.425e-9, "fitted to times of the backward of SiLU"),
    transpose=Constant(0.489e-9, "fitted to elementwise times of the static pipeline"),
    strided=Constant(1.76e-9, "fitted to classifier times of the dynamic pipeline in fp32"),
    rotation=Constant(6.81e-9, "fitted to step times of the dynamic pipeline in fp16"),
)
_M1_PRO = replace(
    _M4,
    name="m1-pro",
    title="Apple M1 Pro",
    chip="m1",
    clusters=2,
    dispatch=Constant(215e-6, "sbryngelson/ANEForge and ane-guide, M1: 200 to 230 us"),
    rate=Constant(4.6e12, "sbryngelson/ANEForge, rooflines, M1 Max: products"),
    constant_bandwidth=Constant(55e9, _ANEMLL),
    sram=Constant(8 * MEGABYTE, "libane's table of chips, for M1"),
    compile=Constant(8.2 / 60, f"{_RESULTS}: 60 programs"),
    blas=Constant(2.03e12, f"{_ISSUE}, M1 Max: 12.6 GFLOP of the classifier in 6.2 ms"),
)
_M3_ULTRA_MACHINE = replace(
    _M4,
    name="m3-ultra",
    title="Apple M3 Ultra",
    chip="m3",
    clusters=4,
    dispatch=Constant(172e-6, f"{_M3_ULTRA}, inmem_peak: 64 to 128 times 512 channels at depth 0"),
    rate=Constant(12.2e12, f"{_M3_ULTRA}, inmem_peak: 64 to 128 times 512 channels, width 64"),
    constant_bandwidth=Constant(120e9, "Anemll/anemll-bench, one model on an Ultra"),
    sram=Constant(32 * MEGABYTE, "libane's table of chips, for M3"),
    compile=Constant(3.77 / 60, f"{_M3_ULTRA}: 60 programs"),
    blas=Constant(3.03e12, f"{_M3_ULTRA}: 12.6 GFLOP of the classifier in 4.15 ms"),
)
_M4_MAX = replace(
    _M4,
    name="m4-max",
    title="Apple M4 Max",
    clusters=2,
    dispatch=Constant(120e-6, "ncdrone/ane, M4 Max: 116 to 125 us"),
    constant_bandwidth=Constant(119e9, _ANEMLL),
    compile=Constant(3.531 / 60, f"{_RESULTS}: 60 programs"),
    blas=Constant(2 * 1.43e12, f"two clusters as that of M4: {_M4_CLASSIFIER}"),
)
_M5 = replace(
    _M4,
    name="m5",
    title="Apple M5",
    chip="m5",
    dispatch=Constant(90e-6, "sbryngelson/ANEForge: a call on the class of M5"),
    rate=Constant(15.6e12, _NOT_MEASURED),
    constant_bandwidth=Constant(70e9, _ANEMLL),
    sram=Constant(32 * MEGABYTE, _NOT_MEASURED),
    compile=Constant(3.3 / 60, f"{_RESULTS}: 60 programs"),
    blas=Constant(1.43e12, _NOT_MEASURED),
)

MACHINES: Mapping[str, Machine] = MappingProxyType(
    {
        machine.name: machine
        for machine in (
            _M1_PRO,
            replace(
                _M1_PRO,
                name="m1-max",
                title="Apple M1 Max",
                compile=Constant(7.1 / 60, f"{_RESULTS}: 60 programs"),
            ),
            _M3_ULTRA_MACHINE,
            _M4,
            replace(
                _M4_MAX,
                name="m4-pro",
                title="Apple M4 Pro",
                dispatch=Constant(95e-6, _NOT_MEASURED),
                constant_bandwidth=Constant(126e9, _ANEMLL),
                compile=Constant(3.465 / 60, f"{_RESULTS}: 60 programs"),
            ),
            _M4_MAX,
            _M5,
            replace(
                _M5,
                name="m5-max",
                title="Apple M5 Max",
                clusters=2,
                rate=Constant(18.3e12, f"{_M5_MAX}: 32 to 128 times 512 channels, width 64"),
                constant_bandwidth=Constant(148e9, _ANEMLL),
                compile=Constant(3.36 / 60, f"{_M5_MAX}: 60 programs"),
                blas=Constant(2 * 1.43e12, f"two clusters as that of M4: {_M4_CLASSIFIER}"),
            ),
        )
    }
)


def get_machine(name: str) -> Machine:
    """The machine of that name, in any spelling ("M4 Max", "m4_max"). ConfigError with a hint."""
    wanted = name.lower().replace(" ", "-").replace("_", "-").removeprefix("apple-")
    if wanted in MACHINES:
        return MACHINES[wanted]
    near = difflib.get_close_matches(wanted, MACHINES, 1)
    hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(MACHINES)}"
    raise ConfigError(f"no constants are known for the chip '{name}'; {hint}")
