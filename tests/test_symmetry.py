"""Symmetry group: laws of elements, claims of specs against functions, canonical forms."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.networks import FAMILIES, build_network
from zoogen.params import Axis, ParamSpec
from zoogen.symmetry import (
    Element,
    activation_matching,
    apply,
    balanced,
    canonical,
    check_symmetry,
    compose,
    identity,
    invert,
    random_element,
    sinkhorn_matching,
    weight_matching,
    with_fixed_signs,
)

SEEDS = pytest.mark.parametrize("seed", [0, 1, 2])
NETWORKS = {
    "mlp": (NetworkConfig(width=4, activation="relu"), (1, 2, 3), 3),
    "mlp-tanh": (NetworkConfig(width=4, depth=3, activation="tanh"), (1, 2, 3), 3),
    "cnn": (NetworkConfig(family="cnn", width=3, activation="leaky_relu"), (2, 15, 15), 4),
    "cnn-gelu": (NetworkConfig(family="cnn", width=3, depth=2, activation="gelu"), (1, 8, 8), 2),
    "lenet": (NetworkConfig(family="lenet", width=4), (1, 24, 21), 3),
    "lenet-tanh": (NetworkConfig(family="lenet", width=4, activation="tanh"), (1, 21, 24), 3),
    "resnet": (NetworkConfig(family="resnet", width=4, activation="silu"), (2, 6, 6), 3),
    "resnet-batch": (NetworkConfig(family="resnet", width=4, norm="batch"), (2, 6, 6), 3),
}
ALL = pytest.mark.parametrize("name", NETWORKS)


def network_of(name):
    return build_network(*NETWORKS[name])


def members_of(spec, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, spec.size))


@lru_cache
def program(name):
    network = network_of(name)
    return jax.jit(jax.vmap(lambda v, x: network.apply(network.spec.unflatten(v), x), (0, None)))


def logits_of(name, values):
    images = np.random.default_rng(9).normal(size=(3, *network_of(name).image_shape))
    return program(name)(jnp.asarray(values, jnp.float32), jnp.asarray(images, jnp.float32))


# --------------------------------------------------------------------------------------- elements
@ALL
@SEEDS
def test_elements_form_a_group_that_acts(name, seed):
    spec = network_of(name).spec
    values = members_of(spec, 5, seed)
    g, h, k = (random_element(spec, 3 * seed + i, (5,)) for i in range(3))
    act = lambda element, x: apply(spec, element, x)  # noqa: E731
    np.testing.assert_allclose(act(compose(g, h), values), act(g, act(h, values)), rtol=1e-6)
    np.testing.assert_allclose(act(compose(invert(g), g), values), values, rtol=1e-6)
    np.testing.assert_allclose(act(compose(g, invert(g)), values), values, rtol=1e-6)
    left, right = compose(compose(g, h), k), compose(g, compose(h, k))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=1e-6), left, right)
    assert np.array_equal(act(identity(spec), values), values)
    assert not np.allclose(act(g, values), values)


@ALL
def test_permutations_act_as_the_spec_permutes(name):
    spec = network_of(name).spec
    values = members_of(spec, 3)
    orders = [spec.random_permutation(seed) for seed in range(3)]
    batched = Element({group: np.stack([o[group] for o in orders]) for group in spec.groups}, {})
    expected = np.stack([spec.permute(v, o) for v, o in zip(values, orders, strict=True)])
    assert np.array_equal(apply(spec, batched, values), expected)


@pytest.mark.parametrize(
    ("of_element", "of_values", "expected"),
    [
        ((), (), ()),
        ((), (4,), (4,)),
        ((4,), (), (4,)),
        ((1,), (1,), (1,)),
        ((2, 1), (3,), (2, 3)),
        ((2, 3), (2, 3), (2, 3)),
        ((3,), (0, 3), (0, 3)),
    ],
)
def test_leading_axes_broadcast(of_element, of_values, expected):
    spec = network_of("lenet").spec
    values = np.random.default_rng(0).normal(size=(*of_values, spec.size))
    element = random_element(spec, 0, of_element)
    result = apply(spec, element, values)
    assert result.shape == (*expected, spec.size)
    for place in np.ndindex(*expected):
        one = jax.tree.map(
            lambda x, at=place: np.broadcast_to(x, (*expected, x.shape[-1]))[at], element
        )
        alone = apply(spec, one, np.broadcast_to(values, (*expected, spec.size))[place])
        np.testing.assert_array_equal(result[place], alone)


def test_jax_and_numpy_agree():
    spec = network_of("lenet").spec
    values, element = members_of(spec, 3).astype(np.float32), random_element(spec, 0, (3,))
    expected = apply(spec, element, values)
    found = jax.jit(lambda element, values: apply(spec, element, values))(element, values)
    assert isinstance(expected, np.ndarray)
    assert expected.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_elements_may_be_traced_over_numpy_weights():
    spec = network_of("mlp").spec
    values, key = members_of(spec, 3).astype(np.float32), jax.random.key(0)
    augmented = jax.jit(lambda key: apply(spec, random_element(spec, key, (3,)), values))(key)
    element = jax.tree.map(np.asarray, random_element(spec, key, (3,)))
    np.testing.assert_allclose(augmented, apply(spec, element, values), rtol=1e-6)


@pytest.mark.parametrize("source", [0, 1, 2, "key"])
def test_random_elements_are_uniform_permutations_and_allowed_factors(source):
    axes = {f"{g}.bias": (Axis(3, g),) for g in ("relu", "tanh", "gelu")}
    spec = ParamSpec.build(axes, {"relu": "positive", "tanh": "sign"})
    count = 6000
    source = jax.random.key(0) if source == "key" else source
    element = jax.tree.map(np.asarray, random_element(spec, source, (count,)))
    for group in spec.groups:
        _, counts = np.unique(element.permutations[group], axis=0, return_counts=True)
        assert len(counts) == 6
        # 1,000 expected each, standard deviation 29
        assert np.abs(counts - count / 6).max() < 5 * 29
    assert set(element.factors) == {"relu", "tanh"}
    assert element.factors["relu"].min() > 0
    assert set(np.unique(element.factors["tanh"])) == {-1, 1}
    assert abs(element.factors["tanh"].mean()) < 5 / np.sqrt(3 * count)


# ------------------------------------------------------------------------------------ nested groups
HEADS, SHARE, STREAM = 3, 2, 4
NESTED = {"keys": ("heads", HEADS), "values": ("heads", HEADS)}


def attention_spec(parents=NESTED):
    """One layer of attention, with a temperature per head."""
    stream, keys = Axis(STREAM, "stream"), Axis(HEADS * SHARE, "keys")
    values = Axis(HEADS * SHARE, "values")
    axes = {
        "embed": (stream, Axis(4)), "query": (keys, stream), "key": (keys, stream),
        "value": (values, stream), "temperature": (Axis(HEADS, "heads"),), "out": (stream, values),
        "logits": (Axis(3), stream),
    }  # fmt: skip
    return ParamSpec.build(axes, {"keys": "sign"}, parents)  # both queries and keys change theirs


def attend(params, images):
    """Logits of sequences, read from images of one channel ``[b 1 t f]``."""
    x = jax.nn.gelu(jnp.einsum("btf,sf->bts", images[:, 0], params["embed"]))
    split = lambda weight: jnp.einsum(  # noqa: E731
        "bts,hes->bhte", x, params[weight].reshape(HEADS, SHARE, STREAM)
    )
    scores = jnp.einsum("bhte,bhue->bhtu", split("query"), split("key"))
    weights = jax.nn.softmax(scores * params["temperature"][:, None, None], axis=-1)
    heads = jax.nn.gelu(jnp.einsum("bhtu,bhue->bthe", weights, split("value")))
    x = x + heads.reshape(*x.shape[:2], -1) @ params["out"].T
    return x.mean(axis=1) @ params["logits"].T


def attention_network(spec):
    return replace(network_of("mlp"), image_shape=(1, 5, 4), spec=spec, apply=attend)


@pytest.mark.parametrize("source", [0, 1, "key"])
def test_nested_elements_form_a_group_and_leave_attention_unchanged(source):
    spec = attention_spec()
    if source == "key":
        g, h = (random_element(spec, jax.random.key(i), (20,)) for i in (0, 1))
    else:
        g, h = (random_element(spec, 2 * source + i, (20,)) for i in (0, 1))
    values = members_of(spec, 20).astype(np.float32)
    both = apply(spec, compose(g, h), values)
    assert np.array_equal(both, apply(spec, g, apply(spec, h, values)))
    assert np.array_equal(apply(spec, compose(invert(g), g), values), values)
    images = jnp.asarray(np.random.default_rng(0).normal(size=(3, 1, 5, 4)), jnp.float32)
    run = jax.jit(jax.vmap(lambda v: attend(spec.unflatten(v), images)))
    logits = run(values)
    np.testing.assert_allclose(run(both), logits, rtol=1e-4, atol=1e-5 * np.abs(logits).max())
    one = spec.permute(values[0], spec.random_permutation(3))
    np.testing.assert_allclose(run(one[None])[0], logits[0], rtol=1e-4, atol=1e-4)


def test_nested_specs_are_checked():
    kinds = [(f.group, f.kind) for f in check_symmetry(attention_network(attention_spec()))]
    assert {group for group, kind in kinds if kind == "permutation"} == {
        "stream", "heads", "keys", "values"
    }  # fmt: skip
    free = attention_spec(parents={})
    with pytest.raises(ConfigError, match=r"group '(keys|values|heads)': permutation should"):
        check_symmetry(attention_network(free))


def test_nested_specs_survive_json_and_others_are_stored_as_ever():
    spec = attention_spec()
    assert ParamSpec.from_json(spec.to_json()) == spec
    assert spec.groups["keys"].parent == "heads"
    assert set(network_of("lenet").spec.to_json()) == {"parameters", "scalings"}


@pytest.mark.parametrize(
    ("parents", "message"),
    [
        ({"kays": ("heads", 3)}, "no axis names group 'kays'"),
        ({"keys": ("heads", 2)}, "3 units, but group 'heads' has 2"),
        ({"keys": ("stream", 4)}, "can't be nested"),
        ({"keys": ("heads", 3), "heads": ("stream", 4)}, "can't be nested"),
    ],
)
def test_impossible_nesting_is_refused(parents, message):
    with pytest.raises(ConfigError, match=message):
        attention_spec(parents)


@pytest.mark.parametrize(
    "task",
    [
        lambda spec, values: canonical(spec, values),
        lambda spec, values: weight_matching(spec, values, values),
        lambda spec, values: activation_matching(attention_network(spec), values, values, None),
    ],
)
def test_algorithms_that_need_free_units_refuse_nested_groups(task):
    spec = attention_spec()
    with pytest.raises(ConfigError, match=r"found 'keys' nested in 'heads'; .*sinkhorn_matching"):
        task(spec, members_of(spec, 2))


# Everything that takes flat weights, given one good and one other array of them.
TAKES_WEIGHTS = {
    "unflatten": lambda net, good, given: net.spec.unflatten(given),
    "unflatten, compiled": lambda net, good, given: jax.jit(net.spec.unflatten)(given),
    "unflatten, each": lambda net, good, given: jax.vmap(net.spec.unflatten)(given),
    "permute": lambda net, good, given: net.spec.permute(given, {}),
    "without_statistics": lambda net, good, given: net.spec.without_statistics(given),
    "apply": lambda net, good, given: apply(net.spec, identity(net.spec), given),
    "canonical": lambda net, good, given: canonical(net.spec, given),
    "weight a": lambda net, good, given: weight_matching(net.spec, given, good),
    "weight b": lambda net, good, given: weight_matching(net.spec, good, given),
    "sinkhorn": lambda net, good, given: sinkhorn_matching(net.spec, good, given),
    "activation": lambda net, good, given: activation_matching(
        net, good, given, jnp.zeros((2, *net.image_shape))
    ),
}


@pytest.mark.parametrize("task", TAKES_WEIGHTS)
@pytest.mark.parametrize("name", ["mlp", "resnet-batch"])
def test_weights_of_another_length_are_refused(name, task):
    """Half as long, one number short, one too many: none is regrouped, cut or broadcast."""
    network = network_of(name)
    size = network.spec.size
    good = members_of(network.spec, 2)
    for length in (size // 2, size - 1, size + 1, 1):
        with pytest.raises(ConfigError, match=rf"expected {size} numbers .*{length},?\); take"):
            TAKES_WEIGHTS[task](network, good, np.ones((2, length)))


def test_the_length_of_weights_is_that_of_the_last_axis():
    spec = network_of("mlp").spec
    with pytest.raises(ConfigError, match=r"found shape \(\)"):
        spec.unflatten(np.float64(1))
    for lead in ((), (3,), (0,), (2, 0, 3)):
        parts = spec.unflatten(np.ones((*lead, spec.size)))
        assert parts["output.bias"].shape == (*lead, 3)
    assert jax.jit(jax.vmap(spec.unflatten))(np.ones((4, spec.size)))["output.bias"].shape == (4, 3)


def test_an_element_of_another_network_is_refused():
    spec = network_of("mlp").spec
    with pytest.raises(ConfigError, match=r"no group 'conv0'.*hidden0"):
        apply(spec, identity(network_of("cnn").spec), np.zeros(spec.size))


# ------------------------------------------------------------------------------------------ check
@ALL
def test_specs_claim_exactly_what_their_functions_do(name):
    for finding in check_symmetry(network_of(name)):
        assert finding.claimed == (finding.error <= 1e-5)


def test_a_transformers_spec_claims_exactly_what_its_function_does():
    network = build_network(NetworkConfig(family="vit", width=6), (1, 6, 6), 3)
    found = check_symmetry(network)
    assert {f.group for f in found} == set(network.spec.groups)
    for finding in found:
        assert finding.claimed == (finding.error <= 1e-5)


IN_DOUBLE = {
    name: NETWORKS[name] for name in ("mlp", "mlp-tanh", "cnn", "lenet", "resnet", "resnet-batch")
} | {
    "vit": (NetworkConfig(family="vit", width=4, depth=1), (1, 4, 4), 3),
    "siren": (NetworkConfig(family="siren", activation="sin", init="siren", width=4), (2, 1, 1), 3),
}  # fmt: skip


def test_every_family_is_verified_in_double_precision():
    assert {config.family for config, *_ in IN_DOUBLE.values()} == set(FAMILIES)


@pytest.mark.parametrize("name", IN_DOUBLE)
def test_claims_hold_in_double_precision(name):
    with jax.enable_x64(True):
        found = check_symmetry(build_network(*IN_DOUBLE[name]))
    for finding in found:
        assert finding.claimed == (finding.error <= 1e-10)


# Axes of equal size wherever that can be, so that any axis can bear any label.
BROKEN = {
    "mlp": build_network(NetworkConfig(width=4), (1, 2, 2), 4),
    "cnn": build_network(NetworkConfig(family="cnn", width=3), (3, 15, 15), 3),
    "lenet": build_network(NetworkConfig(family="lenet", width=4), (4, 24, 20), 4),
    "resnet": build_network(
        NetworkConfig(family="resnet", width=3, depth=1, norm="batch"), (3, 6, 6), 3
    ),
    "vit": build_network(NetworkConfig(family="vit", width=4, depth=1, heads=2), (1, 4, 4), 4),
}


def mutations(spec):
    """Every axis of every parameter, with every other label that its size allows."""
    for parameter in spec.parameters:
        for position, axis in enumerate(parameter.axes):
            for label in {None, *spec.groups} - {axis.group}:
                units = spec.groups[label].size if label else axis.size
                if axis.size % units == 0:
                    changed = replace(axis, group=label, block=axis.size // units)
                    yield (
                        parameter.name,
                        position,
                        label,
                        relabelled(spec, parameter.name, position, changed),
                    )


def relabelled(spec, name, position, axis):
    axes = {p.name: list(p.axes) for p in spec.parameters}
    axes[name][position] = axis
    return ParamSpec.build(
        {n: tuple(a) for n, a in axes.items()},
        dict(spec.scalings),
        {group: (parent, units) for group, parent, units in spec.parents},
        dict(spec.statistics),
    )


@pytest.mark.parametrize("family", BROKEN)
def test_every_wrong_axis_label_is_caught(family):
    network = BROKEN[family]
    check_symmetry(network)
    broken = list(mutations(network.spec))
    axes = [(p.name, i) for p in network.spec.parameters for i in range(len(p.axes))]
    labelled = {(n, i) for n, i in axes if network.spec[n].axes[i].group}
    assert labelled <= {mutation[:2] for mutation in broken}
    assert len(broken) > 2 * len(labelled)
    for *_, spec in broken:
        with pytest.raises(ConfigError, match="correct the axes"):
            check_symmetry(replace(network, spec=spec))


@pytest.mark.parametrize("family", BROKEN)
def test_wrong_blocks_are_caught(family):
    """Units of a flattened map that lie position by position instead of map by map."""
    network = BROKEN[family]
    for parameter in network.spec.parameters:
        for position, axis in enumerate(parameter.axes):
            if axis.block > 1:
                with pytest.raises(ConfigError, match="units"):
                    relabelled(network.spec, parameter.name, position, replace(axis, block=1))


@pytest.mark.parametrize(
    ("parents", "group"),
    [
        ((("block0.value", "block0.heads", 2),), "block0.query"),
        ((("block0.query", "block0.heads", 2),), "block0.heads"),
        ((("block0.query", "one", 2), ("block0.value", "another", 2)), "one"),
        (
            (("block0.query", "block0.heads", 4), ("block0.value", "block0.heads", 4)),
            "block0.heads",
        ),
    ],
    ids=["free queries", "free values", "heads apart", "other heads"],
)
def test_every_wrong_nesting_is_caught(parents, group):
    network = BROKEN["vit"]
    with pytest.raises(ConfigError, match=f"group '{group}': permutation should leave"):
        check_symmetry(replace(network, spec=replace(network.spec, parents=parents)))


@pytest.mark.parametrize(
    ("activation", "claim", "message"),
    [
        ("relu", "none", "positive leaves the outputs unchanged"),
        ("relu", "sign", "sign should leave"),
        ("tanh", "none", "sign leaves the outputs unchanged"),
        ("tanh", "positive", "positive should leave"),
        ("gelu", "positive", "positive should leave"),
        ("sigmoid", "sign", "sign should leave"),
    ],
)
def test_every_wrong_scaling_is_caught(activation, claim, message):
    network = build_network(NetworkConfig(width=4, activation=activation), (1, 2, 2), 3)
    spec = replace(network.spec, scalings=(*network.spec.scalings[:1], ("hidden1", claim)))
    with pytest.raises(ConfigError, match=f"'hidden1': {message}"):
        check_symmetry(replace(network, spec=spec))


# ------------------------------------------------------------------------------- canonical forms
@ALL
@SEEDS
def test_canonical_forms_of_equivalent_members_are_equal(name, seed):
    spec = network_of(name).spec
    values = members_of(spec, 4, seed)
    twins = apply(spec, random_element(spec, seed, (4,)), values)
    found, of_twins = canonical(spec, values), canonical(spec, twins)
    np.testing.assert_allclose(found.values, of_twins.values, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(apply(spec, found.element, values), found.values, rtol=1e-6)
    assert not np.allclose(found.values[0], found.values[1])


@ALL
def test_canonical_forms_are_their_own_and_compute_the_same(name):
    spec = network_of(name).spec
    values = members_of(spec, 2).astype(np.float32)
    found = canonical(spec, values).values
    assert found.dtype == np.float32
    np.testing.assert_allclose(canonical(spec, found).values, found, rtol=1e-5, atol=1e-6)
    before, after = logits_of(name, values), logits_of(name, found)
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-4 * np.abs(before).max())


@ALL
@SEEDS
def test_forms_in_place_take_scales_and_signs_alone_away(name, seed):
    spec = network_of(name).spec
    values = members_of(spec, 3, seed)
    factors = random_element(spec, seed, (3,)).factors
    twins = apply(spec, Element({}, factors), values)

    def form(members):
        return with_fixed_signs(spec, balanced(spec, members))

    found = form(values)
    np.testing.assert_allclose(form(twins), found, rtol=2e-3, atol=1e-4)
    np.testing.assert_allclose(form(found), found, rtol=2e-3, atol=1e-4)
    before = logits_of(name, values)
    np.testing.assert_allclose(
        logits_of(name, found), before, rtol=1e-3, atol=1e-3 * np.abs(before).max()
    )
    permuted = Element(random_element(spec, seed, (3,)).permutations, {})
    np.testing.assert_allclose(
        form(apply(spec, permuted, values)), apply(spec, permuted, found), rtol=2e-3, atol=1e-4
    )


def test_canonical_units_have_unit_norm_descend_and_are_positive():
    relu, tanh = network_of("mlp").spec, network_of("mlp-tanh").spec
    parts = relu.unflatten(canonical(relu, members_of(relu, 3)).values)
    for layer in ("hidden0", "hidden1"):
        weight, bias = parts[f"{layer}.weight"], parts[f"{layer}.bias"]
        np.testing.assert_allclose(np.square(weight).sum(-1) + bias**2, 1)
    parts = tanh.unflatten(canonical(tanh, members_of(tanh, 3)).values)
    incoming = np.concatenate([parts["hidden2.weight"], parts["hidden2.bias"][..., None]], axis=-1)
    outgoing = parts["output.weight"]
    energy = np.square(incoming).sum(-1) + np.square(outgoing).sum(-2)
    assert (np.diff(energy, axis=-1) < 0).all()
    assert (incoming.max(-1) >= -incoming.min(-1)).all()


def test_a_dead_unit_keeps_its_scale():
    spec = network_of("mlp").spec
    parts = spec.unflatten(members_of(spec, 1))
    parts["hidden0.weight"][:, 2], parts["hidden0.bias"][:, 2] = 0, 0
    values = spec.flatten(parts)
    found = canonical(spec, values)
    assert np.isfinite(found.values).all()
    np.testing.assert_allclose(logits_of("mlp", found.values), logits_of("mlp", values), atol=1e-4)
