"""Shuffling by formula: a permutation for every size, and a fair one."""

from __future__ import annotations

from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.train.shuffle import round_keys, shuffled


def order(seed: int, size: int) -> np.ndarray:
    return np.asarray(shuffled(round_keys(jax.random.key(seed)), jnp.arange(size), size))


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 16, 17, 63, 64, 65, 1000, 1024, 1348, 60_000])
def test_it_is_a_permutation(size: int) -> None:
    np.testing.assert_array_equal(np.sort(order(0, size)), np.arange(size))


def test_places_can_be_asked_in_any_piece() -> None:
    keys = round_keys(jax.random.key(3))
    whole = order(3, 700)
    pieces = [shuffled(keys, jnp.arange(a, a + 100), 700) for a in range(0, 700, 100)]
    np.testing.assert_array_equal(np.concatenate(pieces), whole)


@pytest.mark.parametrize("size", [5, 12])
def test_every_entry_is_as_likely_at_every_place(size: int) -> None:
    draws = 4000
    keys = jax.vmap(round_keys)(jax.random.split(jax.random.key(0), draws))
    orders = np.asarray(jax.vmap(lambda k: shuffled(k, jnp.arange(size), size))(keys))
    counts = np.stack([np.bincount(orders[:, place], minlength=size) for place in range(size)])
    chi2 = ((counts - draws / size) ** 2 / (draws / size)).sum()
    freedom = (size - 1) ** 2
    assert abs(chi2 - freedom) < 4.5 * np.sqrt(2 * freedom)


@pytest.mark.parametrize("size", [64, 1348])
def test_neighbours_and_epochs_are_unrelated(size: int) -> None:
    """Correlations of an order with the identity, its own shift and the next order are noise."""
    orders = np.stack([order(seed, size) for seed in range(40)]).astype(float)
    with_identity = [np.corrcoef(o, np.arange(size))[0, 1] for o in orders]
    with_shift = [np.corrcoef(o[1:], o[:-1])[0, 1] for o in orders]
    with_next = [np.corrcoef(a, b)[0, 1] for a, b in pairwise(orders)]
    for correlations in (with_identity, with_shift, with_next):
        assert abs(np.mean(correlations)) < 4.5 / np.sqrt(len(correlations) * size)
        assert np.std(correlations) == pytest.approx(1 / np.sqrt(size), rel=0.45)
