"""Reader: committed members, weights, measurements and labels of a zoo; read-only and lazy."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from jaxtyping import Int, Num

from zoogen.errors import ConfigError, CorruptZooError, NotFoundError
from zoogen.store.chunks import Index, read_rows
from zoogen.store.disk import deviation
from zoogen.store.layout import ArrayEntry
from zoogen.store.manifest import (
    Cohort,
    FileEntry,
    Manifest,
    Unit,
    load,
    measured_path,
    table_path,
    training_path,
)

Positions = slice | Sequence[int] | Int[np.ndarray, " m"]


@dataclass(frozen=True)
class Metric:
    """A stored metric of one cohort.

    Attributes:
        values: ``[m, s, ...]``, or ``[q, s, ...]`` for a metric of pairs of members.
        dims: names of its axes.
        run: the measurement run that it comes from.
        pairs: positions of the two members of each pair, ``[q, 2]``, for a metric of pairs.
    """

    values: Num[np.ndarray, "..."]
    dims: tuple[str, ...]
    run: str
    pairs: Int[np.ndarray, "q 2"] | None


@dataclass(frozen=True)
class LabelTables:
    """Phase labels as they were written: one row a member, one row a cell."""

    number: str
    members: pd.DataFrame
    cells: pd.DataFrame
    info: dict[str, Any]


class ZooReader:
    """What the zoo at ``path`` holds, as of its manifest at this moment.

    Nothing is read before it is asked for, no file stays open, and every byte is checked on its
    way: damaged data raise :class:`~zoogen.errors.CorruptZooError`.

    Args:
        path: of the zoo.

    Raises:
        NotFoundError: if there is no zoo.
        CorruptZooError: if its manifest is damaged.
        FormatVersionError: if a newer zoogen wrote it.
    """

    def __init__(self, path: str | Path) -> None:
        self.root = Path(path).resolve()
        self.manifest: Manifest = load(self.root)

    @property
    def cohorts(self) -> list[str]:
        """Ids of the cohorts, in the order of writing."""
        return list(self.manifest.cohorts)

    def cohort(self, cohort: str) -> Cohort:
        """The manifest's entry of a cohort: size, spec, snapshots, info.

        Raises:
            NotFoundError: naming the cohorts that there are.
        """
        try:
            return self.manifest.cohorts[cohort]
        except KeyError:
            raise self._missing(f"cohort {cohort!r}", self.cohorts) from None

    def committed(self, cohort: str) -> Int[np.ndarray, " m"]:
        """Positions on the member axis whose training is committed, ascending."""
        entry = self.cohort(cohort)
        rows = [entry.rows(block) for block in sorted(entry.blocks)]
        ranges = [np.arange(r.start, r.stop) for r in rows]
        return np.concatenate(ranges) if ranges else np.arange(0)

    def members(self, cohort: str) -> pd.DataFrame:
        """Ids and hyper-parameters of the committed members; the index is the position.

        Raises:
            NotFoundError: if repair had to drop the table.
            CorruptZooError: if it is damaged.
        """
        entry = self.cohort(cohort)
        if entry.table is None:
            raise NotFoundError(
                f"{self.root}: the member table of cohort {cohort!r} was dropped by a repair; "
                "repeat the command that made the zoo to write it again"
            )
        table = read_table(self.root, entry.table, table_path(cohort), rows=entry.members)
        return table.to_pandas().loc[self.committed(cohort)]

    def array_names(self, cohort: str) -> list[str]:
        """Names of the training arrays of a cohort."""
        return list(self.cohort(cohort).arrays)

    def read(
        self,
        cohort: str,
        name: str,
        members: Positions | None = None,
        snapshots: int | Positions | None = None,
    ) -> Num[np.ndarray, "m ..."]:
        """Read a training array.

        Args:
            cohort: id of the cohort.
            name: of the array, such as ``weights``.
            members: positions on the member axis, in any order; all committed ones by default.
            snapshots: positions on the snapshot axis (negative ones count from the end); an int
                drops the axis; all by default.

        Returns:
            The values, one row a member.

        Raises:
            NotFoundError: if there is no such array or snapshot, or a member is not committed.
            CorruptZooError: if the stored bytes are damaged.
        """
        entry = self.cohort(cohort)
        if name not in entry.arrays:
            raise self._missing(f"array {name!r} in cohort {cohort!r}", list(entry.arrays))
        array = entry.arrays[name]
        rows = self._rows(cohort, entry, members)
        indices = (rows, *self._snapshot_index(name, array, snapshots))
        prefix = f"{training_path(cohort)}{name}/"
        for block in np.unique(_as_array(rows) // entry.block_size):
            self._require(prefix, array, entry.blocks[int(block)], int(block))
        return self._fetch(prefix, array, indices)

    def metric_names(self, cohort: str) -> list[str]:
        """Names of the metrics that some run has of a cohort, sorted."""
        self.cohort(cohort)
        runs = self.manifest.runs.values()
        names = {n for run in runs if cohort in run.cohorts for n in run.cohorts[cohort].arrays}
        return sorted(names - {"pairs"})

    def read_metric(self, cohort: str, name: str) -> Metric:
        """Read a metric of a cohort from the latest run that has it.

        Raises:
            NotFoundError: naming the metrics that there are.
            CorruptZooError: if the stored bytes are damaged.
        """
        runs = self.manifest.runs
        for run in sorted(runs, key=int, reverse=True):
            measurement = runs[run].cohorts.get(cohort)
            if measurement and name in measurement.arrays:
                dims = measurement.arrays[name].dims
                values = self._measured(run, cohort, name)
                pairs = self._measured(run, cohort, "pairs") if "pair" in dims else None
                return Metric(values, dims, run, pairs)
        raise self._missing(f"metric {name!r} of cohort {cohort!r}", self.metric_names(cohort))

    def labels(self) -> LabelTables | None:
        """The latest phase labels, or None where the zoo is not labelled yet."""
        if not self.manifest.labels:
            return None
        number = max(self.manifest.labels, key=int)
        unit = self.manifest.labels[number]
        members, cells = (
            read_table(self.root, unit, f"labels/{number}/{part}.parquet").to_pandas()
            for part in ("members", "cells")
        )
        return LabelTables(number, members, cells, unit.info)

    def _measured(self, run: str, cohort: str, name: str) -> np.ndarray:
        measurement = self.manifest.runs[run].cohorts[cohort]
        array, prefix = measurement.arrays[name], f"{measured_path(run, cohort)}{name}/"
        for index in range(array.file_count):
            self._require(prefix, array, measurement.unit, index)
        return self._fetch(prefix, array, tuple(slice(0, n) for n in array.shape))

    def _fetch(self, prefix: str, array: ArrayEntry, indices: tuple[Index, ...]) -> np.ndarray:
        shape = [_as_array(i).size for i in indices if not isinstance(i, int)]
        if 0 in shape:
            return np.empty(shape, array.dtype)
        return read_rows(self.root, prefix, array, indices)

    def _require(self, prefix: str, array: ArrayEntry, unit: Unit, index: int) -> None:
        """Raise unless a chunk's file is as listed and long enough for the values it decodes to."""
        if index >= array.file_count:
            return
        path, rows = prefix + array.file(index), array.rows(index)
        least = (rows.stop - rows.start) * array.row_bytes
        entry = unit.files.get(path)
        if entry is None or entry.bytes < least:
            listed = "no file" if entry is None else f"{entry.bytes} bytes"
            raise _damaged(
                self.root, path, rows, f"at least {least} bytes", f"{listed} in the manifest"
            )
        difference = deviation(self.root, path, entry, deep=False)
        if difference:
            raise _damaged(self.root, path, rows, *difference)

    def _rows(
        self, cohort: str, entry: Cohort, members: Positions | None
    ) -> slice | Int[np.ndarray, " m"]:
        if members is None:
            rows: Any = self.committed(cohort)
        elif isinstance(members, slice):
            rows = np.arange(entry.members)[members]
        else:
            rows = self._positions(members, entry.members, f"cohort {cohort!r}", "member")
        for block in np.unique(rows // entry.block_size):
            if int(block) not in entry.blocks:
                where = self.manifest.describe(("block", cohort, str(block)))
                raise NotFoundError(
                    f"{self.root}: {where} are not committed; "
                    "repeat the command that made the zoo to complete it"
                )
        ascending = (
            rows.size > 0 and rows[-1] - rows[0] == rows.size - 1 and (np.diff(rows) == 1).all()
        )
        return slice(int(rows[0]), int(rows[-1]) + 1) if ascending else rows

    def _snapshot_index(
        self, name: str, array: ArrayEntry, snapshots: int | Positions | None
    ) -> list[Index]:
        rest: list[Index] = [slice(0, n) for n in array.shape[1:]]
        if snapshots is None:
            return rest
        if "snapshot" not in array.dims:
            raise ConfigError(f"array {name!r} has axes {array.dims}, no 'snapshot'")
        axis = array.dims.index("snapshot")
        count = array.shape[axis]
        if isinstance(snapshots, slice):
            rest[axis - 1] = np.arange(count)[snapshots]
        else:
            positions = self._positions(snapshots, count, f"array {name!r}", "snapshot")
            rest[axis - 1] = int(positions) if positions.ndim == 0 else positions
        return rest

    def _positions(self, chosen: Any, count: int, where: str, axis: str) -> np.ndarray:
        positions = np.asarray(chosen)
        if positions.size == 0:
            return np.arange(0)
        if positions.dtype.kind not in "iu":
            raise ConfigError(f"{axis}s: found {positions.dtype.name}, expected positions (int)")
        outside = positions[(positions < -count) | (positions >= count)]
        if outside.size:
            raise NotFoundError(
                f"{self.root}: no {axis} {outside.flat[0]} in {where}, "
                f"which has {axis}s 0 to {count - 1}"
            )
        return np.where(positions < 0, positions + count, positions).astype(np.int64)

    def _missing(self, wanted: str, there: list[str]) -> NotFoundError:
        return NotFoundError(f"{self.root}: no {wanted}; there are: {', '.join(there) or 'none'}")


def _as_array(rows: Any) -> np.ndarray:
    return np.arange(rows.start, rows.stop) if isinstance(rows, slice) else np.asarray(rows)


def read_table(root: Path, unit: Unit, path: str, rows: int | None = None) -> pa.Table:
    """Read a committed Parquet file after checking its bytes and its number of rows.

    Raises:
        CorruptZooError: if it is not what was written.
    """
    entry = unit.files.get(path, FileEntry(bytes=0, sha256="0" * 64))
    difference = deviation(root, path, entry, deep=True)
    if difference:
        raise _damaged(root, path, slice(0, rows or 1), *difference)
    file = pq.ParquetFile(io.BytesIO((root / path).read_bytes()))
    if rows not in {None, file.metadata.num_rows}:
        found = f"{file.metadata.num_rows} rows"
        raise _damaged(root, path, slice(0, rows), f"{rows} rows", found)
    return file.read()


def _damaged(root: Path, path: str, rows: slice, expected: str, found: str) -> CorruptZooError:
    return CorruptZooError(
        f"{root}/{path} (rows {rows.start} to {rows.stop - 1}) is damaged: expected {expected}, "
        f"found {found}; run `zoogen verify --repair {root}`, then repeat the command that made it"
    )
