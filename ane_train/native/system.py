"""What only a call into the operating system tells: the macOS kernel's answers by name."""

from __future__ import annotations

import ctypes
import sys


def sysctl(name: str) -> bytes:
    """The kernel's answer as it is in memory, or nothing where there is none, as on Linux."""
    if sys.platform != "darwin":
        return b""
    ask = ctypes.CDLL(None).sysctlbyname
    size = ctypes.c_size_t(0)
    if ask(name.encode(), None, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return b""
    answer = ctypes.create_string_buffer(size.value)
    if ask(name.encode(), answer, ctypes.byref(size), None, ctypes.c_size_t(0)) != 0:
        return b""
    return answer.raw[: size.value]


def sysctl_text(name: str) -> str:
    """An answer that is a text."""
    return sysctl(name).rstrip(b"\0").decode("utf-8", "replace")


def sysctl_number(name: str) -> int:
    """An answer that is a number; 0 where there is none."""
    return int.from_bytes(sysctl(name), sys.byteorder)
