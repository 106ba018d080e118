"""Norms, ranks and tails of matrices of known spectra."""

from __future__ import annotations

import numpy as np
import pytest

from zoogen.landscape.ranks import (
    FEWEST_EIGENVALUES,
    effective_rank,
    layer_ranks,
    singular_values,
    stable_rank,
    tail_exponent,
)
from zoogen.params import Axis, ParamSpec


@pytest.mark.parametrize("shape", [(7, 4), (4, 7), (5, 5), (1, 3)])
def test_singular_values_are_those_of_a_decomposition(shape):
    matrices = np.random.default_rng(0).normal(size=(3, *shape))
    expected = np.linalg.svd(matrices, compute_uv=False)
    np.testing.assert_allclose(singular_values(matrices), expected, rtol=1e-6)


@pytest.mark.parametrize("rank", [1, 3, 6])
@pytest.mark.parametrize("measure", [stable_rank, effective_rank])
def test_equal_singular_values_have_the_rank_of_the_matrix(measure, rank):
    left, _ = np.linalg.qr(np.random.default_rng(1).normal(size=(9, rank)))
    right, _ = np.linalg.qr(np.random.default_rng(2).normal(size=(6, rank)))
    values = singular_values(5 * left @ right.T)
    assert measure(values) == pytest.approx(rank, rel=1e-5)


@pytest.mark.parametrize("measure", [stable_rank, effective_rank])
def test_one_dominant_direction_has_rank_near_one(measure):
    assert 1 < measure(np.array([100.0, 1, 1, 1])) < 1.3


@pytest.mark.parametrize("alpha", [2.0, 3.5])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_exponent_of_a_power_law(alpha, seed):
    draws = np.random.default_rng(seed).uniform(size=1500)
    found, stderr = tail_exponent(np.sort(draws ** (-1 / (alpha - 1)))[::-1])
    # The choice of the tail adds to the error given the tail.
    assert abs(found - alpha) <= max(5 * stderr, 0.15)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_only_the_tail_counts(seed):
    rng = np.random.default_rng(seed)
    bulk, tail = rng.uniform(0, 1, 1500), rng.uniform(size=500) ** (-1 / 1.5)
    found, stderr = tail_exponent(np.sort(np.r_[bulk, tail])[::-1])
    whole = 1 + 2000 / np.sum(np.log(np.r_[bulk, tail] / bulk.min()))
    assert abs(found - 2.5) < 0.4 < abs(whole - 2.5)
    assert 0 < stderr < 0.3


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.linspace(2, 1, FEWEST_EIGENVALUES - 1),
        np.r_[np.linspace(2, 1, FEWEST_EIGENVALUES - 1), np.zeros(20)],
        np.r_[np.linspace(2, 1, FEWEST_EIGENVALUES), np.nan],
        np.ones(FEWEST_EIGENVALUES + 10),
    ],
    ids=["few", "few above zero", "not finite", "all equal"],
)
def test_without_a_tail_the_exponent_is_nan(eigenvalues):
    assert np.isnan(tail_exponent(eigenvalues)).all()


SPEC = ParamSpec.build(
    {
        "conv.weight": (Axis(3, "a"), Axis(2), Axis(2), Axis(2)),
        "conv.bias": (Axis(3, "a"),),
        "dense.weight": (Axis(4), Axis(3, "a")),
    }
)


def test_layers_are_measured_one_by_one():
    weights = np.random.default_rng(3).normal(size=(2, 3, SPEC.size)).astype(np.float32)
    weights[0, 1] = 0
    weights[1, 2, 1] = np.inf  # in the convolution
    ranks = layer_ranks(SPEC, weights)
    kernel = SPEC.unflatten(weights)["conv.weight"][0, 0].reshape(3, 8)
    assert ranks.spectral_norm[0, 0, 0] == pytest.approx(np.linalg.norm(kernel, 2), rel=1e-6)
    assert ranks.spectral_norm.shape == (2, 3, 2)
    assert ranks.spectral_norm[0, 1].tolist() == [0, 0]
    assert np.isnan(ranks.stable_rank[0, 1]).all()
    assert np.isnan(ranks.effective_rank[1, 2]).tolist() == [True, False]
    assert np.isnan(ranks.tail_exponent).all()  # at most four eigenvalues
    full = ranks.stable_rank[0, 0], ranks.effective_rank[0, 0]
    assert all((r >= 1).all() and (r <= 3).all() for r in full)


def test_ranks_do_not_depend_on_the_order_of_units():
    weights = np.random.default_rng(4).normal(size=SPEC.size)
    permuted = SPEC.permute(weights, SPEC.random_permutation(0))
    for a, b in zip(layer_ranks(SPEC, weights), layer_ranks(SPEC, permuted), strict=True):
        np.testing.assert_allclose(a, b)
