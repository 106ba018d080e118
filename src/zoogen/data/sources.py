"""Where data sets come from: scikit-learn, a directory of IDX files, one NPZ file, or TFDS."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Int32, Shaped

from zoogen.config import DataConfig
from zoogen.data.dataset import Images, Source, Split
from zoogen.data.raw import (
    FileReader,
    class_numbers,
    find_idx,
    read_idx_set,
    refuse_unused_checksums,
)
from zoogen.data.tfds_source import read_tfds
from zoogen.errors import DataUnavailableError

_SPLIT_KEYS = ("x_train", "y_train", "x_test", "y_test")
_JOINT_KEYS = ("images", "labels")
_MOST_CHANNELS = 4


def read_source(config: DataConfig) -> Source:
    """What the source of a config delivers.

    Raises:
        DataUnavailableError: if files are missing, malformed or differ from their checksum.
        ConfigError: if a checksum names no file of the source.
    """
    kind = config.source.partition(":")[0]
    return _SOURCES[kind](config)


def _digits(config: DataConfig) -> Source:
    from sklearn.datasets import load_digits

    refuse_unused_checksums(config.sha256, ())
    bunch = load_digits()
    return Source(
        name="digits",
        train=Split(bunch.images.astype(np.uint8)[:, None], bunch.target.astype(np.int32)),
        test=None,
        classes=10,
        origin="scikit-learn, load_digits",
        licence="CC BY 4.0",
        citation="Alpaydin and Kaynak, Optical recognition of handwritten digits, 1998",
        white=16.0,
    )


def _local_path(config: DataConfig) -> Path:
    return Path(config.path or "").expanduser()  # the config requires a path for these sources


def _idx(config: DataConfig) -> Source:
    directory = _local_path(config)
    reader = FileReader(config.sha256)
    train, test = read_idx_set(reader, find_idx(directory))
    reader.finish()
    name = directory.resolve().name
    return Source(name, train, test, _classes(directory, train, test), "local IDX files")


def _npz(config: DataConfig) -> Source:
    path = _local_path(config)
    reader = FileReader(config.sha256)
    arrays = _npz_arrays(path, reader.read(path))
    reader.finish()
    if set(_SPLIT_KEYS) <= set(arrays):
        train = _examples(path, arrays, "x_train", "y_train")
        test = _examples(path, arrays, "x_test", "y_test")
        return Source(path.stem, train, test, _classes(path, train, test), "local NPZ file")
    train = _examples(path, arrays, *_JOINT_KEYS)
    return Source(path.stem, train, None, _classes(path, train), "local NPZ file")


_SOURCES: dict[str, Callable[[DataConfig], Source]] = {
    "digits": _digits,
    "idx": _idx,
    "npz": _npz,
    "tfds": read_tfds,
}


def _classes(path: Path, train: Split, *others: Split) -> int:
    """One more than the highest label; more classes than images are a mistake in the labels."""
    classes = 1 + max(int(split.labels.max(initial=0)) for split in (train, *others))
    if 0 < len(train) < classes:
        raise DataUnavailableError(
            f"{path}: expected labels from 0 to the number of classes less one, found label "
            f"{classes - 1} among {len(train)} training images; number the classes from 0 on"
        )
    return classes


def _npz_arrays(path: Path, content: bytes) -> dict[str, np.ndarray]:
    """The arrays of the keys that zoogen knows; never unpickles."""
    try:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            known = [key for key in (*_SPLIT_KEYS, *_JOINT_KEYS) if key in file]
            arrays = {key: file[key] for key in known}
            present = list(file)
    except Exception as error:  # readers of zip and npy raise a dozen unrelated types
        raise _no_npz(path, (str(error).splitlines() or [type(error).__name__])[0]) from error
    odd = [key for key, value in arrays.items() if not isinstance(value, np.ndarray)]
    if odd:
        raise _no_npz(path, f"its member {odd[0]!r} is no .npy file")
    if not (set(_SPLIT_KEYS) <= set(arrays) or set(_JOINT_KEYS) <= set(arrays)):
        raise DataUnavailableError(
            f"{path}: expected the arrays {', '.join(_SPLIT_KEYS)}, or {', '.join(_JOINT_KEYS)}; "
            f"found {', '.join(present) or 'none'}; rename them"
        )
    return arrays


def _no_npz(path: Path, found: str) -> DataUnavailableError:
    return DataUnavailableError(
        f"{path}: expected an intact NPZ file of plain arrays ({found}); write it again with "
        "numpy.savez"
    )


def _examples(path: Path, arrays: dict[str, np.ndarray], images: str, labels: str) -> Split:
    split = Split(
        _npz_images(f"{path}, array {images!r}", arrays[images]),
        _npz_labels(f"{path}, array {labels!r}", arrays[labels]),
    )
    if len(split.images) != len(split.labels):
        raise DataUnavailableError(
            f"{path}: expected as many {labels} as {images}, found {len(split.labels)} and "
            f"{len(split.images)}"
        )
    return split


def _npz_labels(where: str, labels: np.ndarray) -> Int32[np.ndarray, " n"]:
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1 or labels.dtype.kind not in "iu":
        raise DataUnavailableError(
            f"{where}: expected integer labels of shape [n], found {labels.dtype} of shape "
            f"{list(labels.shape)}"
        )
    return class_numbers(where, labels)


def _npz_images(where: str, images: np.ndarray) -> Images:
    """Pixels as uint8 or float32, channels in front.

    Channels are the last axis if that is short, else the second one.
    """
    if images.ndim == 3:
        images = images[:, None]
    elif images.ndim == 4 and images.shape[3] <= _MOST_CHANNELS:
        images = images.transpose(0, 3, 1, 2)
    if images.ndim != 4 or images.shape[1] > _MOST_CHANNELS or 0 in images.shape:
        raise DataUnavailableError(
            f"{where}: expected images of shape [n, h, w] or [n, h, w, c] with at most "
            f"{_MOST_CHANNELS} channels, found {list(images.shape)}"
        )
    return np.ascontiguousarray(_pixels(where, images))


def _pixels(where: str, images: Shaped[np.ndarray, "n c h w"]) -> Images:
    if images.dtype.kind == "f":
        with np.errstate(over="ignore"):
            numbers = images.astype(np.float32)
        if np.isfinite(numbers).all():
            return numbers
    if images.dtype.kind in "biu" and images.min() >= 0 and images.max() <= 255:
        return images.astype(np.uint8)
    raise DataUnavailableError(
        f"{where}: expected integers from 0 to 255 or finite floats of 32 bits, found "
        f"{images.dtype} outside of that"
    )
