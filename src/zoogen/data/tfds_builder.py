"""A TFDS builder that prepares image sets from local raw files, without TensorFlow.

It writes array_record files, which TFDS reads without TensorFlow as well. Usable on its own:

    builder = ZoogenImages(config="fashion_mnist", file_format="array_record")
    builder.download_and_prepare(
        download_config=tfds.download.DownloadConfig(manual_dir="/usr/share/datasets/fashion-mnist")
    )
    builder.as_data_source(split="train")[0]     # {"image": [28, 28, 1] uint8, "label": …}
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow_datasets as tfds

from zoogen.data.catalogue import CATALOGUE, RawSet
from zoogen.data.dataset import Split
from zoogen.data.raw import FileReader


@dataclasses.dataclass(kw_only=True)
class RawConfig(tfds.core.BuilderConfig):
    """A builder config that carries an entry of the catalogue."""

    entry: RawSet


def config_name(entry: RawSet) -> str:
    """The name of a set's builder config, which is also its directory."""
    return entry.name.replace("/", "_")


class ZoogenImages(tfds.core.GeneratorBasedBuilder):
    """MNIST-like and CIFAR-like sets, one builder config each, from files in ``manual_dir``."""

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "Images as uint8 bytes, labels as class numbers."}  # noqa: RUF012
    MANUAL_DOWNLOAD_INSTRUCTIONS = "Put the raw files of the set into the directory manual_dir."
    BUILDER_CONFIGS = [  # noqa: RUF012
        RawConfig(name=config_name(entry), description=entry.citation, entry=entry)
        for entry in CATALOGUE.values()
    ]

    def _info(self) -> tfds.core.DatasetInfo:
        entry = self.builder_config.entry
        # Raw bytes: TFDS encodes images only with TensorFlow.
        image = tfds.features.Tensor(shape=entry.image_shape, dtype=np.uint8, encoding="bytes")
        label = tfds.features.ClassLabel(num_classes=entry.classes)
        return tfds.core.DatasetInfo(
            builder=self,
            description=f"{entry.name}, prepared by zoogen from its raw files.",
            features=tfds.features.FeaturesDict({"image": image, "label": label}),
            supervised_keys=("image", "label"),
            citation=entry.citation,
            license=entry.licence,
            metadata=tfds.core.MetadataDict(),
        )

    def _split_generators(self, dl_manager: Any) -> dict[str, Iterator[tuple[int, dict]]]:
        reader = FileReader()
        train, test = self.builder_config.entry.read(Path(dl_manager.manual_dir), reader)
        # Kept with the prepared set, so that its origin can be checked when it is read.
        self.info.metadata["raw_sha256"] = reader.found
        return {"train": self._generate_examples(train), "test": self._generate_examples(test)}

    def _generate_examples(self, split: Split) -> Iterator[tuple[int, dict[str, Any]]]:
        for key, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
            yield (
                key,
                {"image": np.ascontiguousarray(image.transpose(1, 2, 0)), "label": int(label)},
            )
