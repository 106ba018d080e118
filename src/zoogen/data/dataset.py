"""A data set as members see it: uint8 images in one seeded order, with the hash of its content."""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Float32, Int, Int32, UInt8

from zoogen.config import DataConfig
from zoogen.errors import ConfigError, DataUnavailableError

Images = UInt8[np.ndarray, "n c h w"] | Float32[np.ndarray, "n c h w"]

_CHUNK = 4096  # images turned into wider numbers at a time, to bound memory


@dataclass(frozen=True, eq=False)
class Split:
    """Images with their labels.

    Attributes:
        images: ``[n c h w]``, raw pixel values, uint8 (float32 only where the source has floats).
        labels: ``[n]`` int32, classes from 0.
    """

    images: Images
    labels: Int32[np.ndarray, " n"]

    def __len__(self) -> int:
        return len(self.labels)

    def first(self, count: int) -> Split:
        """The first ``count`` examples (all of them where there are fewer)."""
        return Split(self.images[:count], self.labels[:count])

    def take(self, order: Int[np.ndarray, " n"]) -> Split:
        """The examples at the places ``order``."""
        return Split(self.images[order], self.labels[order])


@dataclass(frozen=True, eq=False)
class Source:
    """What a source delivers before splitting and ordering.

    Attributes:
        name: of the data set, as it stands in titles and cards.
        train: training examples in the order of the files.
        test: test examples; ``None`` where the source has no test split of its own.
        classes: number of classes.
        origin: where the bytes came from, in words.
        licence: of the data; ``unknown`` where nobody stated one.
        citation: author, title, year.
        white: the brightest value that a pixel can have; 255 for bytes and 1 for floats by default.
    """

    name: str
    train: Split
    test: Split | None
    classes: int
    origin: str
    licence: str = "unknown"
    citation: str = "unknown"
    white: float | None = None


@dataclass(frozen=True, eq=False)
class Dataset:
    """Training and test images in an order fixed by the seed of the config.

    Attributes:
        name: of the data set.
        train: training examples; a share f of them is the first ``training_size(f)``.
        test: test examples.
        classes: number of classes.
        mean: ``[c]`` float32, mean of the raw training pixels of each channel.
        std: ``[c]`` float32, their standard deviation; 1 for a channel that is constant.
        sha256: hash of images and labels of both splits, in order, with shapes and types.
        source: where the bytes came from.
        licence: of the data.
        citation: author, title, year.
        white: the brightest value that a pixel can have.
    """

    name: str
    train: Split
    test: Split
    classes: int
    mean: Float32[np.ndarray, " c"]
    std: Float32[np.ndarray, " c"]
    sha256: str
    source: str
    licence: str
    citation: str
    white: float = 255.0

    @property
    def all_images(self) -> Images:
        """Training images, then test images."""
        return np.concatenate([self.train.images, self.test.images])

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of one image."""
        _, channels, height, width = self.train.images.shape
        return channels, height, width

    def blind(self) -> Dataset:
        """The same without test images, for those who must not see any."""
        none = np.zeros((0, *self.image_shape), self.train.images.dtype)
        return replace(self, test=Split(none, np.zeros(0, np.int32)))

    def training_size(self, fraction: float) -> int:
        """Number of training images in a share of them: ``floor(fraction * n)``.

        Args:
            fraction: in (0, 1].

        Raises:
            ConfigError: if the share holds no image.
        """
        count = len(self.train)
        # Rounded first: 0.29 * 100 is 28.999999999999996.
        size = math.floor(round(fraction * count, 6))
        if not 1 <= size <= count:
            raise ConfigError(
                f"data.fraction: {fraction:g} of {count} training images is {size}; choose a "
                f"fraction between {math.ceil(1e6 / count) / 1e6:g} and 1"
            )
        return size

    def probes(self, config: DataConfig, fraction: float | None = None) -> tuple[Split, Split]:
        """The fixed examples on which landscape metrics are measured.

        Args:
            config: gives ``probe_examples`` and the default of ``fraction``.
            fraction: share of the training images that the member sees.

        Returns:
            The first ``probe_examples`` training images within the fraction, and the first
            ``probe_examples`` test images; fewer where there are fewer.
        """
        seen = self.training_size(config.fraction if fraction is None else fraction)
        training = self.train.first(min(config.probe_examples, seen))
        return training, self.test.first(config.probe_examples)


def arrange(source: Source, config: DataConfig) -> Dataset:
    """Split, shuffle, limit and hash what a source delivered.

    Raises:
        DataUnavailableError: if a split is empty, a label is out of range, or training and test
            images differ in shape or type.
    """
    train, test = _split(source, config)
    train = train.first(config.train_examples or len(train))
    test = test.first(config.test_examples or len(test))
    for part, split in (("training", train), ("test", test)):
        _check(source, part, split)
    _check_alike(source.name, train.images, test.images)
    mean, std = _channel_statistics(train.images)
    return Dataset(
        name=source.name,
        train=train,
        test=test,
        classes=source.classes,
        mean=mean,
        std=std,
        sha256=_content_hash(train, test),
        source=source.origin,
        licence=source.licence,
        citation=source.citation,
        white=source.white or (255.0 if train.images.dtype == np.uint8 else 1.0),
    )


def _split(source: Source, config: DataConfig) -> tuple[Split, Split]:
    train = source.train.take(_order(len(source.train), config.seed, stream=0))
    if source.test is not None:
        return train, source.test.take(_order(len(source.test), config.seed, stream=1))
    held_out = max(1, math.floor(round(config.test_fraction * len(train), 6)))
    kept = len(train) - held_out
    return train.first(kept), Split(train.images[kept:], train.labels[kept:])


def _order(count: int, seed: int, stream: int) -> Int[np.ndarray, " n"]:
    """A random permutation that is the same under every version of NumPy."""
    # Raw bits of a bit generator are stable between versions; Generator.permutation is not.
    bits = np.random.PCG64([seed, stream]).random_raw(count)
    return np.argsort(bits, kind="stable")


def _check(source: Source, part: str, split: Split) -> None:
    if split.images.size == 0:
        raise DataUnavailableError(
            f"data set {source.name!r}: the {part} split has no images (shape "
            f"{list(split.images.shape)}); correct the files"
        )
    lowest, highest = int(split.labels.min()), int(split.labels.max())
    if lowest < 0 or highest >= source.classes:
        raise DataUnavailableError(
            f"data set {source.name!r}, {part} labels: expected classes 0 to "
            f"{source.classes - 1}, found {lowest} to {highest}; correct the label file"
        )


def _check_alike(name: str, train: Images, test: Images) -> None:
    """Refuse test images that could not go through the network as training images do."""
    if (test.shape[1:], test.dtype) != (train.shape[1:], train.dtype):
        raise DataUnavailableError(
            f"data set {name!r}, test images: expected {_kind(train)} as in training, found "
            f"{_kind(test)}; correct the files"
        )


def _kind(images: Images) -> str:
    """Shape and type of single images, in words."""
    return f"{'x'.join(map(str, images.shape[1:]))} {images.dtype}"


def _channel_statistics(
    images: Images,
) -> tuple[Float32[np.ndarray, " c"], Float32[np.ndarray, " c"]]:
    """Mean and standard deviation per channel; 1 in place of a deviation of 0."""
    pixels = images.size / images.shape[1]
    mean = sum(_chunk_sums(images, 0.0)) / pixels
    std = np.sqrt(sum(_chunk_sums(images, mean)) / pixels)
    return mean.astype(np.float32), np.where(std > 0, std, 1).astype(np.float32)


def _chunk_sums(images: Images, centre: Float[np.ndarray, " c"] | float) -> list[np.ndarray]:
    """Per chunk and channel: sum of pixels (centre 0.0), or of squared distances to a centre."""
    sums = []
    for start in range(0, len(images), _CHUNK):
        chunk = images[start : start + _CHUNK]
        if isinstance(centre, float):
            sums.append(chunk.sum(axis=(0, 2, 3), dtype=np.float64))
        else:
            distance = chunk - centre[:, None, None]
            sums.append(np.einsum("nchw,nchw->c", distance, distance))
    return sums


def _content_hash(train: Split, test: Split) -> str:
    digest = hashlib.sha256()
    for array in (train.images, train.labels, test.images, test.labels):
        stored = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        digest.update(f"{stored.dtype.name}{list(stored.shape)}".encode())
        digest.update(stored.data)
    return digest.hexdigest()
