"""Ends and density of spectra against dense Hessians and given eigenvalues."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.landscape import cross_entropy, lanczos
from zoogen.landscape.curvature import hessian_product
from zoogen.landscape.spectrum import quadrature, ritz_extremes, spectral_density, spectral_moment
from zoogen.landscape.stderr import mean_and_stderr
from zoogen.networks import build_network

STARTS, STEPS, TOP = 24, 36, 5


def rotated(spectrum: np.ndarray, seed: int = 0) -> np.ndarray:
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(len(spectrum),) * 2))
    return ((basis * spectrum) @ basis.T).astype(np.float32)


def network_hessian(seed: int) -> np.ndarray:
    """Of a 4-5-3 tanh net with biases: 43 parameters, some curvature negative."""
    rng = np.random.default_rng(seed)
    x, y = jnp.asarray(rng.normal(size=(20, 4)), jnp.float32), jnp.asarray(rng.integers(0, 3, 20))

    def loss(w: jax.Array) -> jax.Array:
        a, b, c, d = w[:20].reshape(5, 4), w[20:25], w[25:40].reshape(3, 5), w[40:]
        return cross_entropy(jnp.tanh(x @ a.T + b) @ c.T + d, y)

    w = jax.random.normal(jax.random.key(seed), (43,))
    product = hessian_product(loss, w)
    return np.asarray(jax.jit(jax.vmap(product))(jnp.eye(43)))


def convolutional_hessian(seed: int) -> np.ndarray:
    """Of a member of the cnn family on 5×5 images: 67 parameters."""
    config = NetworkConfig(family="cnn", width=2, depth=2, padding="same", activation="tanh")
    network = build_network(config, (1, 5, 5), 3)
    rng, size = np.random.default_rng(seed), network.spec.size
    x = jnp.asarray(rng.normal(size=(20, 1, 5, 5)), jnp.float32)
    y = jnp.asarray(rng.integers(0, 3, 20))

    def loss(w: jax.Array) -> jax.Array:
        return cross_entropy(network.apply(network.spec.unflatten(w), x), y)

    product = hessian_product(loss, jax.random.normal(jax.random.key(seed), (size,)))
    return np.asarray(jax.jit(lambda v: jax.lax.map(product, v))(jnp.eye(size)))


MATRICES = {
    "network 0": lambda: network_hessian(0),
    "network 1": lambda: network_hessian(1),
    "network 2": lambda: network_hessian(2),
    "cnn 0": lambda: convolutional_hessian(0),
    "cnn 1": lambda: convolutional_hessian(1),
    "cnn 2": lambda: convolutional_hessian(2),
    "indefinite": lambda: rotated(np.linspace(-3, 5, 43)),
    "outliers": lambda: rotated(np.r_[np.linspace(0, 1, 40), 30, 50, 70]),
}


def forms(matrix: np.ndarray, steps: int, starts: int = STARTS) -> tuple[np.ndarray, np.ndarray]:
    v = jax.random.normal(jax.random.key(7), (starts, len(matrix)))
    run = jax.jit(lambda v, a: jax.lax.map(lambda s: lanczos(lambda x: a @ x, s, steps), v))
    alpha, beta = run(v, jnp.asarray(matrix))
    return np.asarray(alpha), np.asarray(beta)


@pytest.fixture(scope="module", params=MATRICES)
def matrix(request: pytest.FixtureRequest) -> np.ndarray:
    return MATRICES[request.param]()


def test_both_ends_are_within_one_percent_and_within_their_residuals(matrix):
    spectrum = np.linalg.eigvalsh(matrix.astype(np.float64))
    scale = np.abs(spectrum).max()
    ends = ritz_extremes(*forms(matrix, STEPS), top=TOP)
    assert ends.top.shape == ends.top_residual.shape == (STARTS, TOP)
    assert (np.abs(ends.top - spectrum[: -TOP - 1 : -1]) <= 0.01 * scale).all()
    assert (np.abs(ends.lowest - spectrum[0]) <= 0.01 * scale).all()
    values = np.c_[ends.top, ends.lowest]
    residuals = np.c_[ends.top_residual, ends.lowest_residual]
    nearest = np.abs(values[..., None] - spectrum).min(-1)
    assert (nearest <= residuals + 1e-4 * scale).all()


def test_all_steps_give_the_whole_spectrum(matrix):
    size = len(matrix)
    spectrum = np.linalg.eigvalsh(matrix.astype(np.float64))
    ends = ritz_extremes(*forms(matrix, size, starts=1), top=TOP)
    scale = np.abs(spectrum).max()
    np.testing.assert_allclose(ends.top[0], spectrum[: -TOP - 1 : -1], atol=1e-4 * scale)
    np.testing.assert_allclose(ends.lowest[0], spectrum[0], atol=1e-4 * scale)


@pytest.mark.parametrize("order", [0, 1, 2, 3, 4])
def test_moments_are_those_of_the_matrix(matrix, order):
    scale = np.linalg.norm(matrix, 2)
    a = matrix.astype(np.float64) / scale
    alpha, beta = forms(matrix, 5)
    found = spectral_moment(*quadrature(alpha / scale, beta / scale), order)
    # For each start vector exact: five steps integrate polynomials up to degree nine.
    v = np.asarray(jax.random.normal(jax.random.key(7), (STARTS, len(a))), np.float64)
    power = np.linalg.matrix_power(a, order)
    expected = np.einsum("vi,ij,vj->v", v, power, v) / np.sum(v**2, axis=1)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    # And over start vectors unbiased.
    mean, stderr = mean_and_stderr(found)
    assert abs(mean - np.trace(power) / len(a)) <= 3 * stderr + 1e-5


def test_density_is_that_of_the_eigenvalues(matrix):
    spectrum = np.linalg.eigvalsh(matrix.astype(np.float64))
    width = 0.05 * np.ptp(spectrum)
    grid = np.linspace(spectrum[0] - 5 * width, spectrum[-1] + 5 * width, 400)
    nodes, weights = quadrature(*forms(matrix, STEPS))
    density = spectral_density(nodes, weights, grid, width)
    assert density.sum() * (grid[1] - grid[0]) == pytest.approx(1, abs=1e-3)
    every = np.full_like(spectrum, 1 / len(spectrum))
    truth = spectral_density(spectrum[None], every[None], grid, width)
    # Total variation; the error of the average over 24 start vectors.
    assert np.abs(density - truth).sum() * (grid[1] - grid[0]) / 2 < 0.1


def test_density_of_several_members_is_taken_one_by_one():
    rng = np.random.default_rng(0)
    nodes, weights = rng.normal(size=(3, 4, 5)), rng.uniform(size=(3, 4, 5))
    grid = np.linspace(-2, 2, 9)
    together = spectral_density(nodes, weights, grid, 0.3)
    alone = [spectral_density(n, w, grid, 0.3) for n, w in zip(nodes, weights, strict=True)]
    np.testing.assert_allclose(together, alone)


def test_forms_that_are_not_finite_give_nan_and_leave_others_alone():
    alpha, beta = np.ones((3, 4)), np.zeros((3, 4))
    alpha[1, 2], beta[2, 0] = np.nan, np.inf
    for values in (*ritz_extremes(alpha, beta, 2), *quadrature(alpha, beta)):
        assert np.isfinite(values[0]).all()
        assert np.isnan(values[1:]).all()
