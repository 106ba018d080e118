"""Sharpness on quadratics in closed form, and under rescaling of a relu network."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.landscape import cross_entropy
from zoogen.landscape.sharpness import adaptive_sharpness, ascent_sharpness
from zoogen.networks import build_network

SHARPNESS = {"ascent": ascent_sharpness, "adaptive": adaptive_sharpness}


def on_a_quadratic(measure):
    return jax.jit(lambda a, w, radius: measure(lambda w: w @ a @ w / 2, w, radius))


RISE_ON_A_QUADRATIC = {name: on_a_quadratic(measure) for name, measure in SHARPNESS.items()}


@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("radius", [0.05, 2.0])
def test_rise_on_a_quadratic(seed, radius):
    rng = np.random.default_rng(seed)
    root, w = rng.normal(size=(6, 6)), rng.normal(size=6)
    a = root + root.T
    g = a @ w
    steps = {
        "ascent": radius * g / np.linalg.norm(g),
        "adaptive": radius * w**2 * g / np.linalg.norm(w * g),
    }
    matrix = jnp.asarray(a, jnp.float32)
    for name, step in steps.items():
        found = RISE_ON_A_QUADRATIC[name](matrix, jnp.asarray(w, jnp.float32), radius)
        assert found == pytest.approx(g @ step + step @ a @ step / 2, abs=1e-4)


@pytest.fixture(scope="module")
def rescaled():
    """Loss of a relu network, its weights, and the same function with its units rescaled."""
    network = build_network(NetworkConfig(family="mlp", width=6, depth=2), (1, 3, 3), 3)
    spec, rng = network.spec, np.random.default_rng(0)
    params = spec.unflatten(0.5 * rng.normal(size=spec.size).astype(np.float32))
    x, y = rng.normal(size=(32, 1, 3, 3)).astype(np.float32), np.arange(32) % 3
    factors = np.array([0.1, 0.5, 1, 2, 5, 20], np.float32)
    other = params | {
        "hidden0.weight": params["hidden0.weight"] * factors[:, None],
        "hidden0.bias": params["hidden0.bias"] * factors,
        "hidden1.weight": params["hidden1.weight"] / factors,
    }
    return (
        jax.jit(lambda w: cross_entropy(network.apply(spec.unflatten(w), x), y)),
        spec.flatten(params),
        spec.flatten(other),
    )


def test_only_adaptive_sharpness_is_blind_to_rescaling(rescaled):
    loss, w, other = rescaled
    assert float(loss(w)) == pytest.approx(float(loss(other)), rel=1e-5)
    measure = jax.jit(lambda w: (adaptive_sharpness(loss, w, 0.5), ascent_sharpness(loss, w, 0.05)))
    adaptive, plain = np.transpose([measure(w), measure(other)])
    assert adaptive[0] == pytest.approx(adaptive[1], rel=1e-3)
    assert adaptive[0] > 0.01
    assert plain[0] != pytest.approx(plain[1], rel=0.1)


@pytest.mark.parametrize("name", SHARPNESS)
def test_no_gradient_no_rise_and_nan_stays(name):
    assert SHARPNESS[name](lambda w: w @ w, jnp.zeros(3), 0.1) == 0
    assert np.isnan(SHARPNESS[name](lambda w: jnp.sum(w) * jnp.nan, jnp.ones(3), 0.1))
