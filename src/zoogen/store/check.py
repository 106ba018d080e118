"""Check: compare every file with the manifest, and bring a damaged zoo back to a consistent one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoogen.errors import CorruptZooError
from zoogen.store.disk import (
    PARTIAL,
    commit,
    deviation,
    entry_of,
    leaves,
    put_file,
    remove_empty_directories,
    remove_tree,
    seal,
    storage_errors,
    writer_lock,
)
from zoogen.store.manifest import (
    BACKUP,
    MANIFEST,
    MEMBERS_TABLE,
    Manifest,
    UnitKey,
    load,
    parse,
)

TERRITORY = ("training", "measured", "tables", "labels")
_WORKERS = 4


@dataclass(frozen=True)
class Problem:
    """One difference between the directory and the manifest.

    Attributes:
        kind: ``damaged`` (committed data are lost), ``metadata`` (a ``zarr.json``; foreign readers
            may go wrong, zoogen does not), ``stale`` (a derived file), or ``leftover`` (of an
            interrupted run; harmless).
        path: of the file, below the zoo.
        where: what the file holds, in words.
        expected: what the manifest says.
        found: what is there.
        unit: the unit that a damaged file belongs to.
    """

    kind: Literal["damaged", "metadata", "stale", "leftover"]
    path: str
    where: str
    expected: str
    found: str
    unit: UnitKey | None = None

    def __str__(self) -> str:
        return (
            f"{self.kind}: {self.path} ({self.where}): expected {self.expected}, found {self.found}"
        )


def verify(path: str | Path, deep: bool = True) -> list[Problem]:
    """Compare the zoo at ``path`` with its manifest.

    Args:
        path: of the zoo.
        deep: read every byte; otherwise only presence and sizes are compared.

    Returns:
        All problems, those with lost data first; empty for an intact zoo.

    Raises:
        NotFoundError: if there is no zoo.
        FormatVersionError: if a newer zoogen wrote it.
    """
    root = Path(path).resolve()
    try:
        manifest = load(root)
    except CorruptZooError as error:
        return [Problem("damaged", MANIFEST, "manifest", "an intact file", str(error))]
    return [
        *_damaged(root, manifest, deep),
        *_wrong_metadata(root, manifest),
        *_stale(root, manifest),
        *_leftover_problems(root, manifest),
    ]


def _damaged(root: Path, manifest: Manifest, deep: bool) -> Iterator[Problem]:
    listed = [
        (key, file, entry) for key, unit in manifest.units() for file, entry in unit.files.items()
    ]
    with ThreadPoolExecutor(_WORKERS) as pool:
        deviations = pool.map(lambda item: deviation(root, item[1], item[2], deep), listed)
        for (key, file, _), difference in zip(listed, deviations, strict=True):
            if difference:
                yield Problem("damaged", file, manifest.describe(key), *difference, unit=key)


def _wrong_metadata(root: Path, manifest: Manifest) -> Iterator[Problem]:
    for file, data in manifest.metadata_files().items():
        difference = deviation(root, file, entry_of(data), deep=True)
        if difference:
            yield Problem("metadata", file, "Zarr metadata", *difference)


def _stale(root: Path, manifest: Manifest) -> Iterator[Problem]:
    difference = deviation(root, BACKUP, entry_of(manifest.to_bytes()), deep=True)
    if difference:
        yield Problem("stale", BACKUP, f"copy of {MANIFEST}", *difference)
    table = manifest.members_table
    if table is None:
        if (root / MEMBERS_TABLE).exists():
            yield Problem("stale", MEMBERS_TABLE, "derived table", "nothing", "a file")
        return
    difference = deviation(root, MEMBERS_TABLE, table, deep=True)
    content = manifest.content_hash()
    if difference is None and table.content_hash != content:
        difference = f"made from content {content}", f"from {table.content_hash}"
    if difference:
        yield Problem("stale", MEMBERS_TABLE, "derived table", *difference)


def _leftover_problems(root: Path, manifest: Manifest) -> Iterator[Problem]:
    for path in leftovers(root, manifest):
        found = "a symbolic link" if path.is_symlink() else "a file"
        name = path.relative_to(root).as_posix()
        yield Problem("leftover", name, "not committed", "nothing", found)


def leftovers(root: Path, manifest: Manifest) -> list[Path]:
    """What lies in the zoo's own directories and is not committed; linked directories as one."""
    listed = {file for _, unit in manifest.units() for file in unit.files}
    listed |= manifest.metadata_files().keys()
    found = [
        path
        for directory in TERRITORY
        for path in leaves(root / directory)
        if path.relative_to(root).as_posix() not in listed
    ]
    found += [root / f"{name}{PARTIAL}" for name in (MANIFEST, BACKUP, MEMBERS_TABLE)]
    return [path for path in found if path.is_symlink() or path.exists()]


def sweep(root: Path, manifest: Manifest) -> list[Path]:
    """Delete the leftovers, and training state of blocks that are committed; return them."""
    removed = leftovers(root, manifest)
    with storage_errors(root):
        for path in removed:
            path.unlink()
        for directory in TERRITORY:
            if (root / directory).is_dir():
                remove_empty_directories(root / directory)
    for name, cohort in manifest.cohorts.items():
        for block in cohort.blocks:
            remove_tree(root / "resume" / name / str(block))
    return removed


def write_metadata(root: Path, manifest: Manifest, files: Iterable[str]) -> list[str]:
    """Write those of some ``zarr.json`` files that are not as they should be; return them."""
    contents = manifest.metadata_files()
    wrong = [f for f in files if deviation(root, f, entry_of(contents[f]), deep=True)]
    with storage_errors(root):
        for file in wrong:
            put_file(root / file, contents[file])
    return wrong


def repair(path: str | Path) -> list[str]:
    """Make the zoo at ``path`` consistent; good data stay as they are.

    Units with a damaged or missing file are dropped, so that the command that made them makes
    them again; see ``docs/format.md`` §8.

    Returns:
        What was done, one line an action; empty for an intact zoo.

    Raises:
        NotFoundError, FormatVersionError: see :func:`verify`.
        ConflictError: if a writer is at work.
        CorruptZooError: if neither the manifest nor its backup is intact.
    """
    root = Path(path).resolve()
    if not (root / BACKUP).is_file():
        load(root)  # raises where there is no zoo, before a lock is put there
    with writer_lock(root):
        actions = _restore_manifest(root)
        manifest = load(root)
        actions += _drop_damaged(root, manifest)
        manifest = load(root)
        for leftover in sweep(root, manifest):
            actions.append(f"deleted leftover {leftover.relative_to(root)}")
        actions += _rewrite_metadata(root, manifest)
        actions += _refresh_derived(root, manifest)
    return actions


def _restore_manifest(root: Path) -> list[str]:
    try:
        load(root)
        return []
    except CorruptZooError as damage:
        backup = root / BACKUP
        try:
            manifest = parse(backup.read_bytes(), backup)
        except (OSError, CorruptZooError) as error:
            raise CorruptZooError(
                f"{root} can't be repaired: neither {MANIFEST} nor {BACKUP} is intact; "
                "restore one of them from a copy of the zoo"
            ) from error
        with storage_errors(root):
            commit(root, manifest)
        return [f"restored {MANIFEST} from {BACKUP} ({damage})"]


def _drop_damaged(root: Path, manifest: Manifest) -> list[str]:
    problems = list(_damaged(root, manifest, deep=True))
    reduced = manifest
    for key in {problem.unit: None for problem in problems if problem.unit}:
        reduced = reduced.without(key)
    if reduced is not manifest:
        with storage_errors(root):
            commit(root, reduced)
    return [f"dropped {p.where}, because of {p.path}: expected {p.expected}, found {p.found}"
            for p in problems]  # fmt: skip


def _rewrite_metadata(root: Path, manifest: Manifest) -> list[str]:
    files = write_metadata(root, manifest, manifest.metadata_files())
    with storage_errors(root):
        seal(root, files)
    return [f"rewrote {file}" for file in files]


def _refresh_derived(root: Path, manifest: Manifest) -> list[str]:
    stale = {problem.path for problem in _stale(root, manifest)}
    actions = []
    with storage_errors(root):
        if MEMBERS_TABLE in stale:
            manifest = manifest.with_(members_table=None)
            (root / MEMBERS_TABLE).unlink(missing_ok=True)
            actions.append(f"deleted stale {MEMBERS_TABLE}")
        if stale:
            commit(root, manifest)
        if BACKUP in stale:
            actions.append(f"rewrote {BACKUP}")
    return actions
