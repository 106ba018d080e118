"""Curvature estimators against dense Hessians and given spectra."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.landscape import cross_entropy, hessian_trace, lanczos, top_eigenvalue
from zoogen.landscape.curvature import (
    Loss,
    hessian_product,
    mean_and_stderr,
    ritz_top,
    trace_samples,
)

SEEDS = (0, 1, 2)


def rotated(spectrum: np.ndarray, seed: int = 0) -> np.ndarray:
    """Symmetric matrix of a given spectrum in a random basis."""
    size = len(spectrum)
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(size, size)))
    return ((basis * spectrum) @ basis.T).astype(np.float32)


def quadratic(spectrum: np.ndarray) -> tuple[Loss, jax.Array]:
    matrix = jnp.asarray(rotated(np.asarray(spectrum)))
    return (lambda w: w @ matrix @ w / 2), jnp.ones(len(spectrum))


def mlp() -> tuple[Loss, jax.Array]:
    """4-5-3 tanh net with biases on 20 examples."""
    x, y = _examples(4)

    def loss(w: jax.Array) -> jax.Array:
        a, b, c, d = (
            w[i:j].reshape(s)
            for i, j, s in ((0, 20, (5, 4)), (20, 25, (5,)), (25, 40, (3, 5)), (40, 43, (3,)))
        )
        return cross_entropy(jnp.tanh(x @ a.T + b) @ c.T + d, y)

    return loss, jax.random.normal(jax.random.key(1), (43,))


def cnn() -> tuple[Loss, jax.Array]:
    """Two 3×3 kernels on 5×5 images, softplus, global average, dense layer to 3 classes."""
    x, y = _examples(25)

    def loss(w: jax.Array) -> jax.Array:
        kernels, dense = w[:18].reshape(2, 1, 3, 3), w[18:24].reshape(3, 2)
        maps = jax.lax.conv(x.reshape(-1, 1, 5, 5), kernels, (1, 1), "VALID")
        return cross_entropy(jax.nn.softplus(maps).mean((2, 3)) @ dense.T, y)

    return loss, jax.random.normal(jax.random.key(2), (24,))


def _examples(features: int) -> tuple[jax.Array, jax.Array]:
    rng = np.random.default_rng(3)
    x = rng.normal(size=(20, features)).astype(np.float32)
    return jnp.asarray(x), jnp.asarray(rng.integers(0, 3, 20))


CASES: dict[str, Callable[[], tuple[Loss, jax.Array]]] = {
    "mlp": mlp,
    "cnn": cnn,
    "indefinite": lambda: quadratic(np.linspace(-3, 5, 30)),
    "negative": lambda: quadratic(np.linspace(-7, -1, 30)),
}


def dense_hessian(loss: Loss, w: jax.Array) -> np.ndarray:
    return np.asarray(jax.jit(jax.hessian(loss))(w), np.float64)


@dataclass(frozen=True)
class Case:
    """A loss, its dense spectrum, and estimates with three seeds."""

    loss: Loss
    w: jax.Array
    spectrum: np.ndarray
    traces: np.ndarray
    stderrs: np.ndarray
    tops: np.ndarray
    residuals: np.ndarray


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    loss, w = CASES[request.param]()

    def estimate(key: jax.Array) -> tuple:
        start = jax.random.normal(key, w.shape)
        return hessian_trace(loss, w, key, 64), lanczos(hessian_product(loss, w), start, 20)

    @jax.jit
    def program(keys: jax.Array) -> tuple:
        return jax.lax.map(estimate, keys)

    trace, form = program(jnp.stack([jax.random.key(seed) for seed in SEEDS]))
    spectrum = np.linalg.eigvalsh(dense_hessian(loss, w))
    return Case(loss, w, spectrum, *map(np.asarray, trace), *ritz_top(*form))


def test_trace_lies_within_three_standard_errors(case):
    assert (case.stderrs > 0).all()
    assert (case.stderrs < np.linalg.norm(case.spectrum)).all()
    assert (np.abs(case.traces - case.spectrum.sum()) <= 3 * case.stderrs).all()


@pytest.mark.parametrize("name", ["mlp", "cnn", "negative"])
def test_standard_error_covers_the_trace_as_often_as_it_says(name):
    loss, w = CASES[name]()
    truth = np.trace(dense_hessian(loss, w))
    keys = jax.random.split(jax.random.key(0), 400)
    estimate = jax.jit(lambda keys: jax.lax.map(lambda k: hessian_trace(loss, w, k, 32), keys))
    trace, stderr = (np.asarray(each) for each in estimate(keys))
    covered = np.mean(np.abs(trace - truth) <= 1.96 * stderr)
    assert 0.90 <= covered <= 0.99
    # Unbiased: the mean of many estimates comes closer than any of them.
    assert abs(trace.mean() - truth) <= 4 * trace.std() / np.sqrt(len(keys))


def test_probes_beyond_one_word_are_all_different():
    signs = jax.random.bits(jax.random.key(0), (3, 8), jnp.uint32)
    matrix = jnp.asarray(rotated(np.arange(8.0)))
    seen = trace_samples(lambda v: matrix @ v, signs, 70)
    assert seen.shape == (70,)
    assert len(np.unique(np.round(seen, 4))) > 35  # 2⁷ sign patterns up to ±, some drawn twice


def test_trace_of_a_diagonal_quadratic_is_exact():
    trace, stderr = hessian_trace(
        lambda w: jnp.sum(w**2 * jnp.array([1.0, -3.0, 0.5])), jnp.ones(3), jax.random.key(0), 2
    )
    assert (float(trace), float(stderr)) == (-3.0, 0.0)


def test_top_eigenvalue_after_twenty_steps(case):
    scale = np.abs(case.spectrum).max()
    assert (np.abs(case.tops - case.spectrum[-1]) <= 0.01 * scale).all()
    nearest = np.abs(case.spectrum - case.tops[:, None]).min(axis=1)
    assert (nearest <= case.residuals + 1e-4 * scale).all()


@pytest.mark.parametrize("name", ["indefinite", "negative"])
def test_top_eigenvalue_is_exact_when_steps_reach_the_dimension(name):
    loss, w = CASES[name]()
    spectrum = np.linalg.eigvalsh(dense_hessian(loss, w))
    value, residual = top_eigenvalue(loss, w, jax.random.key(0), 100)
    scale = np.abs(spectrum).max()
    assert value == pytest.approx(spectrum[-1], abs=1e-5 * scale)
    assert residual <= 1e-4 * scale


FEW_EIGENVALUES = np.array(
    [[-2.0] * 12, [-3.0] * 6 + [-1.0] * 6, [0.0] * 12, [4.0] + [0.0] * 11, [-5.0] * 11 + [-1.0]]
)


def spectrum_of_forms(matrices: np.ndarray, steps: int) -> tuple[np.ndarray, np.ndarray]:
    """Lanczos forms ``[m, k, k]`` of matrices ``[m, p, p]``, and top values with residuals."""
    start = jax.random.normal(jax.random.key(0), matrices.shape[-1:])
    alpha, beta = jax.jit(
        lambda matrices: jax.lax.map(lambda a: lanczos(lambda v: a @ v, start, steps), matrices)
    )(jnp.asarray(matrices))
    off = np.array([np.diag(b[:-1], 1) for b in beta])
    forms = np.array([np.diag(a) for a in alpha]) + off + np.swapaxes(off, 1, 2)
    return forms, np.stack(ritz_top(alpha, beta))


def test_few_distinct_eigenvalues_leave_no_spurious_zero():
    _, (value, residual) = spectrum_of_forms(np.stack([rotated(s) for s in FEW_EIGENVALUES]), 8)
    np.testing.assert_allclose(value, FEW_EIGENVALUES.max(axis=1), atol=1e-4)
    assert (residual < 1e-3).all()


def test_lanczos_form_holds_every_eigenvalue_once():
    spectrum = np.sort(np.concatenate([np.linspace(-1, 1, 36), [50, 80, 100, 1000]]))
    forms, _ = spectrum_of_forms(np.stack([rotated(spectrum, seed) for seed in SEEDS]), 40)
    # Without reorthogonalisation the large eigenvalues would appear several times.
    for form in forms:
        np.testing.assert_allclose(np.linalg.eigvalsh(form), spectrum, atol=5e-3)


def test_forms_that_are_not_finite_give_nan_and_leave_others_alone():
    alpha, beta = np.ones((3, 4)), np.zeros((3, 4))
    alpha[1, 2] = np.nan
    beta[2, 0] = np.inf
    value, residual = ritz_top(alpha, beta)
    np.testing.assert_array_equal(value, [1, np.nan, np.nan])
    np.testing.assert_array_equal(residual, [0, np.nan, np.nan])


def test_loss_that_is_not_finite_gives_nan():
    def loss(w: jax.Array) -> jax.Array:
        return jnp.sum(w**2) * jnp.nan

    value, residual = top_eigenvalue(loss, jnp.ones(5), jax.random.key(0), 3)
    trace, _ = hessian_trace(loss, jnp.ones(5), jax.random.key(0), 3)
    assert np.isnan([value, residual, trace]).all()


def test_mean_and_stderr_by_hand():
    mean, stderr = mean_and_stderr(np.array([1.0, 3.0]))
    assert (mean, stderr) == (2.0, 1.0)
