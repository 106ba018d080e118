"""Fisher traces and gradient noise against dense matrices and known distributions."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.landscape import cross_entropy
from zoogen.landscape.fisher import fisher_traces, gradient_products, noise_scale
from zoogen.networks import build_network

SHAPE, CLASSES, N = (1, 5, 5), 3, 12
NETWORKS = {
    "mlp": NetworkConfig(family="mlp", width=4, depth=1, activation="tanh"),
    "cnn": NetworkConfig(family="cnn", width=3, depth=2, padding="same"),
}


def logits_of(family: str):
    network = build_network(NETWORKS[family], SHAPE, CLASSES)
    w = 0.5 * np.random.default_rng(5).normal(size=network.spec.size).astype(np.float32)
    return lambda w, x: network.apply(network.spec.unflatten(w), x), jnp.asarray(w)


def images(seed: int = 0, n: int = N) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, *SHAPE)).astype(np.float32)


def dense_gauss_newton(logits, w: jax.Array, x: jax.Array) -> np.ndarray:
    """Mean over examples of ``Jᵀ (diag(p) - p pᵀ) J``."""
    j, z = jax.jit(lambda w: (jax.jacrev(logits)(w, x), logits(w, x)))(w)
    j, p = np.asarray(j, np.float64), np.asarray(jax.nn.softmax(z), np.float64)
    inner = np.einsum("nk,kl->nkl", p, np.eye(CLASSES)) - p[:, :, None] * p[:, None]
    return np.einsum("nkp,nkl,nlq->pq", j, inner, j) / len(x)


@pytest.fixture(scope="module", params=NETWORKS)
def case(request: pytest.FixtureRequest):
    logits, w = logits_of(request.param)
    return logits, w, np.trace(dense_gauss_newton(logits, w, images()))


def test_exact_trace_is_that_of_the_dense_matrix(case):
    logits, w, truth = case
    found = jax.jit(partial(fisher_traces, logits))(w, images())
    assert found.mean() == pytest.approx(truth, rel=1e-5)


def test_exact_trace_is_the_expectation_over_labels(case):
    logits, w, truth = case
    x = images()
    p = np.asarray(jax.jit(lambda w: jax.nn.softmax(logits(w, x)))(w))

    def square(image, label):
        g = jax.grad(lambda w: cross_entropy(logits(w, image[None]), label[None]))(w)
        return g @ g

    over_labels = jax.vmap(jax.vmap(square, (None, 0)), (0, None))
    squares = jax.jit(over_labels)(x, jnp.arange(CLASSES))
    assert np.mean(np.sum(p * squares, axis=1)) == pytest.approx(truth, rel=1e-5)


def test_gradient_products_are_those_of_separate_batches():
    logits, w = logits_of("mlp")
    x, y = images(1, 14), np.arange(14) % CLASSES

    def loss(w, x, y):
        return cross_entropy(logits(w, x), y)

    squares, overlaps = jax.jit(partial(gradient_products, loss, groups=3))(w, x, y)
    cuts = [slice(i, i + 4) for i in (0, 4, 8)]  # two are left over
    gradient = jax.jit(jax.grad(loss))
    g = np.array([gradient(w, x[cut], y[cut]) for cut in cuts])
    whole = gradient(w, x[:12], y[:12])
    np.testing.assert_allclose(squares, np.sum(g**2, axis=1), rtol=1e-4)
    np.testing.assert_allclose(overlaps, g @ np.asarray(whole), rtol=1e-4)


@pytest.mark.parametrize("batch", [1, 8])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noise_scale_of_normal_gradients(batch, seed):
    rng = np.random.default_rng(seed)
    true, spread, runs, groups = rng.normal(size=10), rng.uniform(1, 4, 10), 400, 32
    g = true + spread / np.sqrt(batch) * rng.normal(size=(runs, groups, 10))
    found = noise_scale(np.sum(g**2, -1), np.einsum("rgp,rp->rg", g, g.mean(1)), batch)
    for values, truth in ((found.noise, np.sum(spread**2)), (found.signal, true @ true)):
        assert abs(values.mean() - truth) <= 4 * values.std() / np.sqrt(runs)
    truth = np.sum(spread**2) / (true @ true)
    if batch == 8:  # alone, examples are too noisy for a ratio to be near normal
        covered = np.abs(found.scale - truth) <= 1.96 * found.scale_stderr
        assert 0.88 <= covered.mean() <= 0.99


def test_no_signal_and_divergence_give_nan_and_leave_others_alone():
    squares, overlaps = np.ones((3, 4)), np.ones((3, 4))
    overlaps[1] = 0.1  # gradients that cancel: less than noise alone would leave
    squares[2, 1] = np.nan
    found = noise_scale(squares, overlaps, 2)
    np.testing.assert_array_equal(found.scale, [0, np.nan, np.nan])
    assert found.signal[1] < 0
    assert np.isnan(found.noise[2])
