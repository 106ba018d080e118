"""Manifest: the record of what is committed; pure data, its checks and its checksum."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, JsonValue, model_validator

from zoogen.errors import CorruptZooError, FormatVersionError, NotFoundError, ZoogenError
from zoogen.store.layout import (
    ArrayEntry,
    Name,
    Record,
    Size,
    array_file,
    first_reason,
    group_file,
)

FORMAT_VERSION = 2
MANIFEST = "manifest.json"
BACKUP = "manifest.backup.json"
MEMBERS_TABLE = "members.parquet"

_BLANK = "0" * 64
_Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_Json = dict[str, JsonValue]
_Number = Annotated[str, Field(pattern=r"^[0-9]{4,}$")]
_File = Annotated[
    str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(/[A-Za-z0-9_][A-Za-z0-9_.-]*)*$")
]

UnitKey = tuple[str, ...]
"""``("block", cohort, index)``, ``("table", cohort)``, ``("measurement", run, cohort)`` or
``("labels", number)``."""


class FileEntry(Record):
    """Size and sha256 of a committed file."""

    bytes: Size
    sha256: _Sha256


class Unit(Record):
    """Files that are committed, and lost, together."""

    files: dict[_File, FileEntry]
    info: _Json
    session: Size
    committed: str


class Cohort(Record):
    """One cohort: its shape, its arrays and its committed blocks of members."""

    members: Size
    block_size: Annotated[int, Field(ge=1)]
    spec: _Json
    snapshots: tuple[JsonValue, ...]
    info: _Json
    arrays: dict[Name, ArrayEntry] = Field(default_factory=dict)
    table: Unit | None = None
    blocks: dict[Size, Unit] = Field(default_factory=dict)

    def rows(self, block: int) -> slice:
        """Positions on the member axis that a block holds."""
        start = block * self.block_size
        return slice(start, min(start + self.block_size, self.members))

    @property
    def block_count(self) -> int:
        return -(-self.members // self.block_size)


class Measurement(Record):
    """What one run measured of one cohort."""

    arrays: dict[Name, ArrayEntry]
    unit: Unit


class Run(Record):
    """One measurement run; open until finished."""

    settings: _Json
    since: str
    finished: bool = False
    cohorts: dict[Name, Measurement] = Field(default_factory=dict)


class Extension(Record):
    """What was added to the plan of a zoo after its config, before the work on it began."""

    plan: _Json
    since: str


class Session(Record):
    """Who wrote, from when on: versions, flags and device as the writer gave them."""

    since: str
    provenance: _Json


class MembersTable(FileEntry):
    """The derived table and the content that it was made from."""

    content_hash: _Sha256


class Manifest(Record):
    """Everything that is committed; see ``docs/format.md`` §4 for the keys."""

    format_version: Literal[1, 2] = 1
    checksum: _Sha256 = _BLANK
    name: str
    config: _Json
    config_hash: str
    created: str
    sessions: tuple[Session, ...] = ()
    cohorts: dict[Name, Cohort] = Field(default_factory=dict)
    runs: dict[_Number, Run] = Field(default_factory=dict)
    labels: dict[_Number, Unit] = Field(default_factory=dict)
    extensions: dict[_Number, Extension] = Field(default_factory=dict)
    members_table: MembersTable | None = None

    @model_validator(mode="after")
    def _version_holds_it(self) -> Manifest:
        if self.extensions and self.format_version < 2:
            raise ValueError("extensions: found some, format version 1 has none")
        return self

    def units(self) -> Iterator[tuple[UnitKey, Unit]]:
        """Every unit with the key by which :meth:`without` drops it."""
        for name, cohort in self.cohorts.items():
            if cohort.table is not None:
                yield ("table", name), cohort.table
            for index, block in cohort.blocks.items():
                yield ("block", name, str(index)), block
        for number, run in self.runs.items():
            for name, measurement in run.cohorts.items():
                yield ("measurement", number, name), measurement.unit
        for number, unit in self.labels.items():
            yield ("labels", number), unit

    def latest_runs(self) -> list[str]:
        """The latest run of each settings, in order."""
        latest = {json.dumps(run.settings, sort_keys=True): n for n, run in self.runs.items()}
        return sorted(latest.values(), key=int)

    def describe(self, key: UnitKey) -> str:
        """A unit in words, with its range of members."""
        match key:
            case ("table", cohort):
                return f"member table of cohort {cohort}"
            case ("block", cohort, index):
                rows = self.cohorts[cohort].rows(int(index))
                return f"cohort {cohort}, members {rows.start} to {rows.stop - 1}"
            case ("measurement", run, cohort):
                return f"measurements of cohort {cohort} in run {run}"
            case _:
                return f"phase labels {key[-1]}"

    def without(self, key: UnitKey) -> Manifest:
        """The manifest after the loss of one unit."""
        match key:
            case ("table", cohort):
                return self.with_cohort(cohort, table=None)
            case ("block", cohort, index):
                blocks = self.cohorts[cohort].blocks
                kept = {k: unit for k, unit in blocks.items() if k != int(index)}
                return self.with_cohort(cohort, blocks=kept)
            case ("measurement", run, cohort):
                cohorts = {k: m for k, m in self.runs[run].cohorts.items() if k != cohort}
                return self.with_run(run, cohorts=cohorts, finished=False)
            case _:
                return self.with_(labels={k: u for k, u in self.labels.items() if k != key[-1]})

    def with_(self, **changes: Any) -> Manifest:
        """A copy with some keys changed."""
        return self.model_copy(update=changes)

    def with_cohort(self, name: str, **changes: Any) -> Manifest:
        """A copy with some keys of one cohort changed."""
        cohort = self.cohorts[name].model_copy(update=changes)
        return self.with_(cohorts={**self.cohorts, name: cohort})

    def with_run(self, number: str, **changes: Any) -> Manifest:
        """A copy with some keys of one run changed."""
        run = self.runs[number].model_copy(update=changes)
        return self.with_(runs={**self.runs, number: run})

    def metadata_files(self) -> dict[str, bytes]:
        """Path → content of every ``zarr.json`` of the zoo."""
        groups: dict[str, dict[str, Any]] = {
            # Of the arrays, which version 2 leaves as they were: no file is ever rewritten.
            "": {"format_version": 1, "config_hash": self.config_hash},
            "training/": {},
            "measured/": {},
        }
        arrays: dict[str, ArrayEntry] = {}
        for name, cohort in self.cohorts.items():
            prefix = training_path(name)
            groups[prefix] = {"spec": cohort.spec, "snapshots": cohort.snapshots}
            arrays |= {f"{prefix}{array}/": entry for array, entry in cohort.arrays.items()}
        for number, run in self.runs.items():
            groups[f"measured/{number}/"] = {"settings": run.settings}
            for name, measurement in run.cohorts.items():
                prefix = measured_path(number, name)
                groups[prefix] = {}
                arrays |= {f"{prefix}{array}/": e for array, e in measurement.arrays.items()}
        files = {path: group_file(attributes) for path, attributes in groups.items()}
        files |= {path: array_file(entry) for path, entry in arrays.items()}
        return {f"{path}zarr.json": data for path, data in files.items()}

    def content_hash(self) -> str:
        """What the zoo holds, whenever and in however many attempts it was written."""
        lines = [f"{p} {f.sha256}\n" for _, unit in self.units() for p, f in unit.files.items()]
        for path, data in self.metadata_files().items():
            lines.append(f"{path} {hashlib.sha256(data).hexdigest()}\n")
        return hashlib.sha256("".join(sorted(lines)).encode()).hexdigest()

    def to_bytes(self) -> bytes:
        """The manifest file, with its checksum."""
        # Version 1 does not know extensions, not even empty ones.
        unknown = {"extensions"} if self.format_version < 2 else None
        text = self.with_(checksum=_BLANK).model_dump_json(indent=1, exclude=unknown) + "\n"
        checksum = hashlib.sha256(text.encode()).hexdigest()
        return text.replace(_BLANK, checksum, 1).encode()


def training_path(cohort: str) -> str:
    """Directory of a cohort's training arrays."""
    return f"training/{cohort}/"


def measured_path(run: str, cohort: str) -> str:
    """Directory of what one run measured of one cohort."""
    return f"measured/{run}/{cohort}/"


def table_path(cohort: str) -> str:
    """File of a cohort's ids and hyper-parameters."""
    return f"tables/{cohort}.parquet"


def parse(data: bytes, path: Path) -> Manifest:
    """Check and decode a manifest file.

    Raises:
        FormatVersionError: if a newer zoogen wrote it.
        CorruptZooError: if its bytes are not those that were written, or contradict the format.
    """
    try:
        document = json.loads(data)
        version, checksum = document["format_version"], document["checksum"]
        blanked = data.replace(checksum.encode(), _BLANK.encode(), 1)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise _corrupt(path, f"JSON with a version and a checksum, found {error!r}") from error
    if type(version) is int and version > FORMAT_VERSION:
        raise FormatVersionError(
            f"{path}: written in format version {version}, this zoogen reads up to "
            f"{FORMAT_VERSION}; upgrade zoogen"
        )
    found = hashlib.sha256(blanked).hexdigest()
    if found != checksum:
        raise _corrupt(path, f"checksum {checksum}, found {found}")
    try:
        return Manifest.model_validate_json(data)
    except ValueError as error:
        raise _corrupt(path, f"format version {version}, found {first_reason(error)}") from error


def _corrupt(path: Path, expected: str) -> CorruptZooError:
    return CorruptZooError(
        f"{path} is damaged: expected {expected}; "
        f"run `zoogen verify --repair {path.parent}`, which restores it from {BACKUP}"
    )


def load(root: Path) -> Manifest:
    """Read the manifest of the zoo at ``root``.

    Raises:
        NotFoundError: if there is no zoo.
        CorruptZooError, FormatVersionError: see :func:`parse`.
    """
    path = root / MANIFEST
    try:
        if path.is_symlink():
            raise _corrupt(path, "a regular file, found a symbolic link")
        return parse(path.read_bytes(), path)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _no_zoo(root) from error
    except OSError as error:
        raise _corrupt(path, f"a readable file, found: {error.strerror}") from error


def _no_zoo(root: Path) -> ZoogenError:
    if (root / BACKUP).is_file():
        return _corrupt(root / MANIFEST, "a file, found none")
    if not root.exists():
        return NotFoundError(f"no zoo at {root}: nothing is there; check the path")
    found = f"a directory without {MANIFEST}" if root.is_dir() else "a file, not a directory"
    return NotFoundError(f"no zoo at {root}: it is {found}; check the path")
