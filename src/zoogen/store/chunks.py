"""Chunks: rows of stored arrays, written and read through tensorstore.

Metadata come from the manifest, never from the directory, so that no stored ``zarr.json`` decides
which codecs run or how much is allocated.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import tensorstore as ts

from zoogen.errors import CorruptZooError
from zoogen.store.disk import brief, storage_errors, write_refused
from zoogen.store.layout import ArrayEntry

Index = slice | np.ndarray | int

# No cache: a page that the system holds is as fast, and bytes are checked at every read.
# No sync: `seal` flushes files and directories together.
_CONTEXT = ts.Context({"cache_pool": {"total_bytes_limit": 0}, "file_io_sync": False})


def _open(root: Path, prefix: str, entry: ArrayEntry) -> Any:
    spec = {
        "driver": "zarr3",
        "kvstore": {"driver": "file", "path": f"{root}/{prefix}"},
        "metadata": entry.zarr_metadata(),
        "assume_metadata": True,
        "store_data_equal_to_fill_value": True,
    }
    return ts.open(spec, context=_CONTEXT).result()


def write_rows(
    root: Path,
    prefix: str,
    entries: Mapping[str, ArrayEntry],
    arrays: Mapping[str, np.ndarray],
    rows: slice | None = None,
) -> list[str]:
    """Write rows of the arrays of one group, all side by side; return the paths of their files.

    Args:
        root: of the zoo.
        prefix: directory of the group below ``root``, ending in ``/``.
        entries: name → layout.
        arrays: name → values of the rows.
        rows: a whole chunk's rows; all rows if None.

    Raises:
        StorageError: if the file system refuses.
    """
    paths, pending = [], []
    for name, entry in entries.items():
        directory = f"{prefix}{name}/"
        count = entry.file_count
        chunks = range(count) if rows is None else [rows.start // entry.chunk[0]][:count]
        files = [directory + entry.file(chunk) for chunk in chunks]
        with storage_errors(root):
            for file in files:  # tensorstore would read what an interrupted write left there
                (root / file).unlink(missing_ok=True)
        if files:
            store = _open(root, directory, entry)
            target = store if rows is None else store[rows]
            pending.append(target.write(np.ascontiguousarray(arrays[name])))
            paths += files
    for write in pending:
        try:
            write.result()
        except (ValueError, OSError, RuntimeError) as error:
            raise write_refused(root, error) from error
    return paths


def read_rows(root: Path, prefix: str, entry: ArrayEntry, indices: tuple[Index, ...]) -> np.ndarray:
    """Read ``array[indices]``, each index along its own axis; an int drops its axis.

    Raises:
        CorruptZooError: if a checksum fails or a file can't be read.
    """
    try:
        # Index arrays of several axes cross, as in `numpy.ix_`.
        values: np.ndarray = _open(root, prefix, entry).oindex[indices].read().result()
    except (ValueError, OSError, RuntimeError) as error:
        raise CorruptZooError(
            f"{root}/{prefix} is damaged: {brief(error)}; "
            f"run `zoogen verify --repair {root}`, then repeat the command that made it"
        ) from error
    return values
