"""The language of the Neural Engine: types, ops, a builder, its text, weight files, a verifier."""

from .builder import Builder
from .chips import CHIPS, Chip, Hazard, get_chip, hazards, most_channels, most_columns
from .infer import TypeRuleError
from .ops import OPS, infer_types
from .program import Op, Program
from .text import print_program
from .types import DTYPES, TensorType, Value, dtype_bytes
from .verify import Finding, require, verify
from .weights import WeightFile, blob_file

__all__ = [
    "CHIPS",
    "DTYPES",
    "OPS",
    "Builder",
    "Chip",
    "Finding",
    "Hazard",
    "Op",
    "Program",
    "TensorType",
    "TypeRuleError",
    "Value",
    "WeightFile",
    "blob_file",
    "dtype_bytes",
    "get_chip",
    "hazards",
    "infer_types",
    "most_channels",
    "most_columns",
    "print_program",
    "require",
    "verify",
]
