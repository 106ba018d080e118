"""Sparsity, codes and neighbours of activations written down by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.landscape.activations import (
    REGIMES,
    activation_codes,
    activation_sparsity,
    code_uniqueness,
    dead_units,
    expressive_regime,
    hamming_distance,
    knn_accuracy,
)

hamming = jax.jit(hamming_distance)
knn = jax.jit(knn_accuracy, static_argnums=(3, 4))


def test_a_unit_of_maps_is_dead_only_if_it_is_off_everywhere():
    maps = np.zeros((3, 4, 2, 2), np.float32)
    maps[1, 0, 1, 0] = 1
    maps[:, 2] = 1
    assert jax.jit(dead_units)(maps) == 0.5
    found = jax.jit(activation_sparsity)(maps)
    np.testing.assert_allclose(found, [0.75, 1 - 5 / 16, 0.75], rtol=1e-6)


@pytest.mark.parametrize("measure", [activation_sparsity, dead_units])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_activations_that_are_not_finite_give_nan(measure, bad):
    assert np.isnan(jax.jit(measure)(np.array([[0, bad], [1, 0]], np.float32))).all()


def test_codes_join_layers_and_positions():
    dense, maps = jnp.array([[1.0, 0.0], [0.0, 0.0]]), jnp.ones((2, 1, 2, 2))
    codes = activation_codes([dense, maps])
    assert codes.tolist() == [[True, False, *[True] * 4], [False, False, *[True] * 4]]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_hamming_distance_counts_bits(seed):
    rng = np.random.default_rng(seed)
    a, b = rng.random((7, 33)) < 0.5, rng.random((5, 33)) < 0.5
    expected = (a[:, None] != b).sum(axis=-1)
    np.testing.assert_array_equal(hamming(a, b), expected)


@pytest.mark.parametrize(
    ("groups", "unique", "redundancy"),
    [([1, 1, 1, 1], 1, 0), ([4], 0, 3 / 4), ([2, 1, 3], 1 / 6, 1 / 2)],
)
def test_uniqueness_of_planted_codes(groups, unique, redundancy):
    codes = np.repeat(np.eye(len(groups), 5) > 0, groups, axis=0)
    found = code_uniqueness(hamming(codes, codes))
    np.testing.assert_allclose(found, (unique, redundancy), atol=1e-6)


def test_vote_of_neighbours_by_hand():
    known = np.array([0, 1, 1, 2, 2])
    distances = np.array([[0, 1, 1, 9, 9], [0, 1, 9, 9, 2], [3, 2, 9, 0, 1]], np.float32)
    labels = np.array([1, 0, 2])  # majority; a tie of three, which the nearest decides; majority
    for k, right in ((1, 2 / 3), (3, 1)):
        assert knn(distances, known, labels, 3, k) == pytest.approx(right)


def plain_vote(near: np.ndarray) -> int:
    votes = np.bincount(near, minlength=3)
    return next(k for k in near if votes[k] == votes.max())


@pytest.mark.parametrize("neighbours", [1, 4, 7])
def test_votes_equal_a_plain_count(neighbours):
    rng = np.random.default_rng(neighbours)
    distances = rng.permuted(np.tile(np.arange(30.0, dtype=np.float32), (40, 1)), axis=1)
    known, labels = rng.integers(0, 3, 30), rng.integers(0, 3, 40)
    given = [plain_vote(known[np.argsort(row)[:neighbours]]) for row in distances]
    found = knn(distances, known, labels, 3, neighbours)
    assert found == pytest.approx(np.mean(given == labels))


def test_codes_of_well_separated_classes_are_sorted_by_neighbours():
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    codes = rng.random((3, 200))[labels] + 0.2 * rng.normal(size=(60, 200)) > 0.5
    distances = hamming(codes[30:], codes[:30])
    assert knn(distances, labels[:30], labels[30:], 3, 5) == 1
    assert knn(distances, (labels[:30] + 1) % 3, labels[30:], 3, 5) == 0


def test_regimes_and_what_has_none():
    redundancy = np.array([0.9, 0.01, 0.01, np.nan, 0.0])
    accuracy = np.array([0.9, 0.5, 0.8, 0.9, np.nan])
    found = expressive_regime(redundancy, accuracy, 0.7)
    np.testing.assert_array_equal(found, [0, 1, 2, np.nan, np.nan])
    assert len(REGIMES) == 3
