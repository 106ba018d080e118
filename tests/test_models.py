"""Models on weights: the layer is complete and irredundant, models respect the symmetry."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from zoogen.errors import ConfigError
from zoogen.models import (
    STACKS,
    Stack,
    entry_orbits,
    fit_standard,
    mean_of_networks,
    model,
    network_model,
    parameter_model,
    permutable_terminals,
    standardise,
)
from zoogen.models.leaves import fold, leaves_of, unfold
from zoogen.models.linear import equivariant_linear
from zoogen.params import Axis, ParamSpec, nested_order
from zoogen.symmetry import apply, random_element


# ----------------------------------------------------------------------------------------- specs
def mlp(*sizes, bias=True):
    axes, incoming = {}, Axis(sizes[0])
    for i, size in enumerate(sizes[1:]):
        units = Axis(size, f"hidden{i}" if i < len(sizes) - 2 else None)
        axes[f"layer{i}.weight"] = (units, incoming)
        if bias:
            axes[f"layer{i}.bias"] = (units,)
        incoming = units
    return ParamSpec.build(axes)


def cnn(width, inputs=1, kernel=2, classes=2):
    first, second, position = Axis(width, "conv0"), Axis(width, "conv1"), Axis(kernel)
    return ParamSpec.build(
        {
            "conv0.weight": (first, Axis(inputs), position, position), "conv0.bias": (first,),
            "conv1.weight": (second, first, position, position), "conv1.bias": (second,),
            "output.weight": (Axis(classes), second), "output.bias": (Axis(classes),),
        }
    )  # fmt: skip


def flattened(width):
    """A dense layer behind maps of six positions."""
    maps, units = Axis(width, "conv"), Axis(width, "hidden")
    return ParamSpec.build(
        {
            "conv.weight": (maps, Axis(1), Axis(2)),
            "hidden.weight": (units, Axis(6 * width, "conv", block=6)), "hidden.bias": (units,),
        }
    )  # fmt: skip


def residual(width):
    """A stream that several parameters share, with a norm on it."""
    stream, hidden = Axis(width, "stream"), Axis(width, "hidden")
    return ParamSpec.build(
        {
            "stem.weight": (stream, Axis(2)), "norm.scale": (stream,), "norm.shift": (stream,),
            "up.weight": (hidden, stream), "up.bias": (hidden,), "down.weight": (stream, hidden),
            "output.weight": (Axis(2), stream),
        }
    )  # fmt: skip


def recurrent(width):
    """One parameter bears the same group twice."""
    state = Axis(width, "state")
    return ParamSpec.build(
        {"input.weight": (state, Axis(2)), "state.weight": (state, state), "bias": (state,)}
    )


def attention(heads, share, stream, temperature=True):
    """Heads that own dimensions of keys and values, between a stream and itself."""
    units, keys = Axis(stream, "stream"), Axis(heads * share, "keys")
    values = Axis(heads * share, "values")
    axes = {
        "query.weight": (keys, units), "query.bias": (keys,), "key.weight": (keys, units),
        "value.weight": (values, units), "value.bias": (values,), "out.weight": (units, values),
    }  # fmt: skip
    if temperature:
        axes["temperature"] = (Axis(heads, "heads"),)
    parents = {"keys": ("heads", heads), "values": ("heads", heads)}
    return ParamSpec.build(axes, parents=parents)


def nested_twice(heads, share):
    keys = Axis(heads * share, "keys")
    return ParamSpec.build({"form": (keys, keys)}, parents={"keys": ("heads", heads)})


SPECS = {
    "cnn": cnn(2), "flattened": flattened(2), "residual": residual(2), "recurrent": recurrent(4),
    "attention": attention(2, 2, 2), "attention-3": attention(3, 2, 2, temperature=False),
    "nested-twice": nested_twice(4, 4), "one-unit": mlp(2, 1, 3, 1, 2),
    "one-head": attention(1, 3, 2), "one-dimension": attention(3, 1, 2), "no-bias": mlp(2, 3, 2),
    "permutable": permutable_terminals(mlp(2, 3, 3, 2)),
    **{f"mlp-{depth}-{outputs}": mlp(2, *[2] * (depth - 1), outputs)
       for depth, outputs in product(range(2, 7), (1, 2, 3))},
}  # fmt: skip


# -------------------------------------------------------------------------------------- counting
def generators(spec):
    """Adjacent transpositions that generate the group, as orders of units."""
    for group in spec.groups.values():
        families = 1 if group.parent is None else spec.groups[group.parent].size
        share = group.size // families
        for family, unit in product(range(families), range(share - 1)):
            order = np.arange(group.size)
            place = family * share + unit
            order[[place, place + 1]] = place + 1, place
            orders = {group.name: order}
            for child in spec.groups.values():
                if child.parent == group.name:
                    inside = np.tile(np.arange(child.size // group.size), (group.size, 1))
                    orders[child.name] = nested_order(order, inside)
            yield orders


def orbits(spec, pairs):
    """Number of the orbit of every entry, or of every pair of entries, under the group."""
    entries = np.arange(spec.size)
    moves = [spec.permute(entries, order) for order in generators(spec)]
    if pairs:
        moves = [(move[:, None] * spec.size + move).reshape(-1) for move in moves]
    nodes = np.arange(spec.size ** (2 if pairs else 1))
    start, end = np.tile(nodes, len(moves)), np.concatenate([nodes[:0], *moves])
    edges = coo_array((np.ones(len(start)), (start, end)), (len(nodes), len(nodes)))
    return connected_components(edges)[1]


@lru_cache
def one_channel(spec):
    """The layer with one channel, and its number of weights and of biases."""
    leaves = leaves_of(spec)
    entries = {leaf.name: leaf.fixed for leaf in leaves}
    layer = equivariant_linear(leaves, entries, entries)
    weights = layer.init(jax.random.key(0))
    return leaves, layer, sum(m.size for m in weights.matrices), weights.bias.size


def jacobians(spec):
    """Layer weights → entries of its linear map [p·p, n], and biases → its constant [p, n]."""
    leaves, layer, *_ = one_channel(spec)
    zero = jax.tree.map(lambda x: jnp.zeros(x.shape), layer.init(jax.random.key(0)))
    flat, restore = ravel_pytree(zero.matrices)

    def linear(weights, x):
        out = layer.apply(zero._replace(matrices=weights), fold(spec, leaves, x[..., None]))
        return unfold(leaves, out)[..., 0]

    def constant(bias):
        features = fold(spec, leaves, jnp.zeros((1, spec.size, 1)))
        return unfold(leaves, layer.apply(zero._replace(bias=bias), features)).reshape(-1)

    maps = jax.jit(jax.vmap(lambda row: linear(restore(row), jnp.eye(spec.size))))
    of_weights = maps(jnp.eye(flat.size)).reshape(flat.size, -1)
    of_bias = jax.jit(jax.vmap(constant))(jnp.eye(zero.bias.size))
    return np.asarray(of_weights), np.asarray(of_bias)


@pytest.mark.parametrize("name", SPECS)
def test_layers_are_complete_and_no_weight_is_redundant(name):
    spec = SPECS[name]
    *_, weights, biases = one_channel(spec)
    with jax.enable_x64(True):
        of_weights, of_bias = jacobians(spec)
    assert of_weights.dtype == np.float64
    assert len(np.unique(orbits(spec, pairs=True))) == weights
    assert np.linalg.matrix_rank(of_weights) == weights
    assert len(np.unique(orbits(spec, pairs=False))) == biases
    assert np.linalg.matrix_rank(of_bias) == biases


def published(depth, a, b):
    """Weights of a layer between MLPs whose inputs and outputs are fixed."""
    if depth == 2:
        return 2 * a**2 + 5 * b**2 + 6 * a * b + 4 * a + 6 * b + 2
    linear = 4 * depth**2 - 2 * depth - 12 + a * (4 * depth - 2) + b * (8 * depth - 8)
    return linear + 2 * a**2 + 5 * b**2 + 4 * a * b


@pytest.mark.parametrize(("depth", "outputs"), list(product(range(2, 7), (1, 2, 3))))
def test_counts_for_multilayer_perceptrons_in_closed_form(depth, outputs):
    spec = mlp(2, *[5] * (depth - 1), outputs)
    *_, weights, biases = one_channel(spec)
    assert (weights, biases) == (published(depth, 2, outputs), 2 + 2 * outputs + 2 * depth - 3)
    if outputs > 1:
        *_, weights, biases = one_channel(permutable_terminals(spec))
        assert (weights, biases) == (4 * depth**2 + 10 * depth - 4, 2 * depth)


@pytest.mark.parametrize(
    ("spec", "weights"),
    [
        (mlp(2, 32, 32, 1), 75),
        (mlp(2, 32, 32, 32, 1), 117),
        (mlp(2, 32, 32, 3), 163),
        (mlp(784, 128, 128, 10), 1_269_190),
        (recurrent(8), 3**2 * 2 + 2 * 3 * 5 + 15),  # partitions of 2, 3 and 4 axes
    ],
)
def test_known_counts(spec, weights):
    leaves = leaves_of(spec)
    entries = {leaf.name: leaf.fixed for leaf in leaves}
    layer = equivariant_linear(leaves, entries, entries)
    shapes = jax.eval_shape(layer.init, jax.random.key(0))
    assert sum(matrix.size for matrix in shapes.matrices) == weights


@pytest.mark.slow
def test_a_wrong_spec_has_other_orbits_and_is_not_equivariant():
    spec = residual(3)
    axes = {p.name: p.axes for p in spec.parameters}
    axes["down.weight"] = (Axis(3, "hidden"), Axis(3, "stream"))  # as if it were transposed
    wrong = ParamSpec.build(axes)
    assert errors(parameter_model(wrong, SMALL), spec, equivariant=True) > 1e-2
    assert errors(network_model(wrong, 2, SMALL), spec, equivariant=False) > 1e-2
    assert spread_in_orbits(spec, spec) < 1e-6
    assert spread_in_orbits(wrong, spec) > 0.1


def spread_in_orbits(layer_of, spec):
    """How far maps of one spec's layer are from constant on another spec's orbits of pairs."""
    maps, orbit = jacobians(layer_of)[0], orbits(spec, pairs=True)
    means = np.stack([np.bincount(orbit, entries) / np.bincount(orbit) for entries in maps])
    return np.abs(maps - means[:, orbit]).max()


# ---------------------------------------------------------------------------------------- models
SMALL = Stack(channels=4, depth=2)
STACKS_HERE = {
    **{name: replace(stack, channels=4, depth=2) for name, stack in STACKS.items()},
    "ranks": replace(SMALL, terminal_rank=1, position_rank=2, residual=True),
}
MODEL_SPECS = {
    "mlp": mlp(3, 8, 8, 2), "cnn": cnn(5, inputs=3, kernel=3), "flattened": flattened(4),
    "residual": residual(6), "recurrent": recurrent(6), "attention": attention(3, 4, 6),
    "one-unit": mlp(2, 1, 1, 1), "one-head": attention(1, 3, 2),
}  # fmt: skip
MODELS = [
    *[(name, stack, kind) for name in MODEL_SPECS for stack, kind in (("dws", "network"),
      ("universal", "parameter"))],
    *[("mlp", stack, kind) for stack in STACKS_HERE for kind in ("network", "parameter")],
    *[("cnn", "ranks", kind) for kind in ("network", "parameter", "several")],
    ("flattened", "ranks", "parameter"),
]  # fmt: skip
EVERY = pytest.mark.parametrize(("name", "stack", "kind"), list(dict.fromkeys(MODELS)))


def built(name, stack, kind):
    spec, stack = MODEL_SPECS[name], STACKS_HERE[stack]
    if kind == "network":
        return network_model(spec, 3, stack, hidden=16)
    several = 2 if kind == "several" else 1
    return parameter_model(spec, stack, channels=several, networks=several)


def members(spec, count, seed=0):
    return np.random.default_rng(seed).normal(size=(count, spec.size))


def errors(weight_model, spec, equivariant, count=20):
    """Largest relative error over random elements, in JAX's default precision."""
    params = weight_model.init(jax.random.key(0))
    dtype = jnp.result_type(float)
    weights = members(spec, count).astype(dtype)
    element = random_element(spec, 1, (count,))
    run = jax.jit(weight_model.apply)
    before, after = (np.asarray(run(params, w)) for w in (weights, apply(spec, element, weights)))
    assert before.dtype == dtype
    if equivariant:
        entries = np.broadcast_to(np.arange(spec.size), (count, spec.size))
        order = apply(spec, element, entries)
        while order.ndim < before.ndim:
            order = order[..., None] if before.ndim == 3 else order[:, None, :, None]
        before = np.take_along_axis(before, order, axis=-2 if before.ndim > 2 else -1)
    return np.abs(after - before).max() / np.abs(before).max()


@EVERY
def test_models_respect_the_symmetry(name, stack, kind):
    found = errors(built(name, stack, kind), MODEL_SPECS[name], kind != "network")
    assert found <= 1e-6


@pytest.mark.parametrize(
    ("name", "stack", "kind"),
    [(name, "dws", kind) for name in ("mlp", "recurrent", "attention", "flattened")
     for kind in ("network", "parameter")],
)  # fmt: skip
def test_models_respect_the_symmetry_in_double_precision(name, stack, kind):
    with jax.enable_x64(True):
        found = errors(built(name, stack, kind), MODEL_SPECS[name], kind != "network")
    assert found <= 1e-10


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "stack", "kind"),
    [
        ("mlp", "dws", "network"),
        ("cnn", "ranks", "several"),
        ("recurrent", "universal", "parameter"),
        ("attention", "dws", "network"),
        ("one-unit", "dws", "network"),
        ("one-unit", "universal", "parameter"),
    ],
)
def test_models_compile_once_and_have_finite_gradients(name, stack, kind):
    spec, weight_model = MODEL_SPECS[name], built(name, stack, kind)
    params, traces = weight_model.init(jax.random.key(0)), []

    def loss(params, weights):
        traces.append(1)
        outputs = weight_model.apply(params, weights)
        return jnp.square(outputs).mean(), outputs

    weights = jnp.asarray(members(spec, 4), jnp.float32)
    step = jax.jit(jax.grad(loss, has_aux=True))
    for scale in (1e4, 0, 1):  # zero: norms and deviations of constant tensors
        gradient, outputs = step(params, scale * weights)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((gradient, outputs)))
    assert len(traces) == 1
    alone = weight_model.apply(params, weights)  # not compiled as a whole
    np.testing.assert_allclose(outputs, alone, rtol=1e-4, atol=1e-5 * np.abs(alone).max())


@pytest.mark.slow
def test_every_weight_gets_a_gradient():
    for weight_model in (
        network_model(mlp(3, 4, 2), 2, SMALL),
        parameter_model(mlp(3, 4, 2), SMALL),
    ):
        params = weight_model.init(jax.random.key(0))
        weights = jnp.asarray(members(mlp(3, 4, 2), 16), jnp.float32)
        loss = lambda p, w=weights, m=weight_model: jnp.square(m.apply(p, w) - 1).sum()  # noqa: E731
        gradient = jax.jit(jax.grad(loss))(params)
        assert all(np.abs(leaf).max() > 0 for leaf in jax.tree.leaves(gradient))


@pytest.mark.slow
def test_outputs_are_the_same_in_chunks(monkeypatch):
    spec = MODEL_SPECS["cnn"]
    weights = jnp.asarray(members(spec, 12), jnp.float32)
    results = []
    for size in (1, 2**30):  # one member at a time, or the whole batch
        monkeypatch.setattr(model, "REUSED_BYTES", size)
        monkeypatch.setattr(model, "CHUNK_BYTES", size)
        weight_model = network_model(spec, 2, SMALL)
        params = weight_model.init(jax.random.key(0))
        loss = lambda p, m=weight_model: jnp.square(m.apply(p, weights)).sum()  # noqa: E731
        results.append(jax.jit(jax.value_and_grad(loss))(params))
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, rtol=2e-4, atol=2e-5), *results)


@pytest.mark.parametrize("name", MODEL_SPECS)
def test_unfold_undoes_fold(name):
    spec = MODEL_SPECS[name]
    weights = jnp.asarray(members(spec, 2), jnp.float32).reshape(2, spec.size, 1)
    channels = jnp.concatenate([weights, -weights], axis=-1)
    leaves = leaves_of(spec)
    assert np.array_equal(unfold(leaves, fold(spec, leaves, channels)), channels)


def test_wide_inputs_are_read_through_a_projection():
    spec = mlp(784, 16, 10)
    complete, narrow = (
        jax.eval_shape(network_model(spec, 1, replace(SMALL, terminal_rank=rank)).init,
                       jax.random.key(0))
        for rank in (None, 4)
    )  # fmt: skip
    size = lambda tree: sum(leaf.size for leaf in jax.tree.leaves(tree))  # noqa: E731
    assert size(narrow) < size(complete) / 100


def test_several_networks_are_averaged_as_functions():
    weights = jnp.asarray(members(mlp(2, 3), 4), jnp.float32)
    function = lambda weights, x: jnp.tanh(weights * x)  # noqa: E731
    found = mean_of_networks(function)(weights, 2.0)
    np.testing.assert_allclose(found, np.tanh(2 * weights).mean(axis=0), atol=1e-6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"channels": 0}, "channels: expected at least 1, found 0"),
        ({"terminal_rank": 0}, "terminal_rank: expected at least 1, found 0"),
        ({"terminals": "free"}, "terminals: expected one of fixed, permutable, found 'free'"),
        ({"activation": "step"}, "activation: expected one of relu"),
    ],
)
def test_impossible_stacks_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        Stack(**options)


@pytest.mark.parametrize("shape", [(4, 12), (4, 13, 2), (52,)])
def test_weights_of_another_shape_are_refused(shape):
    weight_model = network_model(mlp(2, 3, 1), 1, SMALL)
    params = weight_model.init(jax.random.key(0))
    with pytest.raises(ConfigError, match=r"expected \('b', 13\), found"):
        weight_model.apply(params, jnp.zeros(shape))


def test_several_input_channels_are_read():
    spec = mlp(2, 3, 1)
    weight_model = parameter_model(spec, replace(SMALL, input_channels=2))
    params = weight_model.init(jax.random.key(0))
    weights = jnp.asarray(np.random.default_rng(0).normal(size=(4, 13, 2)), jnp.float32)
    outputs = [weight_model.apply(params, w) for w in (weights, weights[..., ::-1])]
    assert outputs[0].shape == (4, 13)
    assert not np.allclose(*outputs)


@pytest.mark.parametrize("poolings", [(), ("median",)])
def test_unknown_poolings_are_refused(poolings):
    with pytest.raises(ConfigError, match=r"poolings: expected some of"):
        network_model(mlp(2, 3, 1), 1, poolings=poolings)


# ------------------------------------------------------------------------------------- standard
@pytest.mark.parametrize("name", SPECS)
def test_orbits_of_entries_are_those_of_the_group(name):
    spec = SPECS[name]
    found, expected = entry_orbits(spec), orbits(spec, pairs=False)
    assert len(set(zip(found, expected, strict=True))) == len(set(found)) == len(set(expected))


@pytest.mark.parametrize("name", MODEL_SPECS)
def test_the_standard_scale_is_standard_and_commutes_with_the_symmetry(name):
    spec = MODEL_SPECS[name]
    rng = np.random.default_rng(0)
    shift = rng.normal(size=spec.size)[entry_orbits(spec)]
    weights = 3 * members(spec, 50) + shift
    standard = fit_standard(spec, weights)
    scaled = standardise(standard, weights)
    for orbit in range(entry_orbits(spec).max() + 1):
        entries = scaled[:, entry_orbits(spec) == orbit]
        np.testing.assert_allclose([entries.mean(), entries.std()], [0, 1], atol=1e-9)
    element = random_element(spec, 0, (50,))
    moved = standardise(standard, apply(spec, element, weights))
    np.testing.assert_allclose(moved, apply(spec, element, scaled), atol=1e-12)


def test_constant_orbits_stay_finite():
    standard = fit_standard(mlp(2, 3, 1), np.ones((4, 13), np.float32))
    assert np.array_equal(standardise(standard, np.ones((1, 13), np.float32)), np.zeros((1, 13)))


@pytest.mark.parametrize("weights", [np.ones((0, 13)), np.full((2, 13), np.nan)])
def test_standards_of_diverged_or_no_members_are_refused(weights):
    with pytest.raises(ConfigError, match=r"leave diverged members out"):
        fit_standard(mlp(2, 3, 1), weights)
