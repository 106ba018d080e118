"""Compaction: a network as few coefficients of a pseudo-random basis, and the seed of that basis.

Weights are ``scale · (b0 + sum_k alpha_k b_k)`` where every ``b`` is a vector of signs, a hash of
seed, ``k`` and place. No vector is stored, and never are all of them in memory: columns of the
basis are made where they are needed. Coefficients lie on a grid, 2⁻²⁴ of the power of two above the
largest, so that their sums with any signs are exact in double precision: what is decoded has the
same bits on every machine, in chunks of any size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float, Float32, Float64, Int, UInt32

from zoogen.errors import ConfigError
from zoogen.generators.layer_graph import layer_graph
from zoogen.merging import loss_of
from zoogen.networks import Network
from zoogen.params import ParamSpec
from zoogen.population import MemberFunction, over_members

GRID_BITS = 24  # of a float32's significand
CHUNK_BYTES = 2**20  # of the basis' columns that are made at a time
HELD_BYTES = 2**26  # of a basis that training keeps in memory
RATE = 0.05  # of Adam, in units of all coefficients together
_WORD = 32  # signs in one hash


class Code(NamedTuple):
    """Networks as coefficients.

    Attributes:
        seeds: of the basis of each.
        alphas: coefficients, on their grid.
        start: whether the first vector of the basis is added as it is, with the coefficient 1.
    """

    seeds: UInt32[np.ndarray, " m"]
    alphas: Float32[np.ndarray, "m k"]
    start: bool = False


def decode(spec: ParamSpec, code: Code, chunk_bytes: int = CHUNK_BYTES) -> Float32[Any, "m p"]:
    """Weights from coefficients; equal codes give equal bits.

    Args:
        spec: of the networks.
        code: seeds and coefficients.
        chunk_bytes: of columns that are made at a time; it has no influence on the result.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(2, "hidden"), Axis(4))})
        >>> code = Code(np.zeros(1, np.uint32), np.array([[3.0, 1.0]], np.float32))
        >>> sorted(set(np.abs(decode(spec, code)[0]).tolist()))
        [1.0, 2.0]
    """
    values = np.empty((len(code.alphas), spec.size), np.float32)
    scale = scales_of(spec)
    for seed in np.unique(code.seeds):
        rows = code.seeds == seed
        alphas = code.alphas[rows].astype(np.float64)
        for place, columns in _columns(seed, alphas.shape[1], spec.size, chunk_bytes):
            total = alphas @ columns[1:] + (columns[0] if code.start else 0.0)
            values[rows, place] = scale[place] * total
    return values


def encode(
    spec: ParamSpec,
    values: Float[np.ndarray, "m p"],
    numbers: int,
    seed: int = 0,
    start: bool = False,
    chunk_bytes: int = CHUNK_BYTES,
) -> Code:
    """Coefficients with which given weights are met best, by least squares in units of scales.

    All networks share the basis, so that one factorisation serves them all. What is left over is a
    share of about √(1 − numbers / parameters), whatever the weights.

    Args:
        spec: of the networks.
        values: flat weights, finite.
        numbers: coefficients of each, at most as many as parameters.
        seed: of the basis.
        start: whether the first vector is added as it is.
        chunk_bytes: of columns that are made at a time.

    Raises:
        ConfigError: for no coefficients, or more than parameters.
    """
    _refuse(spec, numbers)
    scale = scales_of(spec)
    gram = np.zeros((numbers, numbers))
    seen = np.zeros((len(values), numbers))
    for place, columns in _columns(np.uint32(seed), numbers, spec.size, chunk_bytes):
        wanted = values[:, place] / scale[place] - (columns[0] if start else 0.0)
        gram += columns[1:] @ columns[1:].T
        seen += wanted @ columns[1:].T
    found = np.linalg.lstsq(gram, seen.T)[0].T  # vectors of a tiny network may be dependent
    return Code(np.full(len(values), seed, np.uint32), on_grid(found), start)


def encode_by_task(
    network: Network,
    images: Float[Any, "n c h w"],
    labels: Int[Any, " n"],
    numbers: int,
    seeds: Sequence[int],
    steps: int,
    batch_size: int = 64,
) -> Code:
    """Coefficients with which networks do a task, trained by its loss from the first vector on.

    What is stored is a network that does what members do, and no particular member. Each has a
    basis and an order of images of its own.

    Args:
        network: whose architecture is trained.
        images: normalised training images.
        labels: of the images.
        numbers: coefficients of each, at most as many as parameters.
        seeds: of the bases, one for each network.
        steps: of Adam, with a cosine fall of the rate.
        batch_size: images of a step.

    Raises:
        ConfigError: for no coefficients, or more than parameters.

    Reference:
        Nooralinejad, Abbasi, Koohpayegani, Meibodi, Khan, Kolouri and Pirsiavash, PRANC: pseudo
        random networks for compacting deep models, 2023. There, the basis is of fresh networks.
    """
    _refuse(network.spec, numbers)
    words = np.asarray(seeds, np.uint32)
    data = jnp.asarray(images, jnp.float32), jnp.asarray(labels)
    found = _trained(network, numbers, steps, batch_size)(words, data)
    return Code(words, on_grid(np.asarray(found)), True)


def on_grid(alphas: Float[np.ndarray, "m k"]) -> Float32[np.ndarray, "m k"]:
    """Coefficients on the grid of each network's largest, on which sums are exact.

    Example:
        >>> on_grid(np.array([[1.0, 1e-9, 2.0**-24]])).tolist()
        [[1.0, 0.0, 5.960464477539063e-08]]
    """
    largest = np.abs(alphas).max(axis=1, keepdims=True)
    exponent = np.ceil(np.log2(np.where(largest > 0, largest, 1)))
    step = np.exp2(exponent - GRID_BITS)
    return (np.rint(alphas / step) * step).astype(np.float32)


def scales_of(spec: ParamSpec) -> Float64[np.ndarray, " p"]:
    """Of every entry, one over the root of the fan-in of its unit."""
    sizes = [parameter.size for parameter in spec.parameters]
    return np.repeat(layer_graph(spec).scales, sizes).astype(np.float64)


def _refuse(spec: ParamSpec, numbers: int) -> None:
    if not 1 <= numbers <= spec.size:
        raise ConfigError(
            f"compaction: found {numbers} coefficients, expected 1 to {spec.size}, the number of "
            "parameters"
        )


# ------------------------------------------------------------------------------------------ basis
def signs(xp: Any, seed: Any, rows: UInt32[Any, " r"], words: UInt32[Any, " w"]) -> Any:
    """Signs of some rows and of 32 columns for each word, −1 or 1, in NumPy or JAX alike.

    Args:
        xp: ``numpy`` or ``jax.numpy``.
        seed: uint32, may be traced.
        rows: vectors of the basis; the first is the start.
        words: of the columns: word ``w`` has those from ``32 w`` on.
    """
    of_row = _mixed(rows ^ _mixed(seed + np.uint32(0x9E3779B9)))[:, None]
    bits = _mixed(_mixed(words * np.uint32(0x85EBCA77))[None] ^ of_row)
    each = (bits[..., None] >> xp.arange(_WORD, dtype=np.uint32)) & np.uint32(1)
    return xp.where(each == 1, np.float32(1), np.float32(-1)).reshape(len(rows), -1)


def _mixed(x: Any) -> Any:
    """Bits of which each hangs on all bits of a word (the finaliser of MurmurHash3)."""
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    x = (x ^ (x >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return x ^ (x >> np.uint32(16))


def _words_at_once(numbers: int, size: int, chunk_bytes: int) -> int:
    words = -(-size // _WORD)
    return min(words, max(1, chunk_bytes // (4 * _WORD * (numbers + 1))))


def _columns(
    seed: np.uint32, numbers: int, size: int, chunk_bytes: int
) -> Iterator[tuple[slice, Float64[np.ndarray, "r c"]]]:
    """Places and columns of the basis, the start in the first row."""
    step, seeds = _words_at_once(numbers, size, chunk_bytes), np.array([seed], np.uint32)
    rows = np.arange(numbers + 1, dtype=np.uint32)
    for begin in range(0, -(-size // _WORD), step):
        words = np.arange(begin, begin + step, dtype=np.uint32)
        place = slice(_WORD * begin, min(size, _WORD * (begin + step)))
        columns = signs(np, seeds, rows, words)[:, : place.stop - place.start]
        yield place, columns.astype(np.float64)


# ------------------------------------------------------------------------------------------- task
@lru_cache(maxsize=16)
def _trained(network: Network, numbers: int, steps: int, batch_size: int) -> MemberFunction:
    loss, spec = loss_of(network), network.spec
    scale = np.float32(scales_of(spec))
    adam = optax.adam(optax.cosine_decay_schedule(RATE / math.sqrt(numbers), steps))

    def of_member(seed: UInt32[Array, ""], data: tuple[Array, Array]) -> Float[Array, " k"]:
        images, labels = data
        key, basis = jax.random.key(seed), _basis(seed, numbers, spec.size)

        def step(number: Int[Array, ""], carry: Any) -> Any:
            alphas, state = carry
            drawn = jax.random.randint(
                jax.random.fold_in(key, number), (batch_size,), 0, len(labels)
            )

            def task(alphas: Float[Array, " k"]) -> Float[Array, ""]:
                weights = scale * basis(alphas)
                return loss(weights, images[drawn], labels[drawn])

            updates, state = adam.update(jax.grad(task)(alphas), state)
            return optax.apply_updates(alphas, updates), state

        alphas = jnp.zeros(numbers)
        found: Array = jax.lax.fori_loop(0, steps, step, (alphas, adam.init(alphas)))[0]
        return found

    held = min(HELD_BYTES, 4 * (numbers + 1) * network.spec.size)
    return over_members(of_member, member_bytes=2 * held)


def _basis(seed: UInt32[Array, ""], numbers: int, size: int) -> Callable[[Array], Array]:
    """``alphas → start + alphas @ basis``: of a basis in memory, or of one made column by column.

    Making it takes longer than using it: it is kept where it is small.
    """
    rows = jnp.arange(numbers + 1, dtype=jnp.uint32)
    step = _words_at_once(numbers, size, CHUNK_BYTES)
    count = -(-size // (_WORD * step))
    words = jnp.arange(count * step, dtype=jnp.uint32).reshape(count, step)

    def combined(alphas: Float[Array, " k"], columns: Float[Array, "r c"]) -> Float[Array, " c"]:
        return columns[0] + alphas @ columns[1:]

    def made(some: UInt32[Array, " w"]) -> Float[Array, "r c"]:
        return signs(jnp, seed, rows, some)

    if 4 * (numbers + 1) * words.size * _WORD <= HELD_BYTES:
        held = made(words.reshape(-1))[:, :size]
        return lambda alphas: combined(alphas, held)

    @jax.checkpoint
    def on_the_way(alphas: Float[Array, " k"], some: UInt32[Array, " w"]) -> Float[Array, " c"]:
        return combined(alphas, made(some))

    return lambda alphas: jax.lax.map(partial(on_the_way, alphas), words).reshape(-1)[:size]
