"""Contexts, surfaces, programs and requests of the core as objects that free themselves.

`close` ends an object at once; so does losing it. Using it after that is an EngineError. What a
request, a program or a NumPy view still needs stays until those are gone.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ane_train.errors import EngineError
from ane_train.native.library import check, ffi, find_blas, find_driver, lib, raise_error

Array = np.ndarray[Any, Any]

ENGINES = {"software": lib.ANE_SOFTWARE, "hardware": lib.ANE_HARDWARE}
DISPATCHES = {
    "queue": lib.ANE_DISPATCH_QUEUE,
    "direct": lib.ANE_DISPATCH_DIRECT,
    "realtime": lib.ANE_DISPATCH_REALTIME,
}
NUMERICS = {
    "fp16": lib.ANE_FP16,
    "fp32": lib.ANE_FP32,
    "bf16": lib.ANE_BF16,
    "hazard": lib.ANE_HAZARD,
}


class _Handle:
    """A pointer of the core, freed when nothing refers to it any more.

    Closing drops this reference; NumPy views of a surface, and children of a context, keep theirs.
    """

    __slots__ = ("_pointer", "kind")

    def __init__(self, kind: str, pointer: Any, free: Any) -> None:
        self.kind = kind
        self._pointer = ffi.gc(pointer, free)

    @property
    def pointer(self) -> Any:
        if self._pointer is None:
            raise EngineError(f"this {self.kind} is closed")
        return self._pointer

    def close(self) -> None:
        self._pointer = None


@dataclass(frozen=True, slots=True)
class Counts:
    """Programs compiled since the context was opened; programs loaded and surfaces alive now."""

    compiled: int
    loaded: int
    surfaces: int
    surface_bytes: int


@dataclass(frozen=True, slots=True)
class Cost:
    """Bytes of constants and of scratch memory; floating-point operations of the products."""

    constant_bytes: int
    scratch_bytes: int
    flops: float


@dataclass(frozen=True, slots=True)
class Port:
    """An input or an output of a program, as declared."""

    name: str
    dtype: str
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ContextOptions:
    """How an engine is opened.

    `threads` 0 is one per core; the limits (programs compiled in all, programs loaded at a time,
    bytes of fp32 copies of weights) 0 are none; `blas` is a path, "auto", or None for the built-in
    loops; `reference` takes the slow evaluator that defines the ops. `engine` is "software" or
    "hardware", driven by the library `driver` ("auto": the one built with this package) on the
    path `dispatch`.
    """

    numerics: str = "fp16"
    hazards: int = 0
    threads: int = 0
    compile_limit: int = 0
    load_limit: int = 0
    blas: str | None = "auto"
    reference: bool = False
    cache_limit: int = 0
    engine: str = "software"
    dispatch: str = "queue"
    driver: str | None = "auto"

    def to_native(self) -> tuple[Any, list[Any]]:
        """An ane_options, and what must live as long as it. EngineError for an unknown name."""
        blas = find_blas() if self.blas == "auto" else self.blas
        driver = find_driver() if self.driver == "auto" else self.driver
        kept = [ffi.NULL if path is None else _text(path) for path in (blas, driver)]
        options = ffi.new(
            "ane_options *",
            {
                "numerics": _named("numerics", self.numerics, NUMERICS),
                "hazards": self.hazards,
                "threads": self.threads,
                "compile_limit": self.compile_limit,
                "load_limit": self.load_limit,
                "blas_path": kept[0],
                "reference": self.reference,
                "cache_limit": self.cache_limit,
                "engine": _named("engine", self.engine, ENGINES),
                "dispatch": _named("dispatch", self.dispatch, DISPATCHES),
                "driver_path": kept[1],
            },
        )
        return options, kept


def _text(path: str) -> Any:
    return ffi.new("char[]", path.encode())


def _named(setting: str, name: str, values: Mapping[str, int]) -> int:
    if name not in values:
        raise EngineError(f"{setting} '{name}' is not known; use {', '.join(values)}")
    return values[name]


def describe_engine(options: ContextOptions) -> dict[str, Any]:
    """What can be told of an engine without opening it; NativeError "missing" if it is not there.

    Of the hardware: framework, classes, methods with type encodings, facts of the device.
    """
    return _ask(lib.ane_engine_describe, options)


def explore_engine(options: ContextOptions) -> dict[str, Any]:
    """All private classes and protocols behind an engine, without a message to any of them.

    NativeError "missing" where there is no driver, no framework or no Objective-C runtime.
    """
    return _ask(lib.ane_engine_explore, options)


def _ask(question: Any, options: ContextOptions) -> dict[str, Any]:
    native, _kept = options.to_native()
    described, error = ffi.new("char **"), ffi.new("ane_error_info *")
    if question(native, described, error) != lib.ANE_OK:
        raise_error(error)
    try:
        text: bytes = ffi.string(described[0])
    finally:
        lib.ane_text_free(described[0])
    facts: dict[str, Any] = json.loads(text)
    return facts


class Context:
    """An open engine; the arguments are those of ContextOptions."""

    def __init__(self, numerics: str = "fp16", hazards: int = 0, **others: Any) -> None:
        options = ContextOptions(numerics, hazards, **others)
        native, _kept = options.to_native()
        opened, error = ffi.new("ane_context **"), ffi.new("ane_error_info *")
        if lib.ane_context_open(native, opened, error) != lib.ANE_OK:
            raise_error(error)
        self._handle = _Handle("engine", opened[0], lib.ane_context_free)
        self.options = options
        self.numerics = options.numerics
        self.threads: int = lib.ane_context_threads(self._pointer)
        self.blas_name: str = ffi.string(lib.ane_context_blas(self._pointer)).decode()

    @property
    def _pointer(self) -> Any:
        return self._handle.pointer

    def counts(self) -> Counts:
        """What has been compiled, and what is alive."""
        counts = ffi.new("ane_counts *")
        lib.ane_context_counts(self._pointer, counts)
        return Counts(counts.compiled, counts.loaded, counts.surfaces, counts.surface_bytes)

    def surface(self, channels: int, width: int, element_size: int) -> Surface:
        """A zero-filled surface [1, channels, 1, width] of 2-byte (fp16) or 4-byte elements."""
        made = ffi.new("ane_surface **")
        status = lib.ane_surface_create(self._pointer, channels, width, element_size, made)
        check(self._pointer, status)
        return Surface(self, made[0], channels, width, element_size)

    def compile(
        self,
        text: str,
        files: Mapping[str, bytes] | None = None,
        *,
        donor: Program | None = None,
        engine: str | None = None,
        load: bool = True,
    ) -> Program:
        """Compiles (and loads) MIL text with its weight files. NativeError with line and column.

        With a `donor`, a program of equal text, its compiled form is used and nothing is compiled.
        `engine` "software" runs this program in software, on this engine's surfaces.
        """
        encoded = text.encode()
        paths = [ffi.new("char[]", path.encode()) for path in files or {}]
        contents = [ffi.from_buffer(data) for data in (files or {}).values()]
        table = ffi.new("ane_weight_file[]", len(paths))
        for entry, path, data in zip(table, paths, contents, strict=True):
            entry.path, entry.data, entry.size = path, data, len(data)
        options = ffi.new("ane_compile_options *")
        options.engine = _named("engine", engine or self.options.engine, ENGINES)
        options.donor = ffi.NULL if donor is None else donor._pointer
        made = ffi.new("ane_program **")
        status = lib.ane_program_compile(
            self._pointer, encoded, len(encoded), table, len(paths), options, made
        )
        check(self._pointer, status)
        program = Program(self, made[0])
        if load:
            program.load()
        return program

    def print(self, text: str) -> str:
        """The MIL text as the core's parser understood it, in canonical form."""
        encoded, printed = text.encode(), ffi.new("char **")
        check(self._pointer, lib.ane_program_print(self._pointer, encoded, len(encoded), printed))
        try:
            canonical: bytes = ffi.string(printed[0])
        finally:
            lib.ane_text_free(printed[0])
        return canonical.decode()

    def close(self) -> None:
        """Ends the engine; its threads end when surfaces, programs and requests are gone too."""
        self._handle.close()

    def __enter__(self) -> Context:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Memory:
    """Lends a surface's memory to NumPy; the array keeps this, and this keeps the surface."""

    __slots__ = ("__array_interface__", "_pointer")

    def __init__(self, surface: Surface, read_only: bool) -> None:
        pointer = self._pointer = surface._pointer
        size = surface.element_size
        self.__array_interface__ = {
            "version": 3,
            "shape": (surface.channels, surface.width),
            "strides": (lib.ane_surface_row_stride(pointer), size),
            "typestr": f"<f{size}",
            "data": (int(ffi.cast("uintptr_t", lib.ane_surface_base(pointer))), read_only),
        }


def _rows_of_floats(array: Array) -> tuple[Any, int]:
    """Address and row stride (in elements) of a float32 matrix whose rows are contiguous."""
    stride = array.strides[0] // 4 if array.shape[0] > 1 else max(1, array.shape[1])
    return ffi.cast("float *", array.__array_interface__["data"][0]), stride


def _has_rows(array: Array) -> bool:
    rows, columns = array.shape
    contiguous = columns <= 1 or array.strides[1] == 4
    ordered = rows <= 1 or (array.strides[0] % 4 == 0 and array.strides[0] >= 4 * columns)
    return array.dtype == np.float32 and contiguous and ordered


class Surface:
    """A [1, C, 1, W] array that programs read and write."""

    def __init__(
        self, context: Context, pointer: Any, channels: int, width: int, element_size: int
    ) -> None:
        self._handle = _Handle("surface", pointer, lib.ane_surface_free)
        self._context = context._pointer
        self.channels = channels
        self.width = width
        self.element_size = element_size

    @property
    def _pointer(self) -> Any:
        return self._handle.pointer

    def _check(self, status: int) -> None:
        check(self._context, status)

    @property
    def array(self) -> Array:
        """A copy [C, W] of the elements as they are now, float16 or float32.

        .view(np.int32) shows integers; `locked` lends the memory itself.
        """
        with self.locked(read_only=True) as memory:
            return memory.copy()

    def write(
        self,
        source: Array,
        row: int = 0,
        column: int = 0,
        transposed: bool = False,
        scale: float = 1.0,
    ) -> None:
        """Puts scale * source (or its transpose), rounded to the element type, at (row, column)."""
        matrix = np.asarray(source, np.float32)
        if matrix.ndim != 2:
            raise ValueError(f"a block has two axes, not {matrix.ndim}")
        if not _has_rows(matrix):
            matrix = np.ascontiguousarray(matrix)
        rows, columns = matrix.shape[::-1] if transposed else matrix.shape
        data, stride = _rows_of_floats(matrix)
        status = lib.ane_surface_write(
            self._pointer, row, column, rows, columns, data, stride, transposed, scale
        )
        self._check(status)

    def read(
        self,
        row: int = 0,
        column: int = 0,
        rows: int | None = None,
        columns: int | None = None,
        out: Array | None = None,
        alpha: float = 1.0,
        beta: float = 0.0,
        addend: Array | None = None,
    ) -> Array:
        """Returns out = beta * addend + alpha * block, float32 [rows, columns].

        Without rows and columns the block reaches to the end of the surface. An absent out is
        made, and an absent addend is out as it was.
        """
        rows = self.channels - row if rows is None else rows
        columns = self.width - column if columns is None else columns
        if out is None:
            out = np.empty((rows, columns), np.float32)
            beta = 0.0 if addend is None else beta
        if out.shape != (rows, columns) or not _has_rows(out) or not out.flags.writeable:
            raise ValueError(
                f"out is not a writeable float32 array {rows} x {columns} with whole rows"
            )
        data, stride = _rows_of_floats(out)
        added = data
        if addend is not None:
            if addend.shape != out.shape or not _has_rows(addend) or addend.strides != out.strides:
                raise ValueError("the addend is not a float32 array with the rows of out")
            added, _ = _rows_of_floats(addend)
        status = lib.ane_surface_read(
            self._pointer, row, column, rows, columns, alpha, beta, added, data, stride
        )
        self._check(status)
        return out

    def copy_from(
        self,
        row: int,
        column: int,
        source: Surface,
        source_row: int,
        source_column: int,
        rows: int,
        columns: int,
    ) -> None:
        """Copies a block of another surface of equal element size, bit for bit."""
        place = (source._pointer, source_row, source_column, rows, columns)
        self._check(lib.ane_surface_copy(self._pointer, row, column, *place))

    @contextmanager
    def locked(self, read_only: bool = False) -> Iterator[Array]:
        """Lends the memory as an array [C, W]; programs that need the surface have to wait."""
        self._check(lib.ane_surface_lock(self._pointer, read_only))
        try:
            yield np.asarray(_Memory(self, read_only))
        finally:
            self._check(lib.ane_surface_unlock(self._pointer))

    def close(self) -> None:
        """Gives the memory back, once no request needs it."""
        self._handle.close()


class Program:
    """A compiled program. Requests bind it to surfaces."""

    def __init__(self, context: Context, pointer: Any) -> None:
        self._handle = _Handle("program", pointer, lib.ane_program_free)
        self._context = context._pointer
        inputs = range(lib.ane_program_inputs(pointer))
        outputs = range(lib.ane_program_outputs(pointer))
        self.inputs = tuple(self._port(lib.ane_program_input, i) for i in inputs)
        self.outputs = tuple(self._port(lib.ane_program_output, i) for i in outputs)

    @property
    def _pointer(self) -> Any:
        return self._handle.pointer

    def _check(self, status: int) -> None:
        check(self._context, status)

    def _port(self, describe: Any, index: int) -> Port:
        port = ffi.new("ane_port *")
        self._check(describe(self._pointer, index, port))
        name, dtype = ffi.string(port.name).decode(), ffi.string(port.dtype).decode()
        return Port(name, dtype, tuple(port.shape[i] for i in range(port.rank)))

    @property
    def cost(self) -> Cost:
        """Memory and work of one evaluation."""
        constants, scratch = ffi.new("size_t *"), ffi.new("size_t *")
        flops = ffi.new("double *")
        self._check(lib.ane_program_cost(self._pointer, constants, scratch, flops))
        return Cost(constants[0], scratch[0], flops[0])

    def request(self, inputs: Sequence[Surface], outputs: Sequence[Surface]) -> Request:
        """Binds surfaces in the order of the ports. EngineError names the port that is wrong."""
        sources = [surface._pointer for surface in inputs]
        targets = [surface._pointer for surface in outputs]
        made = ffi.new("ane_request **")
        status = lib.ane_request_create(
            self._pointer, sources, len(sources), targets, len(targets), made
        )
        self._check(status)
        return Request(self._context, made[0])

    def load(self) -> None:
        """Makes the program ready; `Context.compile` has done it unless told not to."""
        self._check(lib.ane_program_load(self._pointer))

    def unload(self) -> None:
        """Until it is loaded again, evaluating the program is an EngineError."""
        self._check(lib.ane_program_unload(self._pointer))

    def close(self) -> None:
        """Gives the program back, once no request needs it."""
        self._handle.close()


class Request:
    """A program bound to surfaces."""

    def __init__(self, context: Any, pointer: Any) -> None:
        self._handle = _Handle("request", pointer, lib.ane_request_free)
        self._context = context

    def evaluate(self) -> None:
        """Computes the outputs from the inputs, and returns when they are there."""
        check(self._context, lib.ane_request_evaluate(self._handle.pointer))

    def close(self) -> None:
        """Gives back the request and its copies of weights."""
        self._handle.close()
