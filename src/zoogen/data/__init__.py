"""What members train on: images in a seeded order, from embedded, local or TFDS sources."""

from __future__ import annotations

from zoogen.config import DataConfig
from zoogen.data.dataset import Dataset, Split, arrange
from zoogen.data.pixels import PLACE_SHAPE, image_of, pixel_values, places
from zoogen.data.sources import read_source
from zoogen.data.transforms import augment, noisy_labels, normalise

__all__ = [
    "PLACE_SHAPE", "Dataset", "Split", "augment", "image_of", "load", "noisy_labels", "normalise",
    "pixel_values", "places",
]  # fmt: skip


def load(config: DataConfig) -> Dataset:
    """The data set that a config names, split, ordered and hashed.

    Args:
        config: source, limits and seed; the same config gives the same bytes.

    Returns:
        All training and test images; `Dataset.training_size` says which of them a member sees.

    Raises:
        DataUnavailableError: if files are missing, malformed or differ from their checksum; the
            message lists the steps that place them.
        ConfigError: if the config contradicts the data.

    Example:
        >>> digits = load(DataConfig(source="digits"))
        >>> digits.train.images.shape, len(digits.test), digits.classes
        ((1348, 1, 8, 8), 449, 10)
    """
    return arrange(read_source(config), config)
