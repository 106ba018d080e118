"""Frequencies of known functions, and linear regions counted exactly."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.landscape.activations import activation_codes
from zoogen.landscape.complexity import great_circles, linear_regions, mean_frequency, segments

POINTS = 64
RNG = np.random.default_rng(0)


def on_circles(function, lines: int = 8, features: int = 12) -> np.ndarray:
    """Mean frequencies of a function of inputs ``[n, d]``."""
    first, second = RNG.normal(size=(2, lines, features))
    inputs = great_circles(first, second, POINTS)
    return mean_frequency(function(inputs).reshape(lines, POINTS, -1))


W = RNG.normal(size=(12, 3))


@pytest.mark.parametrize(
    ("function", "frequency"),
    [
        (lambda x: x @ W, 1),
        (lambda x: 5 - 3 * x @ W, 1),
        (lambda x: (x @ W) ** 2, 2),
        (lambda x: np.ones((len(x), 2)), 0),
    ],
    ids=["linear", "affine", "square", "constant"],
)
def test_mean_frequency_of_polynomials(function, frequency):
    np.testing.assert_allclose(on_circles(function), frequency, atol=1e-4)


@pytest.mark.parametrize("k", [1, 7, POINTS // 2])
def test_mean_frequency_of_a_cosine(k):
    angle = 2 * np.pi * np.arange(POINTS) / POINTS
    assert mean_frequency(9 + np.cos(k * angle)[None, :, None])[0] == pytest.approx(k)


def test_steeper_functions_have_higher_frequencies():
    means = [on_circles(lambda x, s=s: np.sin(s * (x @ W))).mean() for s in (0.01, 0.3, 1, 3)]
    assert means[0] == pytest.approx(1, abs=0.01)
    assert (np.diff(means) > 0.1).all()


def test_points_on_circles_are_random_inputs_of_unit_variance():
    first, second = RNG.normal(size=(2, 500, 1, 4, 4))
    inputs = great_circles(first, second, 6)
    assert inputs.shape == (3000, 1, 4, 4)
    assert inputs.dtype == np.float32
    assert inputs.std() == pytest.approx(1, abs=0.03)
    np.testing.assert_allclose(inputs[:6].sum(axis=0), 0, atol=1e-5)  # closed and evenly spaced


def test_values_that_are_not_finite_give_nan_and_leave_others_alone():
    values = RNG.normal(size=(2, 3, POINTS, 2))
    values[1, 2, 5, 0] = np.inf
    found = mean_frequency(values)
    assert np.isnan(found).tolist() == [[False] * 3, [False, False, True]]


def relu_net(depth: int, seed: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Weights and biases of layers of ten units on six features."""
    rng = np.random.default_rng(seed)
    inputs = [6, *[10] * (depth - 1)]
    return [(rng.normal(size=(n, 10)), rng.normal(size=10)) for n in inputs]


def probe(seed: int, n: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 1, 2, 3)).astype(np.float32)


@partial(jax.jit, static_argnums=(2, 3))
def codes_on_segments(net: list, inputs: jax.Array, lines: int, points: int) -> jax.Array:
    x, layers = segments(inputs, lines, points).reshape(lines * points, -1), []
    for w, b in net:
        x = jax.nn.relu(x @ w + b)
        layers.append(x)
    return activation_codes(layers).reshape(lines, points, -1)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_regions_of_one_hidden_layer_are_exact_from_two_points_on(seed):
    net, inputs = relu_net(1, seed), probe(seed, 20)
    ends = inputs.reshape(20, -1) @ net[0][0] + net[0][1] > 0
    expected = 1 + (ends[:10] != ends[10:]).sum(axis=1)
    for points in (2, 9):
        found = linear_regions(codes_on_segments(net, inputs, 10, points))
        np.testing.assert_array_equal(found, expected)
    assert expected.max() > 2


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_regions_of_a_deep_net_come_near_from_below(seed):
    net, inputs = relu_net(4, seed), probe(seed, 24)
    codes = np.asarray(codes_on_segments(net, inputs, 12, 2**14 + 1))
    # Every 2ⁿ-th point of the finest grid is a coarser grid.
    counts = [linear_regions(jnp.asarray(codes[:, :: 2**n])) for n in (14, 10, 5, 0)]
    assert (np.diff(counts, axis=0) >= 0).all()
    assert (counts[0] < counts[-1]).any()
    # So close that hardly ever two units switch at once, the pieces can be counted one by one.
    pieces = 1 + (codes[:, 1:] != codes[:, :-1]).any(axis=-1).sum(axis=1)
    np.testing.assert_allclose(counts[-1], pieces, atol=1)


def test_segments_join_probe_inputs():
    inputs = jnp.asarray(RNG.normal(size=(5, 1, 2, 2)), jnp.float32)
    points = segments(inputs, lines=2, points=5).reshape(2, 5, 1, 2, 2)
    np.testing.assert_allclose(points[:, 0], inputs[:2])
    np.testing.assert_allclose(points[:, -1], inputs[2:4])
    np.testing.assert_allclose(points[:, 2], (inputs[:2] + inputs[2:4]) / 2, rtol=1e-5)
