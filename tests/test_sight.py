"""Errors of weights as networks see them: lengths that are known, and what is held fixed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pandas as pd
import pytest

from zoogen.config import Config, NetworkConfig
from zoogen.data import load, normalise
from zoogen.generators import Source, sight
from zoogen.generators.sight import (
    AT_ONCE,
    Sight,
    _linearised,
    _passes,
    _said,
    gradients,
    sight_of,
    squared,
)
from zoogen.models import Standard
from zoogen.networks import Network, build_network
from zoogen.symmetry import Element, apply, random_element

SCALE = 0.3
DIGITS = {"source": "digits", "train_examples": AT_ONCE, "test_examples": 10}
CASES = {
    "mlp": {"family": "mlp", "width": 6, "depth": 2},
    "cnn": {"family": "cnn", "width": 4, "depth": 2},
    "siren": {"family": "siren", "width": 6, "activation": "sin", "init": "siren"},
}


class Case(NamedTuple):
    sight: Sight
    network: Network
    images: np.ndarray
    labels: np.ndarray
    weights: jax.Array
    noise: jax.Array

    def squared(self, error: jax.Array) -> jax.Array:
        return self.squared_at(self.weights, error)

    def squared_at(self, weights: jax.Array, error: jax.Array) -> jax.Array:
        rows = jnp.arange(AT_ONCE)
        return squared(self.network, self.sight, weights, error, self.noise, rows)


@pytest.fixture(scope="module", params=CASES)
def case(request: pytest.FixtureRequest) -> Case:
    config = Config.model_validate(
        {"name": "x", "data": DIGITS, "network": CASES[request.param],
         "train": {"epochs": 1, "optimizer": "adam"}, "landscape": {"metrics": ["weights"]}}
    )  # fmt: skip
    dataset = load(config.data)
    fits = config.network.fits_image
    shape, outputs = ((2, 1, 1), 1) if fits else (dataset.image_shape, dataset.classes)
    network = build_network(config.network, shape, outputs)
    size = network.spec.size
    standard = Standard(np.zeros(size, np.float32), np.full(size, SCALE, np.float32))
    seen = sight_of(Source(network, config, pd.DataFrame(), lambda: dataset), standard)
    images = np.asarray(normalise(dataset.train.images, dataset.mean, dataset.std))
    weights = jnp.stack([
        network.spec.flatten(network.init(jax.random.key(seed), 1.0)) / SCALE for seed in range(3)
    ])  # fmt: skip
    return Case(
        seen,
        network,
        images,
        dataset.train.labels,
        weights,
        jax.random.normal(jax.random.key(9), weights.shape),
    )


def test_lengths_are_square_and_relative_to_noise(case: Case) -> None:
    for factor in (0, 1, 2):
        np.testing.assert_allclose(case.squared(factor * case.noise), factor**2, rtol=1e-2)


def test_errors_are_as_long_as_the_change_that_they_make(case: Case) -> None:
    if case.network.config.fits_image:
        pytest.skip("looks at places, not at images")
    error, step = jax.random.normal(jax.random.key(2), case.weights.shape), 1e-3

    def said(weights: jax.Array) -> jax.Array:
        values = case.network.spec.unflatten(SCALE * weights)
        return jax.nn.log_softmax(case.network.apply(values, case.images))

    def change(by: jax.Array) -> jax.Array:
        differences = jax.vmap(said)(case.weights + step * by) - jax.vmap(said)(
            case.weights - step * by
        )
        return jnp.square(differences).mean(axis=(1, 2))

    expected = change(error) / change(case.noise)
    np.testing.assert_allclose(case.squared(error), expected, rtol=0.05)


def test_outputs_change_as_linearised(case: Case) -> None:
    """But for the few units that a step carries over a threshold, whatever rules there are."""
    step, rows = 1e-3, jnp.arange(AT_ONCE)
    said = partial(_said, case.network, case.sight, rows=rows)

    def change(at: jax.Array, error: jax.Array) -> jax.Array:
        return _linearised(said, at)(error)

    @jax.jit
    def both(error: jax.Array) -> tuple[jax.Array, jax.Array]:
        ends = [jax.vmap(said)(case.weights + side * step * error) for side in (1, -1)]
        return jax.vmap(change)(case.weights, error), (ends[0] - ends[1]) / (2 * step)

    found, expected = both(jax.random.normal(jax.random.key(2), case.weights.shape))
    assert jnp.linalg.norm(found - expected) < 0.05 * jnp.linalg.norm(expected)
    assert jnp.median(jnp.abs(found - expected)) < 2e-3 * jnp.abs(expected).max()


@jax.custom_vjp
def backwards_only(x: jax.Array) -> jax.Array:
    return jnp.sin(x)


backwards_only.defvjp(lambda x: (jnp.sin(x), x), lambda x, g: (g * jnp.cos(x),))


@jax.jit
def custom_linear(x: jax.Array) -> jax.Array:
    """Bears the name of what only reverse mode can pass."""
    return jnp.sin(x)


def solved(x: jax.Array) -> jax.Array:
    """``sin x`` by a solver whose primitive bears such a name, too."""
    return jax.lax.custom_linear_solve(lambda y: 2 * y, 2 * jnp.sin(x), lambda _, b: b / 2)


def in_loop(x: jax.Array) -> jax.Array:
    return jax.lax.scan(lambda y, _: (backwards_only(y), None), x, length=1)[0]


FORWARD = {
    "plain": (jnp.sin, True),
    "jitted": (custom_linear, True),
    "solver": (solved, True),
    "custom": (backwards_only, False),
    "custom in jit": (jax.jit(backwards_only), False),
    "custom in a loop": (in_loop, False),
}


@pytest.mark.parametrize(("function", "forward"), FORWARD.values(), ids=FORWARD)
def test_reverse_mode_is_taken_where_nothing_else_passes(
    function: Callable[[jax.Array], jax.Array], forward: bool
) -> None:
    at, error = jnp.array([[0.1, 0.5, 2.0], [0.0, 1.0, 3.0]]), jnp.array([1.0, -2.0, 0.5])
    passed = []

    def change(x: jax.Array) -> jax.Array:
        passed.append(_passes(jax.linearize(function, x)[1], x))
        return _linearised(function, x)(error)

    for mapped in (jax.vmap(change), jax.jit(jax.vmap(change))):
        np.testing.assert_allclose(mapped(at), jnp.cos(at) * error, rtol=1e-5, atol=1e-6)
    assert passed == [forward] * 2


def test_gradients_are_those_of_the_loss_of_the_images(case: Case) -> None:
    if case.network.config.fits_image:
        pytest.skip("each fits an image of its own")
    rows, step = jnp.arange(AT_ONCE - 1), 2e-3

    def loss(weights: jax.Array) -> jax.Array:
        values = case.network.spec.unflatten(SCALE * weights)
        said = jax.nn.log_softmax(case.network.apply(values, case.images[:-1]))
        return -said[rows, case.labels[:-1]].mean()

    found, facts = gradients(case.network, case.sight, case.weights, rows)
    np.testing.assert_allclose(jnp.square(found).mean(axis=1), 1, rtol=1e-4)
    lengths, losses = jnp.exp(facts).T
    np.testing.assert_allclose(losses, jax.vmap(loss)(case.weights), rtol=1e-4)
    for direction in jax.random.normal(jax.random.key(4), (3, *case.weights.shape)):
        ahead, behind = (jax.vmap(loss)(case.weights + sign * step * direction) for sign in (1, -1))
        slope = jnp.sum(found * direction, axis=1) * lengths / found.shape[1] ** 0.5
        np.testing.assert_allclose(slope, (ahead - behind) / (2 * step), rtol=0.05, atol=2e-3)


def test_guesses_of_running_statistics_are_not_looked_at() -> None:
    config = NetworkConfig(family="resnet", width=4, norm="batch")
    network = build_network(config, (1, 8, 8), 10)
    size, rng = network.spec.size, np.random.default_rng(0)
    seen = Sight(
        rng.standard_normal((AT_ONCE, 1, 8, 8), np.float32), rng.integers(10, size=AT_ONCE),
        np.zeros(size, np.float32), np.ones(size, np.float32),
    )  # fmt: skip
    weights, error, noise = rng.standard_normal((3, 2, size), np.float32)  # negative variances
    rows = jnp.arange(AT_ONCE)
    seen = jax.tree.map(jnp.asarray, seen)
    found, facts = gradients(network, seen, weights, rows)
    assert np.isfinite(found).all()
    assert np.isfinite(facts).all()
    assert np.isfinite(squared(network, seen, weights, error, noise, rows)).all()


def test_parts_of_images_change_nothing(case: Case, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.network.config.fits_image:
        pytest.skip("each fits an image of its own")
    given = case.network, case.sight, case.weights, jnp.arange(AT_ONCE)
    whole = gradients(*given)
    for part in (7, 16):
        monkeypatch.setattr(sight, "PART", part)
        for one, other in zip(whole, gradients(*given), strict=True):
            np.testing.assert_allclose(one, other, atol=2e-4)


def test_gradients_move_with_the_units(case: Case) -> None:
    if case.network.config.fits_image:
        pytest.skip("each fits an image of its own")
    spec, rows = case.network.spec, jnp.arange(AT_ONCE)
    element = Element(random_element(spec, 5, (len(case.weights),)).permutations, {})
    moved_after, before = gradients(case.network, case.sight, case.weights, rows)
    moved_before, after = gradients(
        case.network, case.sight, apply(spec, element, np.asarray(case.weights)), rows
    )
    moved_after = apply(spec, element, np.asarray(moved_after))
    np.testing.assert_allclose(moved_before, moved_after, atol=2e-4)
    np.testing.assert_allclose(before, after, atol=1e-4)


def test_a_fit_is_steered_and_not_biased(case: Case) -> None:
    """Of two data that one prediction must serve, their mean is best, seen or not."""
    apart = jax.random.normal(jax.random.key(3), case.weights.shape)

    def loss(guess: jax.Array, data: list[jax.Array]) -> jax.Array:
        return sum(case.squared_at(guess, guess - x).sum() for x in data)

    data = [case.weights - apart, case.weights + apart]
    at_mean = jnp.linalg.norm(jax.grad(loss)(case.weights, data))
    alone = jnp.linalg.norm(jax.grad(loss)(case.weights, data[:1]))
    assert at_mean < 1e-4 * alone
