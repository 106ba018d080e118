"""Augmentation: equivalent members, uniform over the group, and mixtures of aligned ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.stats import chi2

from zoogen.config import NetworkConfig
from zoogen.models import Partners, matched_partners, mix, mixup, random_equivalents
from zoogen.networks import build_network
from zoogen.params import Axis, ParamSpec
from zoogen.symmetry import align_population, apply, random_element

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
MLP = build_network(NetworkConfig(width=6, depth=2), (1, 3, 3), 4)
NETWORKS = {
    "relu": MLP,
    "tanh": build_network(NetworkConfig(width=6, activation="tanh"), (1, 3, 3), 4),
    "cnn": build_network(NetworkConfig(family="cnn", width=5, depth=2), (1, 8, 8), 4),
}


def normal(spec, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, spec.size)).astype(np.float32)


@pytest.mark.parametrize("name", NETWORKS)
def test_equivalents_compute_the_same_under_jit(name):
    network = NETWORKS[name]
    spec, weights = network.spec, normal(network.spec, 5)
    images = normal(network.spec, 1)[0][: 2 * np.prod(network.image_shape)]
    images = jnp.asarray(images.reshape(2, *network.image_shape))
    traced = []

    @jax.jit
    def logits(key, values, spread):
        traced.append(spread)
        twins = random_equivalents(spec, key, values, spread=0.4)
        run = jax.vmap(lambda v: network.apply(spec.unflatten(v), images))
        return twins, run(values), run(twins)

    for seed in range(2):
        twins, before, after = logits(jax.random.key(seed), weights, 0)
        np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
        assert (np.asarray(twins) != weights).mean() > 0.5
    assert len(traced) == 1, "new keys need no new program"


@SEEDS
def test_permutations_and_signs_are_uniform_and_independent_over_members(seed):
    """Twelve hundred draws over the 48 signed orders of three units: chi-squared below its 0.9999
    quantile."""
    spec = ParamSpec.build({"hidden.bias": (Axis(3, "hidden"),)}, {"hidden": "sign"})
    weights = jnp.broadcast_to(jnp.array([1.0, 2.0, 4.0]), (1200, 3))
    draw = jax.jit(lambda key: random_equivalents(spec, key, weights))
    found, counts = np.unique(np.asarray(draw(jax.random.key(seed))), axis=0, return_counts=True)
    assert np.array_equal(np.unique(np.abs(found)), [1, 2, 4])
    assert len(found) == 48
    assert np.square(counts - 25).sum() / 25 < chi2.ppf(0.9999, 47)


def test_scales_stay_unless_a_spread_is_given():
    weights = normal(MLP.spec, 3)
    kept, moved = (
        np.asarray(random_equivalents(MLP.spec, jax.random.key(0), weights, spread=spread))
        for spread in (0.0, 0.5)
    )
    np.testing.assert_array_equal(np.sort(kept), np.sort(weights))
    assert np.abs(np.sort(moved) - np.sort(weights)).max() > 0.1


@SEEDS
def test_mixtures_lie_between_and_a_share_of_one_is_the_member(seed):
    weights, targets = normal(MLP.spec, 6, seed), {"accuracy": jnp.arange(6.0)}
    partners = Partners(normal(MLP.spec, 6, seed + 5), {"accuracy": jnp.arange(6.0) + 10})
    one, ends = mix(jnp.ones(6), Partners(weights, targets), partners)
    np.testing.assert_array_equal(one, weights)
    np.testing.assert_array_equal(ends["accuracy"], targets["accuracy"])
    mixed, numbers = jax.jit(mixup)(jax.random.key(seed), weights, targets, partners)
    shares = 1 - (np.asarray(numbers["accuracy"]) - np.arange(6)) / 10
    assert (shares.min(), shares.max()) > (0, 0)
    assert len(np.unique(shares.round(5))) == 6, "an own share each"
    rest = partners.weights - weights
    np.testing.assert_allclose(mixed, weights + (1 - shares)[:, None] * rest, atol=1e-5)


def test_small_concentrations_stay_near_members():
    weights, targets = jnp.zeros((4000, 1)), jnp.zeros(4000)
    partners = Partners(weights + 1, targets + 1)
    for concentration, wanted in ((0.2, 1 / (4 * 1.4)), (1.0, 1 / 12), (5.0, 1 / 44)):
        _, shares = mixup(jax.random.key(0), weights, targets, partners, concentration)
        assert float(shares.mean()) == pytest.approx(0.5, abs=0.04)
        assert float(shares.var()) == pytest.approx(wanted, rel=0.1)  # of the Beta distribution


@SEEDS
def test_twins_mix_to_themselves_once_they_are_matched(seed):
    spec = MLP.spec
    member = normal(spec, 1, seed)
    twins = apply(spec, random_element(spec, seed, (5,), spread=0), np.tile(member, (5, 1)))
    key, targets = jax.random.key(seed), np.arange(5.0)
    partners = matched_partners(spec, twins, targets, seed)
    assert sorted(partners.targets) == targets.tolist()
    assert (partners.targets != targets).all()
    mixed, _ = mixup(key, twins, targets, partners)
    np.testing.assert_allclose(mixed, twins, atol=1e-5)
    raw, _ = mixup(key, twins, targets)
    assert np.abs(np.asarray(raw) - twins).max() > 0.1
    aligned = align_population(spec, twins).values
    once, _ = mixup(key, aligned, targets)
    np.testing.assert_allclose(once, aligned, atol=1e-5)
