"""Similarity, performance, weight statistics and standard errors in closed form."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import spearmanr

from zoogen.landscape import (
    cosine_distance,
    cross_entropy,
    error_percent,
    layer_rotation,
    linear_cka,
    prediction_agreement,
    prediction_divergence,
    rank_correlation,
    weight_norm,
)
from zoogen.landscape.similarity import accessibility, rank_scores
from zoogen.landscape.stderr import (
    combination_stderr,
    covariance_of_means,
    jackknife_stderr,
    mean_and_stderr,
    share_stderr,
)
from zoogen.params import Axis, ParamSpec

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 6)) * [1, 2, 3, 4, 5, 6]
ROTATION = np.linalg.qr(RNG.normal(size=(6, 6)))[0]


@pytest.mark.parametrize(
    "y",
    [X, X @ ROTATION, -3 * X, X + 100, 1e6 * X @ ROTATION - 5, X.astype(np.float32)],
    ids=["same", "rotated", "scaled", "shifted", "all", "float32"],
)
def test_cka_is_one_up_to_rotation_scale_and_shift(y):
    assert linear_cka(X, y) == pytest.approx(1, abs=1e-6)


def test_cka_sees_a_change_of_shape():
    assert linear_cka(X, X @ np.diag([9, 1, 1, 1, 1, 0.1])) < 0.9


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_cka_of_independent_features_is_small(seed):
    x, y = np.random.default_rng(seed).normal(size=(2, 2000, 5))
    assert linear_cka(x, y) < 0.01


def test_cka_equals_its_definition_by_gram_matrices():
    y = RNG.normal(size=(200, 3)) + X[:, :3]
    centre = np.eye(200) - 1 / 200
    k, m = (centre @ z @ z.T @ centre for z in (X, y))
    expected = np.sum(k * m) / np.sqrt(np.sum(k * k) * np.sum(m * m))
    assert linear_cka(X, y) == pytest.approx(expected)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e-3, 1e20, np.nan, np.inf])
def test_cka_of_constant_features_is_undefined_and_disturbs_no_neighbour(value):
    x = np.stack([X, np.full_like(X, value)]).astype(np.float32)
    found = linear_cka(x, np.stack([X, X]))
    assert found[0] == pytest.approx(1, abs=1e-6)
    assert np.isnan(found[1])


def test_agreement_counts_equal_classes_and_refuses_nan():
    x = np.stack([np.eye(4)] * 2)
    y = x.copy()
    y[0, 3] = [1, 0, 0, 0]
    y[1, 0, 0] = np.nan
    np.testing.assert_array_equal(prediction_agreement(x, y), [0.75, np.nan])


def test_divergence_of_known_probabilities():
    p, q = np.array([[0.5, 0.5], [0.9, 0.1]]), np.array([[0.5, 0.5], [0.2, 0.8]])
    middle = (p + q) / 2
    each = (np.sum(p * np.log(p / middle), 1) + np.sum(q * np.log(q / middle), 1)) / 2
    for x, y in ((np.log(p), np.log(q) + 7), (np.log(q), np.log(p))):
        mean, stderr = prediction_divergence(x, y)
        assert mean == pytest.approx(each.mean())
        assert stderr == pytest.approx(each.std(ddof=1) / np.sqrt(2))


def test_divergence_lies_between_nothing_and_a_bit_and_refuses_nan():
    sure = 1e4 * np.eye(3, dtype=np.float32)
    x = np.stack([sure, sure, np.where(np.eye(3, dtype=bool), np.nan, sure)])
    mean, stderr = prediction_divergence(x, np.stack([sure, sure[[1, 2, 0]], sure]))
    np.testing.assert_allclose(mean, [0, np.log(2), np.nan], atol=1e-7)
    np.testing.assert_allclose(stderr, [0, 0, np.nan], atol=1e-7)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rank_correlation_is_that_of_spearman_with_ties(seed):
    x, y = np.random.default_rng(seed).integers(0, 4, (2, 50)).astype(float)
    found, _ = rank_correlation(rank_scores(x), rank_scores(x + y))
    assert found == pytest.approx(spearmanr(x, x + y).statistic)


def test_rank_correlation_of_constant_or_unknown_values_is_undefined_alone():
    values = np.stack([X[:, 0], np.ones(200), np.where(np.arange(200) == 3, np.nan, X[:, 0])])
    found, stderr = rank_correlation(rank_scores(values), rank_scores(np.stack([X[:, 0]] * 3)))
    np.testing.assert_allclose(found, [1, np.nan, np.nan])
    np.testing.assert_allclose(stderr, [0, np.nan, np.nan], atol=1e-9)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_error_of_a_rank_correlation_covers_the_truth_as_often_as_it_says(seed):
    rng, runs, rho = np.random.default_rng(seed), 300, 0.5
    x = rng.normal(size=(runs, 200))
    y = rho * x + np.sqrt(1 - rho**2) * rng.normal(size=x.shape)
    found, stderr = rank_correlation(rank_scores(x), rank_scores(y))
    truth = 6 / np.pi * np.arcsin(rho / 2)  # of normal variables (Pearson, 1907)
    assert 0.88 <= np.mean(np.abs(found - truth) <= 1.96 * stderr) <= 0.99


def test_accessibility_looks_back_alone():
    right = np.array([[0, 1, 1], [1, 1, 0], [1, 1, np.nan]])
    expected = np.array([[0, 1, 1], [1 / 2, 1, 1 / 2], [2 / 3, 1, np.nan]])
    for known in (1, 2, 3):
        np.testing.assert_allclose(accessibility(right[:known]), expected[:known])


def test_errors_agree_with_one_another():
    """A share is a mean, a difference of means is a mean, and both have jackknives."""
    hits = (RNG.random((2, 60)) < [[0.3], [0.8]]).astype(float)
    mean, stderr = mean_and_stderr(hits)
    np.testing.assert_allclose(share_stderr(mean, 60), stderr)
    _, expected = mean_and_stderr(hits[0] - hits[1])
    combined = combination_stderr(np.array([1.0, -1.0]), covariance_of_means(hits))
    assert combined == pytest.approx(expected)
    left_out = (hits.sum(axis=1, keepdims=True) - hits) / 59
    np.testing.assert_allclose(jackknife_stderr(left_out), stderr)


def test_cross_entropy_of_known_probabilities():
    p = np.array([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]])
    loss = cross_entropy(jnp.log(p) + 7, jnp.array([0, 1]))
    assert loss == pytest.approx(-(np.log(0.5) + np.log(0.1)) / 2, rel=1e-5)
    assert cross_entropy(jnp.array([[1e4, 0.0]]), jnp.array([1])) == pytest.approx(1e4)


def test_error_of_logits_that_are_not_finite_is_nan():
    assert np.isnan(error_percent(jnp.array([[jnp.nan, 0.0]]), jnp.array([0])))
    assert error_percent(jnp.array([[1.0, 0.0], [1.0, 0.0]]), jnp.array([0, 1])) == 50


SPEC = ParamSpec.build(
    {"a.weight": (Axis(3, "a"), Axis(2)), "a.bias": (Axis(3, "a"),), "b.weight": (Axis(2), Axis(3))}
)


def test_layer_rotation_in_closed_form():
    first = RNG.normal(size=SPEC.size).astype(np.float32)
    scaled, turned = 5 * first, first.copy()
    turned[SPEC["b.weight"].offset :] *= -1
    turned[SPEC["a.bias"].offset : SPEC["b.weight"].offset] += 9  # biases don't count
    zero = np.zeros_like(first)
    rotation = layer_rotation(SPEC, np.stack([first, scaled, turned, -first, zero])[None])
    expected = [[0, 0], [0, 0], [0, 2], [2, 2], [np.nan, np.nan]]
    np.testing.assert_allclose(rotation[0], expected, atol=1e-6)


def test_orthogonal_vectors_have_distance_one():
    assert cosine_distance(np.array([1.0, 1, 0]), np.array([1.0, -1, 5])) == pytest.approx(1)


def test_norm_does_not_overflow_single_precision():
    assert weight_norm(np.full(4, 1e30, np.float32)) == pytest.approx(2e30)
