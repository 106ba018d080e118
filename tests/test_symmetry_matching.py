"""Alignment: planted elements are recovered, objectives never fall, bad members stay alone."""

from __future__ import annotations

from itertools import permutations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.networks import build_network, hidden_names
from zoogen.networks.layers import ACTIVATIONS
from zoogen.params import Axis, ParamSpec
from zoogen.symmetry import (
    activation_matching,
    align_members,
    align_population,
    apply,
    compose,
    identity,
    invert,
    populations,
    random_element,
    weight_matching,
    weights,
)
from zoogen.symmetry.assignment import assign

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
CONFIGS = {
    "mlp": (NetworkConfig(width=32), (1, 8, 8)),
    "mlp-tanh": (NetworkConfig(width=16, depth=3, activation="tanh"), (1, 4, 4)),
    "cnn": (NetworkConfig(family="cnn", width=16), (1, 28, 28)),
    "lenet": (NetworkConfig(family="lenet", width=8), (1, 28, 28)),
    "resnet": (NetworkConfig(family="resnet", width=16), (1, 8, 8)),
    "resnet-batch": (NetworkConfig(family="resnet", width=16, norm="batch"), (1, 8, 8)),
    "lenet-blocks": (NetworkConfig(family="lenet", width=8, activation="tanh"), (3, 28, 32)),
}
ALL = pytest.mark.parametrize("name", CONFIGS)
# Hidden state that a unit both writes and reads: a group along two axes of one parameter.
RECURRENT = ParamSpec.build(
    {
        "input.weight": (Axis(6, "state"), Axis(2)),
        "state.weight": (Axis(6, "state"), Axis(6, "state")),
        "output.weight": (Axis(2), Axis(6, "state")),
    }
)


def network_of(name):
    config, shape = CONFIGS[name]
    return build_network(config, shape, 10)


def normal(spec, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, spec.size)).astype(np.float32)


def planted(spec, a, seed=0):
    """Equivalent members by random permutations and signs; positive scales stay."""
    return apply(spec, random_element(spec, seed + 100, a.shape[:-1], spread=0), a)


def narrow(depth=2, activation="none", width=4):
    """A network of two inputs and one output."""
    axes, incoming = {}, Axis(2)
    for i in range(depth):
        units = Axis(width, f"hidden{i}")
        axes |= {f"hidden{i}.weight": (units, incoming), f"hidden{i}.bias": (units,)}
        incoming = units
    axes["output.weight"] = (Axis(1), incoming)
    return ParamSpec.build(axes, {f"hidden{i}": activation for i in range(depth)})


# ------------------------------------------------------------------------------------- assignment
@SEEDS
def test_assignments_are_the_best_of_all_orders(seed):
    similarity = np.random.default_rng(seed).normal(size=(40, 5, 5))
    similarity[:10] += 9 * np.eye(5)[[3, 0, 4, 1, 2]]  # the short way
    orders = np.array(list(permutations(range(5))))
    totals = similarity[:, np.arange(5), orders].sum(axis=-1)
    found = np.take_along_axis(similarity, assign(similarity)[..., None], -1).sum(axis=(1, 2))
    np.testing.assert_allclose(found, totals.max(axis=1))


# --------------------------------------------------------------------------------- weight matching
@ALL
def test_fifty_of_fifty_planted_elements_are_recovered(name):
    spec = network_of(name).spec
    a = normal(spec, 50)
    b = planted(spec, a)
    found = weight_matching(spec, a, b)
    assert np.array_equal(apply(spec, found.elements, b), a)
    counted = spec.without_statistics(a).astype(np.float64)
    np.testing.assert_allclose(found.after, np.square(counted).sum(axis=1))
    assert (found.before < found.after).all()


@pytest.mark.parametrize("activation", ["none", "sign"])
def test_planted_elements_of_implicit_representations_are_all_recovered(activation):
    """Two inputs tell little about 32 units: from the identity, one in four and more go wrong."""
    spec = narrow(2, activation, width=32)
    a = normal(spec, 300)
    b = planted(spec, a)
    found = weight_matching(spec, a, b)
    assert np.array_equal(apply(spec, found.elements, b), a)
    assert (found.sweeps == 1).all()  # by the start alone


@SEEDS
@pytest.mark.parametrize("activation", ["none", "sign"])
def test_planted_elements_are_recovered_through_noise(seed, activation):
    spec = narrow(3, activation)
    a = normal(spec, 200, seed)
    b = planted(spec, a + 0.02 * normal(spec, 200, seed + 50), seed)
    distance = np.linalg.norm(apply(spec, weight_matching(spec, a, b).elements, b) - a, axis=1)
    # 45 entries of noise 0.02; units closer to one another than that are rare
    assert (distance < 0.3).mean() > 0.98


@SEEDS
@pytest.mark.parametrize("activation", ["none", "sign"])
def test_one_hidden_layer_is_matched_exactly(seed, activation):
    spec = narrow(1, activation)
    a, b = normal(spec, 20, seed), normal(spec, 20, seed + 10)
    signs = [1.0, -1.0] if activation == "sign" else [1.0]
    parts = spec.unflatten(b)
    features = lambda p: np.concatenate(  # noqa: E731
        [p["hidden0.weight"], p["hidden0.bias"][..., None], p["output.weight"].swapaxes(1, 2)], -1
    )
    gram = features(spec.unflatten(a)) @ features(parts).swapaxes(1, 2)
    best = np.max([s * gram for s in signs], axis=0)
    totals = [best[:, np.arange(4), order].sum(axis=-1) for order in permutations(range(4))]
    found = weight_matching(spec, a, b)
    np.testing.assert_allclose(found.after, np.max(totals, axis=0), rtol=1e-5)


@SEEDS
def test_the_result_does_not_depend_on_how_units_happen_to_stand(seed):
    spec = network_of("mlp-tanh").spec
    a, b = normal(spec, 10, seed), normal(spec, 10, seed + 10)
    aligned = [apply(spec, weight_matching(spec, a, x).elements, x) for x in (b, planted(spec, b))]
    np.testing.assert_array_equal(*aligned)


@ALL
@SEEDS
def test_matching_never_loses_and_more_runs_never_lose(name, seed):
    spec = network_of(name).spec
    a, b = normal(spec, 4, seed), normal(spec, 4, seed + 10)
    one, many = (weight_matching(spec, a, b, restarts=r) for r in (0, 2))
    assert (one.after > one.before).all()
    assert (many.after >= one.after).all()
    again = weight_matching(spec, a, b, start=one.elements)
    np.testing.assert_allclose(again.after, one.after)
    assert (again.sweeps == 1).all()


@SEEDS
def test_objectives_are_inner_products_and_elements_leave_the_function(seed):
    network = network_of("lenet")
    a, b = normal(network.spec, 3, seed), normal(network.spec, 3, seed + 10)
    found = weight_matching(network.spec, a, b)
    moved = apply(network.spec, found.elements, b)
    np.testing.assert_allclose(found.before, (a * b).sum(1), rtol=1e-3, atol=1e-2)
    np.testing.assert_allclose(found.after, (a * moved).sum(1), rtol=1e-4)
    run = jax.jit(jax.vmap(lambda v, x: network.apply(network.spec.unflatten(v), x), (0, None)))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(2, 1, 28, 28)), jnp.float32)
    before, after = run(b, images), run(moved, images)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


def test_a_start_that_leads_below_the_identity_is_left():
    spec = narrow(3)
    a = normal(spec, 300)
    b = a + 0.8 * normal(spec, 300, 1)
    found = weight_matching(spec, a, b)
    assert (found.after >= found.before).all()


@SEEDS
def test_a_group_along_two_axes_of_a_parameter_is_matched(seed):
    a = normal(RECURRENT, 50, seed)
    b = planted(RECURRENT, a, seed)
    found = weight_matching(RECURRENT, a, b)
    np.testing.assert_array_equal(apply(RECURRENT, found.elements, b), a)
    unrelated = weight_matching(RECURRENT, a, normal(RECURRENT, 50, seed + 10))
    assert (unrelated.after >= unrelated.before).all()
    assert (unrelated.sweeps < 100).all()


def test_pairs_do_not_depend_on_their_neighbours(monkeypatch):
    spec = network_of("mlp").spec
    a, b = normal(spec, 7), normal(spec, 7, 1)
    together = weight_matching(spec, a, b, restarts=1)
    monkeypatch.setattr(weights, "CHUNK_ENTRIES", 2 * spec.size)
    apart = weight_matching(spec, a, b, restarts=1)
    jax.tree.map(np.testing.assert_array_equal, together, apart)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e30])
def test_members_that_are_not_finite_stay_alone(bad):
    spec = network_of("mlp").spec
    a = normal(spec, 4)
    b = planted(spec, a)
    b[1, 5], a[2, 7] = bad, bad
    found = weight_matching(spec, a, b)
    assert np.isnan(found.after).tolist() == [False, True, True, False]
    kept = [0, 3]
    np.testing.assert_array_equal(apply(spec, found.elements, b)[kept], a[kept])
    np.testing.assert_array_equal(apply(spec, found.elements, b)[1], b[1])


@pytest.mark.parametrize("pairs", [0, 1])
def test_few_pairs_and_one_reference(pairs):
    spec = network_of("lenet").spec
    a = normal(spec, 1)[0]
    b = planted(spec, np.broadcast_to(a, (pairs, spec.size)))
    found = weight_matching(spec, a, b)
    assert found.after.shape == (pairs,)
    np.testing.assert_array_equal(apply(spec, found.elements, b), np.tile(a, (pairs, 1)))


def test_networks_without_hidden_units_are_aligned_already():
    spec = ParamSpec.build({"output.weight": (Axis(2), Axis(3))})
    found = weight_matching(spec, normal(spec, 2), normal(spec, 2, 1))
    np.testing.assert_array_equal(found.before, found.after)


# ----------------------------------------------------------------------------- activation matching
@pytest.mark.parametrize("name", ["mlp", "mlp-tanh", "lenet", "resnet"])
def test_planted_elements_are_recovered_from_activations(name):
    network = network_of(name)
    spec = network.spec
    a = 0.3 * normal(spec, 4)
    b = planted(spec, a)
    images = np.random.default_rng(0).normal(size=(40, *network.image_shape)).astype(np.float32)
    found = activation_matching(network, a, b, images)
    hidden = jax.jit(jax.vmap(lambda v: network.forward(spec.unflatten(v), images)[1]))
    of_a, of_moved = hidden(a), hidden(apply(spec, found.elements, b))
    for group in spec.groups:
        x, y = (np.asarray(h[group].after).reshape(4, 40, -1) for h in (of_a, of_moved))
        np.testing.assert_allclose(y, x, rtol=1e-3, atol=1e-4 * np.abs(x).max())
    # a unit that never fires correlates with none; it matches any other such unit
    units = [np.moveaxis(np.asarray(h.after), 2, 1) for h in of_a.values()]
    alive = [np.ptp(x.reshape(*x.shape[:2], -1), axis=2) > 0 for x in units]
    share = np.concatenate(alive, axis=1).mean(axis=1)
    np.testing.assert_allclose(found.after, share, atol=1e-4)
    assert (found.after > found.before).all()


@pytest.mark.parametrize("name", ["mlp-tanh", "cnn", "lenet", "resnet"])
def test_networks_show_what_their_hidden_units_hold(name):
    network = network_of(name)
    params = network.spec.unflatten(jnp.asarray(normal(network.spec, 1)[0]))
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, *network.image_shape)))
    logits, hidden = jax.jit(network.forward)(params, images)
    assert set(hidden) == set(network.spec.groups)
    for group, units in hidden.items():
        assert units.before.shape[:2] == (3, network.spec.groups[group].size)
        after = ACTIVATIONS[network.config.activation](units.before)
        np.testing.assert_allclose(units.after, after, rtol=1e-6)
    last = hidden[hidden_names(network)[-1]].after
    pooled = last.reshape(*last.shape[:2], -1).mean(axis=2)
    expected = pooled @ params["output.weight"].T + params["output.bias"]
    np.testing.assert_allclose(expected, logits, rtol=1e-4, atol=1e-4 * np.abs(logits).max())


def test_activations_that_are_not_finite_stay_alone():
    network = network_of("mlp")
    a = normal(network.spec, 2)
    b = planted(network.spec, a)
    b[0, 0] = np.nan
    found = activation_matching(network, a, b, np.ones((3, 1, 8, 8), np.float32))
    assert np.isnan(found.after).tolist() == [True, False]


# ------------------------------------------------------------------------------------- populations
@ALL
def test_members_are_aligned_with_a_reference(name):
    spec = network_of(name).spec
    reference = normal(spec, 1)[0]
    noise = 0.05 * normal(spec, 6, 1)
    members = planted(spec, reference + noise)
    aligned = align_members(spec, reference, members)
    np.testing.assert_array_equal(apply(spec, aligned.elements, members), aligned.values)
    expected = np.linalg.norm(spec.without_statistics(noise), axis=1)
    np.testing.assert_allclose(aligned.distance, expected, rtol=1e-3)
    assert (aligned.distance < aligned.distance_before).all()


@SEEDS
@pytest.mark.parametrize("name", ["mlp", "mlp-tanh", "lenet"])
def test_a_planted_population_is_brought_together(name, seed):
    spec = network_of(name).spec
    noise = 0.3 * normal(spec, 12, seed + 1)
    members = planted(spec, normal(spec, 1, seed) + noise, seed)
    aligned = align_population(spec, members)
    np.testing.assert_allclose(aligned.reference, aligned.values.mean(axis=0), rtol=1e-5, atol=1e-6)
    expected = np.linalg.norm(noise - noise.mean(axis=0), axis=1)
    np.testing.assert_allclose(aligned.distance, expected, rtol=1e-3)


@SEEDS
def test_unrelated_members_come_closer_in_every_sense(seed):
    spec = narrow(2)
    members = normal(spec, 9, seed)
    aligned = align_population(spec, members)
    to_one = apply(spec, weight_matching(spec, members[0], members).elements, members)
    length = lambda values: np.linalg.norm(values.mean(axis=0))  # noqa: E731
    assert length(aligned.values) >= length(to_one) * (1 - 1e-6)
    assert length(aligned.values) > length(members)
    # nothing is left to gain by moving one member alone
    for i in range(9):
        rest = np.delete(aligned.values, i, axis=0).sum(axis=0)
        still = weight_matching(spec, rest, aligned.values[i : i + 1], start=identity(spec))
        np.testing.assert_allclose(still.after, still.before, rtol=1e-5)


@pytest.mark.parametrize("count", [2, 3, 8])
def test_a_round_never_shortens_the_mean(count):
    """Two members that move towards each other at the same time would miss each other."""
    spec = narrow(2)
    members = [normal(spec, count, seed) for seed in range(10)]
    steps = [populations._round(spec, m, np.arange(count)) for m in members]
    assert steps.count(None) <= 1
    for before, step in zip(members, steps, strict=True):
        after = before if step is None else apply(spec, step, before)
        gain = np.linalg.norm(after.sum(axis=0)) - np.linalg.norm(before.sum(axis=0))
        assert gain > 0 or step is None


def test_diverged_members_stay_out_of_the_mean():
    spec = network_of("mlp").spec
    members = planted(spec, np.tile(normal(spec, 1), (4, 1)))
    members[2] = np.nan
    aligned = align_population(spec, members)
    assert np.isnan(aligned.distance).tolist() == [False, False, True, False]
    np.testing.assert_allclose(aligned.distance[[0, 1, 3]], 0, atol=1e-5)
    with pytest.raises(ConfigError, match="member 2 are not finite"):
        align_population(spec, members, first=2)


def test_two_ways_to_undo_a_planted_element_agree():
    spec = network_of("cnn").spec
    a = normal(spec, 5)
    element = random_element(spec, 3, (5,), spread=0)
    found = weight_matching(spec, a, apply(spec, element, a)).elements
    rest = compose(found, invert(invert(element)))
    for order in rest.permutations.values():
        np.testing.assert_array_equal(order, np.arange(order.shape[1]) + 0 * order)
