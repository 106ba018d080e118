"""Random keys, derived and never drawn in sequence.

``key(member, purpose) = fold_in(fold_in(root, member), purpose)``: a member's randomness depends
on its identity (hyper-parameters and seed), not on its place in a batch.
"""

from __future__ import annotations

import hashlib
from enum import IntEnum

import jax
import numpy as np
from jaxtyping import Array, UInt32


class Purpose(IntEnum):
    """What a key is used for. Numbers are part of the format: never reuse one."""

    INIT = 1
    ORDER = 2
    AUGMENT = 3
    HESSIAN = 4
    LANCZOS = 5
    CURVE = 6
    CIRCLES = 8
    DROPOUT = 9


def identity_words(identity: str) -> UInt32[np.ndarray, "2"]:
    """Two 32-bit words that stand for an identity (a member's or a pair's id)."""
    digest = hashlib.sha256(identity.encode()).digest()
    return np.frombuffer(digest[:8], dtype="<u4").copy()


def key_for(root: int, words: UInt32[Array, "2"], purpose: Purpose) -> Array:
    """The key of one member (or pair) for one purpose; traceable in ``words``."""
    key = jax.random.key(root)
    return jax.random.fold_in(
        jax.random.fold_in(jax.random.fold_in(key, words[0]), words[1]), purpose
    )
