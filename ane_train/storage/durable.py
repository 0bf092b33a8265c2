"""Writing that survives a crash or a power cut.

Nothing is pointed to before it is on the disk: write beside, synchronise, then rename. What is
half-written, or half-deleted, is named `.tmp-<name>-<pid>`, so that it can be told and swept.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
from pathlib import Path

from ane_train.errors import DiskError

_TEMPORARY = re.compile(r"\.tmp-.+-(\d+)")
_GIGABYTE = 1e9


def temporary_name(path: Path) -> Path:
    """Where this process writes what is to become `path`."""
    return path.with_name(f".tmp-{path.name}-{os.getpid()}")


def synchronize(descriptor: int) -> None:
    """Waits until what was written to an open file, or folder, is on the disk.

    On macOS fsync leaves data in the drive's own cache; F_FULLFSYNC empties that too.
    """
    try:
        fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)  # type: ignore[attr-defined,unused-ignore]
    except (AttributeError, OSError):
        os.fsync(descriptor)


def synchronize_folder(folder: Path) -> None:
    """Waits until the names in `folder` are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        synchronize(descriptor)
    finally:
        os.close(descriptor)


def write_file(path: Path, content: bytes) -> None:
    """Writes a new file and waits until it is on the disk; its name is for the caller to secure."""
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        synchronize(file.fileno())


def replace_file(path: Path, content: bytes) -> None:
    """Gives `path` new content in one step: a reader sees all of the old or all of the new."""
    temporary = temporary_name(path)
    try:
        discard(temporary)
        write_file(temporary, content)
        os.replace(temporary, path)
    finally:
        discard(temporary)
    synchronize_folder(path.parent)


def replace_link(link: Path, target: str) -> None:
    """Makes `link` a symbolic link to `target`, in one step."""
    if link.is_dir() and not link.is_symlink():  # a copy of the run that followed its links
        remove_folder(link)
    temporary = temporary_name(link)
    discard(temporary)
    os.symlink(target, temporary)
    os.replace(temporary, link)
    synchronize_folder(link.parent)


def remove_folder(folder: Path) -> None:
    """Deletes a folder so that no crash leaves a part of it under its own name."""
    temporary = temporary_name(folder)
    discard(temporary)
    os.rename(folder, temporary)
    shutil.rmtree(temporary)


def discard(path: Path) -> None:
    """Deletes a file, link or folder that may not exist, as far as the system allows."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
        return
    try:
        path.unlink(missing_ok=True)
    except OSError:
        return


def sweep(folder: Path) -> None:
    """Deletes what processes that no longer live, or earlier lives of this one, left unfinished."""
    for path in folder.iterdir():
        match = _TEMPORARY.fullmatch(path.name)
        if match and not _is_another_process(int(match[1])):
            discard(path)


def require_space(folder: Path, size: int, purpose: str) -> None:
    """DiskError if the disk of `folder` has no `size` bytes left for `purpose`."""
    free = shutil.disk_usage(folder).free
    if free < size:
        raise DiskError(
            f"{purpose} needs {size / _GIGABYTE:.2f} GB and the disk of {folder} has "
            f"{free / _GIGABYTE:.2f} GB left; free some space; earlier checkpoints are intact"
        )


def _is_another_process(pid: int) -> bool:
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True
