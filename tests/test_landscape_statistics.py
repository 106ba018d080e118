"""Similarity, performance and weight statistics in closed form."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.landscape import (
    cosine_distance,
    cross_entropy,
    error_percent,
    layer_rotation,
    linear_cka,
    prediction_agreement,
    weight_norm,
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
