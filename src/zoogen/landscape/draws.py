"""Random numbers of the estimators: drawn from identities, outside the compiled programs.

Raw bits of NumPy's PCG64: the same under every version of JAX, and no program has to compile a
generator, which would take a quarter of its compile time.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float32, Int32, UInt32

from zoogen.keys import Purpose

Words = UInt32[np.ndarray, " words"]


def sign_bits(seed: int, words: Words, rows: int, size: int) -> UInt32[np.ndarray, "rows size"]:
    """Random words for :func:`zoogen.landscape.curvature.trace_samples`."""
    return _bits(seed, words, Purpose.HESSIAN, rows * size).reshape(rows, size)


def start_vector(seed: int, words: Words, size: int) -> Float32[np.ndarray, " size"]:
    """Standard normal vector."""
    return _normal(seed, words, Purpose.LANCZOS, size)


def _normal(seed: int, words: Words, purpose: Purpose, size: int) -> Float32[np.ndarray, " size"]:
    """Standard normal numbers (Box and Muller, 1958)."""
    pairs = -(-size // 2)
    radius, angle = _uniform(seed, words, purpose, 2 * pairs).reshape(2, pairs)
    radius, angle = np.sqrt(-2 * np.log1p(-radius)), 2 * np.pi * angle
    both = np.concatenate([radius * np.cos(angle), radius * np.sin(angle)])
    return both[:size].astype(np.float32)


def normal_images(
    seed: int, count: int, shape: tuple[int, int, int]
) -> Float32[np.ndarray, "n c h w"]:
    """Standard normal images, the same for all members of a zoo."""
    size = count * math.prod(shape)
    return _normal(seed, np.zeros(0, np.uint32), Purpose.CIRCLES, size).reshape(count, *shape)


def curve_order(
    seed: int, words: Words, examples: int, epochs: int, batch_size: int
) -> tuple[Int32[np.ndarray, "step b"], Float32[np.ndarray, " step"]]:
    """The examples and the t of each step of a curve's training.

    Every epoch visits the examples in a new random order, in full batches; what is left over is
    dropped. Where there are fewer examples than a batch, one batch holds them all.
    """
    size = min(batch_size, examples)
    per_epoch = examples // size
    bits = _bits(seed, words, Purpose.CURVE, epochs * (examples + per_epoch))
    ranks = bits[: epochs * examples].reshape(epochs, examples)
    order = np.argsort(ranks, axis=1, kind="stable")[:, : per_epoch * size]
    times = _unit_interval(bits[epochs * examples :])
    return order.reshape(-1, size).astype(np.int32), times.astype(np.float32)


def _bits(seed: int, words: Words, purpose: Purpose, count: int) -> UInt32[np.ndarray, " count"]:
    generator = np.random.PCG64([seed, purpose, *(int(word) for word in words)])
    return generator.random_raw(-(-count // 2)).astype("<u8").view("<u4")[:count]


def _uniform(seed: int, words: Words, purpose: Purpose, count: int) -> np.ndarray:
    return _unit_interval(_bits(seed, words, purpose, count))


def _unit_interval(bits: UInt32[np.ndarray, " count"]) -> np.ndarray:
    """In [0, 1), on a grid of 2⁻²⁴ that float32 holds exactly."""
    return (bits >> np.uint32(8)) / 2.0**24
