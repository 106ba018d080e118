"""Shuffling by formula: the image at any place of an epoch's order, without holding the order.

Sorting random numbers costs more than many small networks' whole steps. A Feistel network over
``[0, 4^h)`` is a permutation whatever its round function (Luby & Rackoff, 1988, *How to construct
pseudorandom permutations from pseudorandom functions*); applying it again to results beyond the
end restricts it to ``[0, n)`` (Black & Rogaway, 2002, *Ciphers with arbitrary finite domains*).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, UInt32

ROUNDS = 8


def round_keys(key: Array) -> UInt32[Array, " round"]:
    """The keys of one order, drawn from a random key."""
    return jax.random.bits(key, (ROUNDS,), jnp.uint32)


def shuffled(
    keys: UInt32[Array, " round"], places: Int[Array, " b"], size: int
) -> Int[Array, " b"]:
    """What stands at ``places`` of a random order of ``range(size)``.

    Args:
        keys: from :func:`round_keys`; they choose the order.
        places: positions in the order, 0 to ``size`` − 1.
        size: length of the order.

    Returns:
        Entries of the order, int32; over all places every number below ``size`` once.

    Example:
        >>> keys = round_keys(jax.random.key(0))
        >>> sorted(shuffled(keys, jnp.arange(5), 5).tolist())
        [0, 1, 2, 3, 4]
    """
    half = max(1, ((size - 1).bit_length() + 1) // 2)
    first = _feistel(keys, places.astype(jnp.uint32), half)
    # Cycle walking: at most four draws are expected, since the domain is below 4 · size.
    walked = jax.lax.while_loop(
        lambda entries: jnp.any(entries >= size),
        lambda entries: jnp.where(entries >= size, _feistel(keys, entries, half), entries),
        first,
    )
    return walked.astype(jnp.int32)


def _feistel(
    keys: UInt32[Array, " round"], entries: UInt32[Array, " b"], half: int
) -> UInt32[Array, " b"]:
    mask = jnp.uint32((1 << half) - 1)
    left, right = entries >> half, entries & mask
    for key in keys:
        left, right = right, left ^ (_mix(right ^ key) & mask)
    return (left << half) | right


def _mix(word: UInt32[Array, " b"]) -> UInt32[Array, " b"]:
    """Spread every bit over the low ones."""
    word = word * jnp.uint32(0x9E3779B1)
    word = (word ^ (word >> 15)) * jnp.uint32(0x85EBCA77)
    return word ^ (word >> 13)
