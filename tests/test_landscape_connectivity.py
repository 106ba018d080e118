"""Curves and barriers on losses whose shape is known."""

from __future__ import annotations

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.landscape import (
    CURVE_POINTS,
    cross_entropy,
    farthest_point,
    linear_barrier,
    mode_connectivity,
    train_curve,
)
from zoogen.landscape.connectivity import along_curve_and_line, bezier_coefficients
from zoogen.landscape.draws import curve_order

TIMES = np.array(CURVE_POINTS)
WORDS = np.array([1, 2, 3, 4], np.uint32)


@pytest.mark.parametrize(
    ("errors", "value", "t"),
    [
        ([0, 0, 12, 0, 0], -12, 0.5),  # barrier
        ([10, 6, 2, 7, 10], 8, 0.5),  # ends under-trained
        ([3, 3, 3, 3, 3], 0, None),  # connected
        ([2, 9, 3, 2, 4], -6, 0.25),  # barrier off the middle, unequal ends
        ([0, 4, 5, 4, 20], 6, None),  # ends differ by more than the curve bends
        ([1, 5, 3, 1, 5], -2, 0.25),  # equally far on both sides: the higher error
    ],
)
def test_mode_connectivity_by_hand(errors, value, t):
    errors = np.array(errors, np.float32)
    for order in (errors, errors[::-1]):  # which member comes first must not matter
        assert mode_connectivity(order) == pytest.approx(value)
    if t is not None:
        assert TIMES[farthest_point(errors)] == t


def test_ties_are_found_in_spite_of_rounding():
    wrong = np.array([7, 57, 32, 7, 57])  # of 449 examples
    errors = wrong.astype(np.float32) * np.float32(100 / 449)
    assert mode_connectivity(errors) == pytest.approx(-2500 / 449, rel=1e-5)
    assert mode_connectivity(errors[::-1]) == pytest.approx(-2500 / 449, rel=1e-5)


def test_curve_with_an_error_that_is_not_finite_is_nan_alone():
    errors = np.zeros((3, 5))
    errors[1, 2] = np.nan
    np.testing.assert_array_equal(mode_connectivity(errors), [0, np.nan, 0])


@pytest.mark.parametrize(
    ("values", "barrier"), [([0, 1, 2, 3, 4], 0), ([4, 4, 4, 4, 0], 3), ([4, 0, 0, 0, 4], 0)]
)
def test_linear_barrier_by_hand(values, barrier):
    assert linear_barrier(np.array(values, float), TIMES) == barrier


def test_bezier_curve_meets_its_ends_and_its_shares_add_to_one():
    shares = np.asarray(bezier_coefficients(jnp.asarray(TIMES, jnp.float32)))
    np.testing.assert_array_equal(shares[[0, -1]], [[1, 0, 0], [0, 0, 1]])
    np.testing.assert_allclose(shares.sum(axis=1), 1)


def test_curve_and_line_are_evaluated_where_they_say():
    start, control, end = jnp.array([0.0]), jnp.array([10.0]), jnp.array([4.0])
    curve, line = along_curve_and_line(lambda w: (w[0], 2 * w[0]), start, control, end)
    np.testing.assert_allclose(curve[0], [0, 4, 6, 6, 4])  # 2t(1−t)·10 + t²·4
    np.testing.assert_allclose(line[0], [0, 1, 2, 3, 4])
    np.testing.assert_allclose(line[1], 2 * np.asarray(line[0]))


@pytest.mark.parametrize(("examples", "batch"), [(10, 4), (10, 10), (3, 8)])
def test_every_epoch_visits_distinct_examples_in_full_batches(examples, batch):
    order, times = curve_order(0, WORDS, examples, epochs=6, batch_size=batch)
    size = min(batch, examples)
    assert order.shape == (6 * (examples // size), size)
    assert times.shape == order.shape[:1]
    assert (times >= 0).all()
    assert (times < 1).all()
    epochs = order.reshape(6, -1)
    assert all(len(set(epoch)) == len(epoch) and max(epoch) < examples for epoch in epochs)
    assert len({tuple(epoch) for epoch in epochs}) > 1


def test_times_are_uniform_and_depend_on_both_members():
    _, times = curve_order(0, WORDS, 64, epochs=4000, batch_size=64)
    assert times.mean() == pytest.approx(0.5, abs=4 / np.sqrt(12 * 4000))
    assert times.std() == pytest.approx(12**-0.5, rel=0.05)
    for changed in range(4):
        words = WORDS.copy()
        words[changed] += 1
        assert not np.array_equal(curve_order(0, words, 64, 4000, 64)[1], times)


def ring(w: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Minimum on the unit circle, hill in its middle; the batch shifts nothing."""
    return (w @ w - 1) ** 2 + 0 * jnp.mean(images) + 0 * jnp.mean(labels)


def linear_softmax(w: jax.Array, images: jax.Array, labels: jax.Array) -> jax.Array:
    """Convex in ``w``."""
    return cross_entropy(images @ w.reshape(5, 3), labels)


@partial(jax.jit, static_argnums=0)
def trained(loss, start, end, images, labels, order, times):
    """Losses along the trained curve, and along the line."""
    control = train_curve(loss, start, end, images, labels, order, times, 0.05, 0.0)
    curve, line = along_curve_and_line(
        lambda w: (loss(w, images, labels),) * 2, start, control, end
    )
    return curve[0], line[0]


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_curve_leads_around_a_hill_that_the_line_crosses(seed):
    start, end = jnp.array([-1.0, 0.05]), jnp.array([1.0, 0.05])
    order, times = curve_order(seed, WORDS, 8, epochs=200, batch_size=4)
    images, labels = jnp.zeros((8, 1)), jnp.zeros(8, jnp.int32)
    curve, line = trained(ring, start, end, images, labels, order, times)
    assert linear_barrier(np.asarray(line), TIMES) > 0.9
    assert np.max(curve) < 0.15


def test_training_step_by_hand():
    """Two steps with momentum and weight decay, as PyTorch's SGD makes them."""
    start, end = np.array([1.0, 0.0], np.float32), np.array([0.0, 3.0], np.float32)
    images = np.array([[1.0, 2.0], [3.0, -1.0]], np.float32)
    times = np.array([0.25, 0.75], np.float32)

    def loss(w, x, y):
        return jnp.mean((x @ w - y) ** 2) / 2

    found = train_curve(
        loss, start, end, images, jnp.array([1, 2]), np.array([[0], [1]]), times, 0.1, 0.01, 0.5
    )
    control, velocity = (start + end) / 2, np.zeros(2)
    for x, y, t in zip(images, (1, 2), times, strict=True):
        w = (1 - t) ** 2 * start + 2 * t * (1 - t) * control + t**2 * end
        gradient = 2 * t * (1 - t) * (x @ w - y) * x
        velocity = 0.5 * velocity + gradient + 0.01 * control
        control = control - 0.1 * velocity
    np.testing.assert_allclose(found, control, rtol=1e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_convex_loss_has_no_barrier_and_its_curve_is_no_worse(seed):
    rng = np.random.default_rng(seed)
    x, y = jnp.asarray(rng.normal(size=(60, 5)), jnp.float32), jnp.asarray(rng.integers(0, 3, 60))

    start, end = (jnp.asarray(rng.normal(size=15), jnp.float32) for _ in range(2))
    order, times = curve_order(seed, WORDS, 60, epochs=20, batch_size=20)
    curve, line = trained(linear_softmax, start, end, x, y, order, times)
    assert linear_barrier(np.asarray(line), TIMES) <= 1e-6
    assert np.max(curve) <= np.max(line) + 1e-6
    assert np.mean(curve) < np.mean(line)
