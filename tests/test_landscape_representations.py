"""Debiased CKA against its definition, on features whose alignment is known."""

from __future__ import annotations

import jax
import numpy as np
import pytest

from zoogen.landscape import debiased_cka, linear_cka

N = 120
RNG = np.random.default_rng(0)
X = (RNG.normal(size=(N, 6)) * [1, 2, 3, 4, 5, 6]).astype(np.float32)
ROTATION = np.linalg.qr(RNG.normal(size=(6, 6)))[0]
cka = jax.jit(debiased_cka)
cka_of_many = jax.jit(jax.vmap(debiased_cka))


def by_definition(x: np.ndarray, y: np.ndarray) -> float:
    """Cosine of U-centred Gram matrices (Székely and Rizzo, 2014), in double precision."""

    def centred(z: np.ndarray) -> np.ndarray:
        gram = z.reshape(len(z), -1).astype(np.float64)
        gram = gram @ gram.T
        n = len(gram)
        np.fill_diagonal(gram, 0)
        rows = gram.sum(axis=1) / (n - 2)
        gram = gram - rows[:, None] - rows + gram.sum() / ((n - 1) * (n - 2))
        np.fill_diagonal(gram, 0)
        return gram

    a, b = centred(x), centred(y)
    return float(np.sum(a * b) / np.sqrt(np.sum(a * a) * np.sum(b * b)))


@pytest.mark.parametrize(
    "y",
    [X, X @ ROTATION, -3 * X, X + 30, 1e6 * X @ ROTATION - 5, X.reshape(N, 2, 3, 1)],
    ids=["same", "rotated", "scaled", "shifted", "all", "as maps"],
)
def test_it_is_one_up_to_rotation_scale_and_shift(y):
    value, stderr = cka(X, np.asarray(y, np.float32))
    assert value == pytest.approx(1, abs=1e-5)
    assert stderr < 1e-4


@pytest.mark.parametrize("features", [3, 500])
@pytest.mark.parametrize("n", [10, N])
def test_it_equals_its_definition(features, n):
    y = (X @ RNG.normal(size=(6, features)) + RNG.normal(size=(N, features)))[:n]
    value, _ = cka(X[:n], y.astype(np.float32))
    assert value == pytest.approx(by_definition(X[:n], y), abs=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_more_features_than_examples_do_not_make_independent_ones_alike(seed):
    x, y = np.random.default_rng(seed).normal(size=(2, 100, 40, 300)).astype(np.float32)
    values, _ = cka_of_many(x, y)
    assert abs(values.mean()) <= 4 * values.std() / np.sqrt(len(values))
    assert linear_cka(x, y).min() > 0.8  # which is why


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_its_error_covers_the_truth_as_often_as_it_says(seed):
    """Normal features: the alignment of their covariances, known."""
    rng, runs, n = np.random.default_rng(seed), 200, 200
    mixing = rng.normal(size=(4, 3))
    own, noise = np.diag([1.0, 2.0, 1.0, 1.5]), 1.0
    across = own**2 @ mixing
    second = mixing.T @ own**2 @ mixing + noise * np.eye(3)
    truth = np.sum(across**2) / (np.linalg.norm(own**2) * np.linalg.norm(second))
    x = rng.normal(size=(runs, n, 4)) @ own
    y = x @ mixing + rng.normal(size=(runs, n, 3))
    value, stderr = cka_of_many(x.astype(np.float32), y.astype(np.float32))
    assert 0.88 <= np.mean(np.abs(value - truth) <= 1.96 * stderr) <= 0.99


@pytest.mark.parametrize("value", [0.0, 0.1, 1e30, np.nan, np.inf])
def test_constant_features_are_undefined_and_disturb_no_neighbour(value):
    x = np.stack([X, np.full_like(X, value), X])
    found, stderr = cka_of_many(x, np.stack([X] * 3))
    np.testing.assert_allclose(found, [1, np.nan, 1], atol=1e-5)
    np.testing.assert_allclose(stderr, [0, np.nan, 0], atol=1e-4)


def test_features_that_vary_within_one_block_alone_have_no_error():
    x = np.zeros_like(X)
    x[:2] = X[:2]
    value, stderr = cka(x, X)
    assert np.isfinite(value)
    assert np.isnan(stderr)


def test_fewer_than_four_examples_give_nan():
    value, stderr = cka(X[:3], X[:3])
    assert np.isnan([value, stderr]).all()
