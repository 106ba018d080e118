"""Shrink the images of a data set to a smaller side, as one NumPy file for the source `npz`.

    python scripts/shrink_images.py mnist.toml 8 mnist8.npz

The config names the data in `[data]`. Pixels are means over square patches; a margin that no whole
patch covers is cut off evenly. So MNIST becomes a data set that networks of 8×8 digits never saw.
"""

from __future__ import annotations

import argparse

import numpy as np
from jaxtyping import Float, Shaped

from zoogen.config import load_data_config
from zoogen.data import load


def main() -> None:
    """Write ``x_train``, ``y_train``, ``x_test`` and ``y_test``."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("config", help="TOML file with [data]")
    parser.add_argument("side", type=int, help="pixels of the new side")
    parser.add_argument("out", help="npz file to write")
    arguments = parser.parse_args()
    dataset = load(load_data_config(arguments.config))
    smallest = min(dataset.image_shape[1:])
    if not 1 <= arguments.side <= smallest:
        parser.error(f"side: found {arguments.side}, expected 1 to {smallest}")
    np.savez_compressed(
        arguments.out,
        x_train=shrunk(dataset.train.images, arguments.side),
        y_train=dataset.train.labels,
        x_test=shrunk(dataset.test.images, arguments.side),
        y_test=dataset.test.labels,
    )


def shrunk(images: Shaped[np.ndarray, "n c h w"], side: int) -> Float[np.ndarray, "n c s s"]:
    """Means over the largest square patches of which ``side`` fit beside each other."""
    patch = min(images.shape[2:]) // side
    top, left = ((length - side * patch) // 2 for length in images.shape[2:])
    kept = images[:, :, top : top + side * patch, left : left + side * patch]
    parts = kept.reshape(*kept.shape[:2], side, patch, side, patch)
    return parts.mean(axis=(3, 5), dtype=np.float32)


if __name__ == "__main__":
    main()
