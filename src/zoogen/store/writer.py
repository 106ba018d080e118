"""Writer: the only way in. What a call has committed stays, whatever happens afterwards."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from zoogen.errors import ConfigError, ConflictError, NotFoundError
from zoogen.store.check import sweep, write_metadata
from zoogen.store.chunks import write_rows
from zoogen.store.disk import (
    LOCK,
    PARTIAL,
    commit,
    entry_of,
    flush,
    now,
    put_file,
    remove_tree,
    replace_file,
    seal,
    storage_errors,
    writer_lock,
)
from zoogen.store.layout import MAX_BLOCK_MEMBERS, ArrayEntry, check_name, entries_for
from zoogen.store.manifest import (
    BACKUP,
    MANIFEST,
    MEMBERS_TABLE,
    Cohort,
    Extension,
    Manifest,
    Measurement,
    MembersTable,
    Run,
    Session,
    Unit,
    load,
    measured_path,
    table_path,
    training_path,
)
from zoogen.store.reader import read_table

Arrays = Mapping[str, Any]
Dims = Mapping[str, Sequence[str]]
Json = Mapping[str, Any]


class ZooWriter:
    """The one writer of a zoo, made by :meth:`create` or :meth:`open` in a ``with`` statement.

    Every method that writes commits what it wrote before it returns. An exception, a signal or a
    power cut loses the call at work and nothing before it.

    Example:
        >>> import tempfile
        >>> place = tempfile.mkdtemp() + "/tiny.zarr"
        >>> with ZooWriter.create(place, "tiny", {}, "hash of {}", {"zoogen": "0.1"}) as writer:
        ...     table = pd.DataFrame({"id": ["a", "b", "c"]})
        ...     writer.begin_cohort("mlp", table, {}, [0, 10], block_size=2)
        ...     for block, rows in writer.missing_blocks("mlp").items():
        ...         weights = np.full((rows.stop - rows.start, 2, 5), block, np.float32)
        ...         axes = {"weights": ("member", "snapshot", "parameter")}
        ...         writer.write_block("mlp", block, {"weights": weights}, axes)
        >>> from zoogen.store import ZooReader
        >>> ZooReader(place).read("mlp", "weights", snapshots=-1)[:, 0].tolist()
        [0.0, 0.0, 1.0]
    """

    def __init__(self, root: Path, manifest: Manifest) -> None:
        self.root = root
        self.manifest = manifest

    @classmethod
    @contextmanager
    def create(
        cls, path: str | Path, name: str, config: Json, config_hash: str, provenance: Json
    ) -> Iterator[ZooWriter]:
        """Create a zoo, or go on with the one that the same config has begun.

        Args:
            path: where the zoo is or will be.
            name: title of the zoo.
            config: canonical config, plain JSON.
            config_hash: its hash.
            provenance: versions, flags and device of this process, plain JSON.

        Raises:
            ConflictError: if another writer is at work, or the path holds something else: a zoo
                of another config, a file, a directory with other content.
            CorruptZooError, FormatVersionError: if the zoo that is there can't be read.
            StorageError: if the file system refuses.
        """
        root = Path(path).resolve()
        cls.refuse_other(root, config_hash)  # before a lock is put there
        with storage_errors(root):
            root.mkdir(parents=True, exist_ok=True)
            flush(root.parent)
        with writer_lock(root):
            if _is_fresh(root):
                manifest = Manifest(
                    name=name, config=_json(config), config_hash=config_hash, created=now()
                )
            else:
                manifest = load(root)
            _refuse_other_config(root, manifest, config_hash)
            yield cls(root, manifest)._begin(provenance)

    @staticmethod
    def refuse_other(path: str | Path, config_hash: str) -> None:
        """Refuse, before any work, a path that :meth:`create` would refuse; nothing is written.

        Raises:
            ConflictError: if the path holds something else: a zoo of another config, a file, a
                directory with other content.
            CorruptZooError, FormatVersionError: if the zoo that is there can't be read.
        """
        root = Path(path).resolve()
        if root.exists() and not root.is_dir():
            raise ConflictError(f"{root} is a file, expected a zoo or nothing; choose another path")
        if root.exists() and not _is_fresh(root):
            _refuse_other_config(root, load(root), config_hash)

    @classmethod
    @contextmanager
    def open(cls, path: str | Path, provenance: Json) -> Iterator[ZooWriter]:
        """Add to a zoo that is there, such as measurements or labels.

        Raises:
            NotFoundError: if there is no zoo.
            ConflictError, CorruptZooError, FormatVersionError, StorageError: see :meth:`create`.
        """
        root = Path(path).resolve()
        load(root)  # raises where there is no zoo, before a lock is put there
        with writer_lock(root):
            yield cls(root, load(root))._begin(provenance)

    def _begin(self, provenance: Json) -> ZooWriter:
        manifest, provenance = self.manifest, _json(provenance)
        if not manifest.sessions or manifest.sessions[-1].provenance != provenance:
            session = Session(since=now(), provenance=provenance)
            manifest = manifest.with_(sessions=(*manifest.sessions, session))
            self._commit(manifest)
        sweep(self.root, manifest)
        groups = [f"{group}zarr.json" for group in ("", "training/", "measured/")]
        with storage_errors(self.root):
            seal(self.root, write_metadata(self.root, manifest, groups))
        return self

    def _commit(self, manifest: Manifest) -> None:
        with storage_errors(self.root):
            commit(self.root, manifest)
        self.manifest = manifest

    def _unit(self, paths: Sequence[str], info: Json | None, metadata: Sequence[str] = ()) -> Unit:
        """Make files durable and describe them, ready to stand in the manifest."""
        with storage_errors(self.root):
            sealed = seal(self.root, [*paths, *metadata])
        files = {path: sealed[path] for path in paths}
        session = len(self.manifest.sessions) - 1
        return Unit(files=files, info=_json(info or {}), session=session, committed=now())

    def _add_metadata(self, manifest: Manifest) -> list[str]:
        """Write the ``zarr.json`` files that ``manifest`` has and the present one has not."""
        old, new = self.manifest.metadata_files(), manifest.metadata_files()
        return write_metadata(self.root, manifest, [p for p in new if old.get(p) != new[p]])

    def begin_cohort(
        self,
        cohort: str,
        members: pd.DataFrame,
        spec: Json,
        snapshots: Sequence[Any],
        block_size: int,
        info: Json | None = None,
    ) -> None:
        """Announce a cohort, or check that it is the one that was announced before.

        Args:
            cohort: id; also a directory's name.
            members: one row a member with a column ``id`` of distinct strings, the cell, the seed
                and the hyper-parameters, in the order of the member axis.
            spec: description of the parameter axis, plain JSON.
            snapshots: one JSON value an entry of the snapshot axis, such as its step.
            block_size: members per block, at most 1,024; see
                :func:`~zoogen.store.default_block_size`. A cohort that was begun keeps the size
                with which it was begun.
            info: free JSON, not compared with what was announced before.

        Raises:
            ConfigError: if the arguments can't be stored.
            ConflictError: if the cohort was announced with other members, spec or snapshots.
        """
        if "id" not in members or members["id"].duplicated().any():
            raise ConfigError(f"cohort {cohort!r}: expected a column 'id' of distinct values")
        check_name("cohort", cohort)
        new = Cohort(
            members=len(members),
            block_size=max(1, min(block_size, MAX_BLOCK_MEMBERS, len(members))),
            spec=_json(spec),
            snapshots=tuple(_json({"": list(snapshots)})[""]),
            info=_json(info or {}),
        )
        old = self.manifest.cohorts.get(cohort)
        if old is not None:
            self._require_same(cohort, old, new, members)
            new = old
        if new.table is None:
            path = table_path(cohort)
            with storage_errors(self.root):
                put_file(self.root / path, _parquet(members))
            manifest = self.manifest.with_(cohorts={**self.manifest.cohorts, cohort: new})
            table = self._unit([path], None, self._add_metadata(manifest))
            self._commit(manifest.with_cohort(cohort, table=table))

    def _require_same(self, cohort: str, old: Cohort, new: Cohort, members: pd.DataFrame) -> None:
        same = (old.members, old.spec, old.snapshots) == (new.members, new.spec, new.snapshots)
        if same and old.table is not None:
            stored = read_table(self.root, old.table, table_path(cohort), old.members)
            same = stored.equals(pq.read_table(io.BytesIO(_parquet(members))))
        if not same:
            raise ConflictError(
                f"{self.root}: cohort {cohort!r} was begun with other members, parameters or "
                "snapshots; write to another path"
            )

    def missing_blocks(self, cohort: str) -> dict[int, slice]:
        """Blocks of a cohort that are not committed: index → positions on the member axis."""
        entry = self._cohort(cohort)
        missing = (b for b in range(entry.block_count) if b not in entry.blocks)
        return {block: entry.rows(block) for block in missing}

    def write_block(
        self, cohort: str, block: int, arrays: Arrays, dims: Dims, info: Json | None = None
    ) -> None:
        """Commit one block of members and drop its training state.

        Args:
            cohort: id of the cohort.
            block: a key of :meth:`missing_blocks`.
            arrays: name → values, ``member`` axis first; the same names, types and other axes in
                every block of the cohort.
            dims: name → names of all axes. An axis named ``parameter`` is the last one, and makes
                each member's each snapshot a stored piece of its own.
            info: free JSON such as timings.

        Raises:
            ConfigError: if the arrays do not fit the block, the cohort or each other.
            NotFoundError: if there is no such cohort or block.
            ConflictError: if the block is committed.
            StorageError: if the file system refuses.
        """
        entry = self._cohort(cohort)
        if block in entry.blocks:
            raise ConflictError(f"{self.root}: block {block} of cohort {cohort!r} is committed")
        if not 0 <= block < entry.block_count:
            raise NotFoundError(f"cohort {cohort!r}: no block {block} of {entry.block_count}")
        rows = entry.rows(block)
        values = _values(arrays)
        sizes = {"member": entry.members, "snapshot": len(entry.snapshots)}
        entries = entries_for(values, dims, sizes, entry.block_size)
        _require_rows(values, rows)
        if entry.arrays and entries != entry.arrays:
            raise ConfigError(_difference(cohort, entry.arrays, entries))
        manifest = self.manifest.with_cohort(cohort, arrays=entries)
        metadata = [] if entry.arrays else self._add_metadata(manifest)
        paths = write_rows(self.root, training_path(cohort), entries, values, rows)
        blocks = {**entry.blocks, block: self._unit(paths, info, metadata)}
        self._commit(manifest.with_cohort(cohort, blocks=dict(sorted(blocks.items()))))
        remove_tree(self._resume_dir(cohort, block))

    def resume_dir(self, cohort: str, block: int) -> Path:
        """Directory for the training state of a block in work; gone once the block is committed."""
        self._cohort(cohort)
        directory = self._resume_dir(cohort, block)
        with storage_errors(self.root):
            directory.mkdir(parents=True, exist_ok=True)
        return directory

    def _resume_dir(self, cohort: str, block: int) -> Path:
        return self.root / "resume" / cohort / str(block)

    def extend(self, plan: Json) -> str:
        """Commit what is to be added to the zoo's plan, before the work on it; return its number.

        A zoo that is extended has format version 2. What is committed already stays as it is.

        Args:
            plan: plain JSON, for whoever expands the zoo's plan.
        """
        extensions = self.manifest.extensions
        number = _next(extensions)
        added = Extension(plan=_json(plan), since=now())
        manifest = self.manifest.with_(format_version=2, extensions={**extensions, number: added})
        self._commit(manifest)
        return number

    def begin_run(self, settings: Json, again: bool = False) -> str:
        """Number of the measurement run to write to; :meth:`measured` says what it has already.

        Args:
            settings: what tells this measurement from others, plain JSON. The latest run with
                the same settings goes on, finished or not; without one a run is begun.
            again: measure anew: only an interrupted run goes on, if no later one was begun.
        """
        settings, runs = _json(settings), self.manifest.runs
        same = [n for n, run in runs.items() if run.settings == settings]
        if again:
            latest = max(runs, key=int, default=None)
            same = [n for n in same if n == latest and not runs[n].finished]
        if same:
            return max(same, key=int)
        number = _next(runs)
        manifest = self.manifest.with_(runs={**runs, number: Run(settings=settings, since=now())})
        with storage_errors(self.root):
            seal(self.root, self._add_metadata(manifest))
        self._commit(manifest)
        return number

    def measured(self, run: str) -> list[str]:
        """Cohorts that a run has measured."""
        return list(self._run(run).cohorts)

    def write_measurements(
        self, run: str, cohort: str, arrays: Arrays, dims: Dims, info: Json | None = None
    ) -> None:
        """Commit what a run measured of a cohort.

        Args:
            run: from :meth:`begin_run`.
            cohort: id of the cohort.
            arrays: metric → values with axes ``member`` or ``pair``, then usually ``snapshot``.
                A ``member`` axis has all members of the cohort. Metrics of pairs need an array
                ``pairs`` with axes ``pair`` and ``end`` that holds positions on the member axis.
            dims: metric → names of its axes.
            info: free JSON such as timings and probe counts.

        Raises:
            ConfigError: if the arrays do not fit the cohort or each other.
            ConflictError: if the run has measured the cohort already.
            StorageError: if the file system refuses.
        """
        entry, measured = self._cohort(cohort), self._run(run).cohorts
        if cohort in measured:
            raise ConflictError(f"{self.root}: run {run} has measured cohort {cohort!r} already")
        values = _values(arrays)
        sizes = {"member": entry.members, "snapshot": len(entry.snapshots)}
        entries = entries_for(values, dims, sizes, None)
        _require_pairs(values, entries, entry.members)
        empty = Unit(files={}, info={}, session=0, committed="")
        draft = self.manifest.with_run(
            run, cohorts={**measured, cohort: Measurement(arrays=entries, unit=empty)}
        )
        metadata = self._add_metadata(draft)
        paths = write_rows(self.root, measured_path(run, cohort), entries, values)
        measurement = Measurement(arrays=entries, unit=self._unit(paths, info, metadata))
        self._commit(self.manifest.with_run(run, cohorts={**measured, cohort: measurement}))

    def finish_run(self, run: str) -> None:
        """Close a run: :meth:`begin_run` with ``again`` will not go on with it."""
        if not self._run(run).finished:
            self._commit(self.manifest.with_run(run, finished=True))

    def write_labels(
        self, members: pd.DataFrame, cells: pd.DataFrame, info: Json | None = None
    ) -> str:
        """Commit phase labels and return their number; labels equal to the latest are not repeated.

        Args:
            members: one row a member.
            cells: one row a cell of the grid.
            info: free JSON such as the rule and its thresholds.
        """
        labels = self.manifest.labels
        latest, number = max(labels, key=int, default=None), _next(labels)
        tables = {"members": _parquet(members), "cells": _parquet(cells)}
        if latest and _holds(labels[latest], tables.values(), _json(info or {})):
            return latest
        contents = {f"labels/{number}/{part}.parquet": data for part, data in tables.items()}
        with storage_errors(self.root):
            for path, data in contents.items():
                put_file(self.root / path, data)
        unit = self._unit(list(contents), info)
        self._commit(self.manifest.with_(labels={**labels, number: unit}))
        return number

    def write_members_table(self, members: pd.DataFrame) -> None:
        """Replace ``members.parquet``, the derived table, by one made from the present content."""
        data = _parquet(members)
        with storage_errors(self.root):
            replace_file(self.root / MEMBERS_TABLE, data)
        entry = entry_of(data)
        content = self.manifest.content_hash()
        table = MembersTable(bytes=entry.bytes, sha256=entry.sha256, content_hash=content)
        if table != self.manifest.members_table:
            self._commit(self.manifest.with_(members_table=table))

    def _cohort(self, cohort: str) -> Cohort:
        if cohort not in self.manifest.cohorts:
            raise NotFoundError(
                f"{self.root}: no cohort {cohort!r}; begun are: "
                f"{', '.join(self.manifest.cohorts) or 'none'}"
            )
        return self.manifest.cohorts[cohort]

    def _run(self, run: str) -> Run:
        if run not in self.manifest.runs:
            raise NotFoundError(f"{self.root}: no measurement run {run!r}; call begin_run")
        return self.manifest.runs[run]


def _is_fresh(root: Path) -> bool:
    """Whether a zoo may be created here; an interrupted creation leaves a lock at most."""
    if (root / MANIFEST).exists() or (root / BACKUP).exists():
        return False
    foreign = {path.name for path in root.iterdir()} - {LOCK, MANIFEST + PARTIAL}
    if foreign:
        raise ConflictError(
            f"{root} is no zoo and not empty, it holds {min(foreign)!r}; choose another path"
        )
    return True


def _refuse_other_config(root: Path, manifest: Manifest, config_hash: str) -> None:
    if manifest.config_hash != config_hash:
        raise ConflictError(
            f"{root} holds the zoo of config {manifest.config_hash}, this config is "
            f"{config_hash}; choose another path, or use the config that made the zoo"
        )


def _json(value: Json) -> dict[str, Any]:
    """Free JSON as it will be read back (tuples become lists)."""
    try:
        decoded: dict[str, Any] = json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"expected plain JSON with finite numbers, found: {error}") from error
    return decoded


def _values(arrays: Arrays) -> dict[str, np.ndarray]:
    return {name: np.asarray(values) for name, values in arrays.items()}


def _require_rows(values: Mapping[str, np.ndarray], rows: slice) -> None:
    for name, array in values.items():
        if len(array) != rows.stop - rows.start:
            raise ConfigError(
                f"array {name!r} has {len(array)} members, expected the block's "
                f"{rows.stop - rows.start}"
            )


def _require_pairs(
    values: Mapping[str, np.ndarray], entries: Mapping[str, ArrayEntry], members: int
) -> None:
    of_pairs = [name for name, entry in entries.items() if "pair" in entry.dims]
    if not of_pairs:
        return
    pairs = values.get("pairs", np.zeros(0))
    fits = pairs.ndim == 2 and pairs.shape[1] == 2 and pairs.dtype.kind in "iu"
    if not fits or entries["pairs"].dims != ("pair", "end"):
        raise ConfigError(
            f"metric {of_pairs[0]!r} has an axis 'pair': expected an integer array 'pairs' with "
            "axes ('pair', 'end') and shape [q, 2] beside it"
        )
    if pairs.size and not 0 <= pairs.min() <= pairs.max() < members:
        raise ConfigError(f"pairs: found {pairs.min()} to {pairs.max()}, members are {members}")


def _difference(cohort: str, old: Mapping[str, ArrayEntry], new: Mapping[str, ArrayEntry]) -> str:
    name = next(n for n in {**old, **new} if old.get(n) != new.get(n))
    expected, found = (
        f"{e.dtype} {e.shape} {e.dims}" if e else "none" for e in (old.get(name), new.get(name))
    )
    return (
        f"cohort {cohort!r}, array {name!r}: its other blocks have {expected}, found {found}; "
        "write the same arrays in every block"
    )


def _parquet(table: pd.DataFrame) -> bytes:
    """A table as Parquet bytes that do not depend on pandas' version or the table's index."""
    buffer = io.BytesIO()
    arrow = pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)
    pq.write_table(arrow, buffer)
    return buffer.getvalue()


def _holds(unit: Unit, contents: Iterable[bytes], info: Json) -> bool:
    """Whether a unit holds files of these contents, in this order."""
    return unit.info == info and list(unit.files.values()) == [entry_of(c) for c in contents]


def _next(numbered: Mapping[str, Any]) -> str:
    return f"{max(map(int, numbered), default=0) + 1:04d}"
