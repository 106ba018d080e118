"""Raw files of image sets: IDX (MNIST-like), CIFAR binaries and CIFAR sheets, read with care.

Every fault of a file ends in one line that names it. Nothing here unpickles.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import re
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Integer, UInt8

from zoogen.data.dataset import Split
from zoogen.errors import ConfigError, DataUnavailableError

_IDX_UNSIGNED_BYTE = 0x08
_HIGHEST_CLASS = 2**31 - 1
_CIFAR_SHAPE = (3, 32, 32)
_CIFAR_PIXELS = 3 * 32 * 32
_SPLITS = {"train": ("train",), "test": ("t10k", "test")}


@dataclass
class FileReader:
    """Reads whole files and compares their sha256 with what the config expects.

    Attributes:
        expected: file name → sha256 in hexadecimal; files left out are not compared.
        found: file name → sha256 of every file read so far.
    """

    expected: Mapping[str, str] = field(default_factory=dict)
    found: dict[str, str] = field(default_factory=dict)

    def read(self, path: Path) -> bytes:
        """The bytes of a file.

        Raises:
            DataUnavailableError: if it can't be read or its checksum differs.
        """
        try:
            content = path.read_bytes()
        except OSError as error:
            raise DataUnavailableError(f"{path}: can't be read ({error.strerror})") from error
        self.found[path.name] = hashlib.sha256(content).hexdigest()
        compare_checksum(path, self.expected, self.found[path.name])
        return content

    def finish(self) -> None:
        """Refuse checksums of files that were never read: they would protect nothing.

        Raises:
            ConfigError: naming the first such file.
        """
        refuse_unused_checksums(self.expected, self.found)


def compare_checksum(path: Path, expected: Mapping[str, str], found: str) -> None:
    """Raise `DataUnavailableError` where a file's sha256 is not the expected one."""
    wanted = expected.get(path.name, found).lower()
    if wanted != found:
        raise DataUnavailableError(
            f"{path}: expected sha256 {wanted}, found {found}; fetch the file again or correct "
            "data.sha256"
        )


def refuse_unused_checksums(expected: Mapping[str, str], found: Iterable[str]) -> None:
    """Raise `ConfigError` where a checksum names none of the files found."""
    unused = sorted(set(expected) - set(found))
    if unused:
        raise ConfigError(
            f"data.sha256: {unused[0]!r} is no file of this data set; its files are "
            f"{sorted(found) or 'none'}"
        )


# --- IDX -------------------------------------------------------------------------------------


def find_idx(directory: Path, prefix: str | None = None) -> dict[str, Path]:
    """The four IDX files of a directory: ``{"train images": path, …, "test labels": path}``.

    Names are ``[PREFIX]{train|t10k|test}-{images|labels}{-|.}idx{3|1}-ubyte[.gz]``; where a file
    is there both packed and unpacked, the unpacked one is taken.

    Args:
        directory: where they lie.
        prefix: of the names; ``None`` accepts the one prefix that is there.

    Raises:
        DataUnavailableError: if files are missing, or several prefixes share the directory.
    """
    found = _idx_by_prefix(directory)
    if prefix is None and len(found) > 1:
        raise DataUnavailableError(
            f"{directory}: expected the files of one data set, found those of "
            f"{sorted(found)}; give each its own directory"
        )
    files = found.get(prefix, {}) if prefix is not None else next(iter(found.values()), {})
    missing = [f"{s} {k}" for s in _SPLITS for k in ("images", "labels") if f"{s} {k}" not in files]
    if missing:
        raise DataUnavailableError(
            f"{directory}: no IDX file of the {', '.join(missing)}; expected "
            f"{', '.join(idx_names(prefix or ''))}"
        )
    return files


def idx_names(prefix: str) -> list[str]:
    """The four packed file names as MNIST has them."""
    pairs = [("train", "images", 3), ("train", "labels", 1), ("t10k", "images", 3)]
    pairs.append(("t10k", "labels", 1))
    return [f"{prefix}{split}-{kind}-idx{axes}-ubyte.gz" for split, kind, axes in pairs]


def _idx_by_prefix(directory: Path) -> dict[str, dict[str, Path]]:
    pattern = re.compile(r"(.*?)(train|t10k|test)-(images|labels)[-.]idx[13]-ubyte(?:\.gz)?")
    found: dict[str, dict[str, Path]] = {}
    # Packed names sort behind unpacked ones, so that reversed order lets the unpacked one win.
    for path in sorted(_listing(directory), reverse=True):
        if match := pattern.fullmatch(path.name):
            prefix, split, kind = match.groups()
            part = next(name for name, spellings in _SPLITS.items() if split in spellings)
            found.setdefault(prefix, {})[f"{part} {kind}"] = path
    return found


def _listing(directory: Path) -> list[Path]:
    try:
        return list(directory.iterdir())
    except OSError as error:
        raise DataUnavailableError(
            f"{directory}: expected a directory of data files ({error.strerror}); correct data.path"
        ) from error


def read_idx_set(reader: FileReader, files: Mapping[str, Path]) -> tuple[Split, Split]:
    """Training and test split of the four files that `find_idx` found.

    Raises:
        DataUnavailableError: naming the malformed file.
    """
    train, test = (
        _pair(
            files[f"{part} images"],
            _idx_array(reader, files[f"{part} images"], axes=3)[:, None],
            files[f"{part} labels"],
            _idx_array(reader, files[f"{part} labels"], axes=1),
        )
        for part in _SPLITS
    )
    return train, test


def _idx_array(reader: FileReader, path: Path, axes: int) -> UInt8[np.ndarray, "..."]:
    content = _unpack(path, reader.read(path))
    if len(content) < 4 or content[:2] != b"\0\0":
        raise _malformed(
            path, "an IDX file (two zero bytes first)", f"{content[:4].hex() or 'none'}"
        )
    if content[2] != _IDX_UNSIGNED_BYTE:
        raise _malformed(path, "unsigned bytes (IDX type 0x08)", f"type 0x{content[2]:02x}")
    if content[3] != axes:
        raise _malformed(path, f"{axes} axes", f"{content[3]}")
    start = 4 + 4 * axes
    shape = [int.from_bytes(content[at : at + 4], "big") for at in range(4, start, 4)]
    expected = start + int(np.prod(shape, dtype=object))
    if len(content) != expected:
        raise _malformed(path, f"{expected} bytes for shape {shape}", f"{len(content)}")
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _unpack(path: Path, content: bytes) -> bytes:
    if content[:2] != b"\x1f\x8b":
        return content
    try:
        return gzip.decompress(content)
    except (EOFError, OSError, zlib.error) as error:
        raise _malformed(path, "an intact gzip file", str(error)) from error


def _malformed(path: Path, expected: str, found: str) -> DataUnavailableError:
    return DataUnavailableError(f"{path}: expected {expected}, found {found}; fetch the file again")


def _pair(images_path: Path, images: np.ndarray, labels_path: Path, labels: np.ndarray) -> Split:
    if len(images) != len(labels):
        raise _malformed(
            labels_path, f"{len(images)} labels as {images_path.name} has images", f"{len(labels)}"
        )
    return Split(images, class_numbers(f"{labels_path}", labels))


def class_numbers(where: str, labels: Integer[np.ndarray, " n"]) -> Int32[np.ndarray, " n"]:
    """Labels as int32; conversion alone would turn 2³² + 3 into class 3.

    Raises:
        DataUnavailableError: if one is negative or no int32; the message begins with ``where``.
    """
    lowest, highest = int(labels.min(initial=0)), int(labels.max(initial=0))
    if lowest < 0 or highest > _HIGHEST_CLASS:
        raise DataUnavailableError(
            f"{where}: expected classes from 0 to at most {_HIGHEST_CLASS}, found {lowest} to "
            f"{highest}; number the classes from 0 on"
        )
    return labels.astype(np.int32)


# --- CIFAR -----------------------------------------------------------------------------------

CIFAR10_BATCHES = {
    "train": [f"data_batch_{i}" for i in range(1, 6)],
    "test": ["test_batch"],
}
CIFAR100_BATCHES = {"train": ["train"], "test": ["test"]}


def find_cifar(directory: Path, batches: Mapping[str, Sequence[str]]) -> dict[str, list[Path]]:
    """CIFAR files by split: binary batches, or else image sheets with their label file first.

    Args:
        directory: where they lie.
        batches: split → names without their ending.

    Raises:
        DataUnavailableError: if neither form is complete.
    """
    present = {path.name for path in _listing(directory)}
    for forms in (_binary_names(batches), *_sheet_names(batches)):
        if present.issuperset(name for names in forms.values() for name in names):
            return {split: [directory / name for name in names] for split, names in forms.items()}
    wanted = [name for names in _binary_names(batches).values() for name in names]
    missing = [name for name in wanted if name not in present]
    raise DataUnavailableError(
        f"{directory}: CIFAR files are missing; expected {', '.join(wanted)} (binary version) or "
        f"the same batches as .png with label files .json, found no {missing[0]}"
    )


def _binary_names(batches: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    return {split: [f"{name}.bin" for name in names] for split, names in batches.items()}


def _sheet_names(batches: Mapping[str, Sequence[str]]) -> list[dict[str, list[str]]]:
    # The package that carries these sheets spells its label files "lables".
    return [
        {
            split: [f"{split}_{word}.json", *(f"{name}.png" for name in names)]
            for split, names in batches.items()
        }
        for word in ("lables", "labels")
    ]


def read_cifar_set(
    reader: FileReader, files: Mapping[str, Sequence[Path]], label_bytes: int
) -> tuple[Split, Split]:
    """Training and test split of the files that `find_cifar` found.

    Args:
        reader: of the files.
        files: split → paths.
        label_bytes: labels in front of each image of the binary form; the last one is used
            (CIFAR-100 has a coarse and a fine one).

    Raises:
        DataUnavailableError: naming the malformed file.
    """
    train, test = (
        _cifar_sheets(reader, paths)
        if paths[0].suffix == ".json"
        else _cifar_binaries(reader, paths, label_bytes)
        for paths in (files["train"], files["test"])
    )
    return train, test


def _cifar_binaries(reader: FileReader, paths: Sequence[Path], label_bytes: int) -> Split:
    size = label_bytes + _CIFAR_PIXELS
    records = []
    for path in paths:
        content = reader.read(path)
        if not content or len(content) % size:
            raise _malformed(path, f"records of {size} bytes", f"{len(content)} bytes in all")
        records.append(np.frombuffer(content, np.uint8).reshape(-1, size))
    joined = np.concatenate(records)
    labels = joined[:, label_bytes - 1].astype(np.int32)
    return Split(joined[:, label_bytes:].reshape(-1, *_CIFAR_SHAPE), labels)


def _cifar_sheets(reader: FileReader, paths: Sequence[Path]) -> Split:
    """Sheets with one image a row, 32 x 32 pixels side by side, and their labels."""
    labels = _json_labels(paths[0], reader.read(paths[0]))
    sheets = [_sheet(path, reader.read(path)) for path in paths[1:]]
    images = np.concatenate(sheets).reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    return _pair(paths[1], np.ascontiguousarray(images), paths[0], labels)


def _sheet(path: Path, content: bytes) -> UInt8[np.ndarray, "n 1024 3"]:
    try:
        from PIL import Image
    except ImportError as error:
        raise missing_extra("pillow") from error
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as image:
            pixels = np.asarray(image)
    except (OSError, SyntaxError, ValueError, zlib.error) as error:
        raise _malformed(path, "an intact PNG image", str(error)) from error
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[1:] != (1024, 3):
        raise _malformed(path, "rows of 1024 RGB pixels", f"shape {pixels.shape}")
    return pixels


def _json_labels(path: Path, content: bytes) -> np.ndarray:
    try:
        labels = np.asarray(json.loads(content))
    except ValueError as error:
        raise _malformed(path, "a JSON list of labels", str(error)) from error
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise _malformed(path, "a flat list of integers", f"{labels.dtype} {labels.shape}")
    return labels


def missing_extra(module: str) -> DataUnavailableError:
    """The error for a package of the ``tfds`` extra that is not installed."""
    return DataUnavailableError(
        f"this data set needs the package {module!r}, which is not installed; "
        "run: pip install 'zoogen[tfds]'"
    )
