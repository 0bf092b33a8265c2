"""The error tree: every mistake that a user can meet, and the exit code that a shell sees.

Each class owns its exit code. The message is one line: what is wrong, then what to do.
"""

from __future__ import annotations

from enum import IntEnum


class ExitCode(IntEnum):
    """Exit codes of the command line; documented in the README."""

    OK = 0
    BUG = 1
    USAGE = 2
    MODEL = 3
    DATA = 4
    CHECKPOINT = 5
    MEMORY = 6
    DISK = 7
    ENGINE = 8
    DIVERGED = 9
    INTERRUPTED = 130
    TERMINATED = 143


class AneTrainError(Exception):
    """A mistake or a limit that a user can do something about. Never a bug of ours."""

    exit_code = ExitCode.BUG


class ConfigError(AneTrainError):
    """A flag, a configuration key or a value that makes no sense."""

    exit_code = ExitCode.USAGE


class ModelError(AneTrainError):
    """An unknown model, or a model file that is wrong (the message names key and line)."""

    exit_code = ExitCode.MODEL


class DataError(AneTrainError):
    """Training data or a tokenizer that is missing, unreadable, too short or of another kind."""

    exit_code = ExitCode.DATA


class CheckpointError(AneTrainError):
    """A checkpoint that is missing, truncated or of another model."""

    exit_code = ExitCode.CHECKPOINT


class MemoryLimitError(AneTrainError):
    """The run needs more memory than there is; said before anything is allocated."""

    exit_code = ExitCode.MEMORY


class DiskError(AneTrainError):
    """The disk is full or cannot be written."""

    exit_code = ExitCode.DISK


class EngineError(AneTrainError):
    """An engine refused or failed: a program, a weight file, a limit, a library."""

    exit_code = ExitCode.ENGINE


class DivergedError(AneTrainError):
    """Training stopped after too many steps in a row with a gradient that is not finite."""

    exit_code = ExitCode.DIVERGED
