"""Files that are whole or not there, whenever the machine stops: written aside, synced, then named.

Time: none.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import IO


def write_whole(folder: Path, name: str, write: Callable[[IO[bytes]], object]) -> Path:
    """Write a file below ``folder``, in the place of one of that name, and return when it is on the disk.

    Until then it has a name that begins with a dot, which readers skip; two processes never write the same.
    """
    make_folder(folder)
    part = folder / f".{name}.{os.getpid()}"
    try:
        with part.open("wb") as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        part.rename(folder / name)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(folder)
    return folder / name


def make_folder(folder: Path) -> None:
    """Make a directory that is there after a power cut, with those above it."""
    if folder.is_dir():
        return
    make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def sync_folder(folder: Path) -> None:
    """Put the names in a directory on the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
