"""Disk: durable files, the writer's lock, and errors in one line."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import socket
import stat
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

from zoogen.errors import ConflictError, StorageError, ZoogenError
from zoogen.store.manifest import BACKUP, MANIFEST, FileEntry, Manifest

LOCK = ".lock"
PARTIAL = ".partial"
_FLUSHES = 16


def now() -> str:
    """Present time, UTC, ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


@contextmanager
def storage_errors(root: Path) -> Iterator[None]:
    """Turn a refused write into :class:`StorageError`, whichever library met it."""
    try:
        yield
    except ZoogenError:
        raise
    except OSError as error:
        place = error.filename or root
        raise StorageError(_refused(root, f"{place}: {error.strerror or error}")) from error


def _refused(root: Path, reason: str) -> str:
    return (
        f"can't write to {root}: {reason}; "
        "free space or choose another place, then repeat the command: committed parts are kept"
    )


def write_refused(root: Path, error: Exception) -> StorageError:
    """The error for a write that tensorstore reported as failed."""
    return StorageError(_refused(root, brief(error)))


def brief(error: Exception) -> str:
    """tensorstore's message without its dump of the spec."""
    return str(error).split(" [", 1)[0]


def flush(path: Path) -> None:
    """Wait until a file, or the entries of a directory, are on the medium."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path``, durably and at once: a reader sees the old file or the new one."""
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(data)
    flush(partial)
    os.replace(partial, path)
    flush(path.parent)


def commit(root: Path, manifest: Manifest) -> None:
    """Make ``manifest`` the truth. All files that it lists must have been sealed before."""
    data = manifest.to_bytes()
    replace_file(root / MANIFEST, data)
    put_file(root / BACKUP, data)  # only a copy: needs no flush


def put_file(path: Path, data: bytes) -> None:
    """Put ``data`` at ``path`` at once; :func:`seal` makes it durable."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    partial.write_bytes(data)
    os.replace(partial, path)


def seal(root: Path, paths: Iterable[str]) -> dict[str, FileEntry]:
    """Flush files and all directories above them up to ``root``; return sizes and sha256."""
    paths = list(paths)
    parents = {parent for path in paths for parent in Path(path).parents}
    # Side by side, because a file system then commits many flushes as one.
    with ThreadPoolExecutor(_FLUSHES) as pool:
        entries = list(pool.map(lambda path: _flushed(root / path), paths))
        list(pool.map(lambda parent: flush(root / parent), parents))
    return dict(zip(paths, entries, strict=True))


def _flushed(path: Path) -> FileEntry:
    flush(path)
    return digest(path)


def digest(path: Path) -> FileEntry:
    """Size and sha256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        return FileEntry(bytes=file.tell(), sha256=sha256)


def entry_of(data: bytes) -> FileEntry:
    """Size and sha256 of a file with this content."""
    return FileEntry(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())


def deviation(root: Path, path: str, entry: FileEntry, deep: bool) -> tuple[str, str] | None:
    """How a file differs from its entry, as (expected, found); None if it does not.

    Args:
        root: of the zoo, itself free of symbolic links.
        path: of the file, below ``root``.
        entry: what the manifest lists.
        deep: also compare the sha256.
    """
    file = root / path
    try:
        status = file.stat(follow_symlinks=False)
    except OSError:
        return "a file", "nothing there"
    if os.path.realpath(file) != str(file):
        return "a regular file", "a symbolic link"
    if not stat.S_ISREG(status.st_mode):
        return "a regular file", "something else"
    if status.st_size != entry.bytes:
        return f"{entry.bytes} bytes", f"{status.st_size} bytes"
    if deep and (found := digest(file).sha256) != entry.sha256:
        return f"sha256 {entry.sha256}", f"sha256 {found}"
    return None


def leaves(directory: Path) -> Iterator[Path]:
    """Everything below a directory that is no directory; links are not followed."""
    if directory.is_symlink() or not directory.is_dir():
        if directory.is_symlink() or directory.exists():
            yield directory
        return
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda e: e.name):
            yield from leaves(Path(entry.path))


def remove_empty_directories(directory: Path) -> None:
    """Remove the directories below (and including) ``directory`` that hold no file."""
    for path, _, _ in os.walk(directory, topdown=False):
        if not os.listdir(path):
            os.rmdir(path)


def remove_tree(directory: Path) -> None:
    """Remove a directory with all it holds, if it is there."""
    shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def writer_lock(root: Path) -> Iterator[None]:
    """Hold the zoo's writer lock.

    Raises:
        ConflictError: naming process and host of the writer that holds it.
    """
    with storage_errors(root):
        descriptor = os.open(root / LOCK, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o666)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConflictError(_held(root, os.pread(descriptor, 4096, 0))) from error
        owner = {"pid": os.getpid(), "host": socket.gethostname(), "since": now()}
        with storage_errors(root):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, json.dumps(owner).encode(), 0)
        yield
    finally:
        os.close(descriptor)  # frees the lock


def _held(root: Path, owner: bytes) -> str:
    try:
        found = json.loads(owner)
        holder = f"process {found['pid']} on {found['host']} since {found['since']}"
    except (ValueError, KeyError, TypeError):
        holder = "a process that has just started"
    return f"{root} is being written by {holder}; wait for it, or stop it, and repeat the command"
