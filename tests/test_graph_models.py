"""Models of graphs: graphs hold every weight once; order, neighbours and padding are unseen."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.models import (
    GraphStack,
    fit_graph_standard,
    frame_of,
    graph_model,
    graph_model_of,
    graph_of,
    standardise_graphs,
    unite,
)
from zoogen.networks import build_network
from zoogen.params import Axis, ParamSpec
from zoogen.symmetry import apply, random_element


def family(name, width, activation="gelu", classes=3, **more):
    config = NetworkConfig(family=name, width=width, activation=activation, **more)
    side = 20 if name == "lenet" else 8
    return build_network(config, (1, side, side) if name != "mlp" else (1, 1, 2), classes).spec


def residual(width):
    """A stream that several parameters share, two of them in parallel, with a norm on it."""
    stream, hidden = Axis(width, "stream"), Axis(width, "hidden")
    return ParamSpec.build(
        {
            "stem.weight": (stream, Axis(2)), "norm.scale": (stream,), "norm.shift": (stream,),
            "up.weight": (hidden, stream), "gate.weight": (hidden, stream), "up.bias": (hidden,),
            "down.weight": (stream, hidden), "output.weight": (Axis(2), stream),
        }
    )  # fmt: skip


def recurrent(width):
    state = Axis(width, "state")
    return ParamSpec.build(
        {"input.weight": (state, Axis(2)), "state.weight": (state, state), "bias": (state,)}
    )


def attention(heads, share):
    units, keys = Axis(3, "stream"), Axis(heads * share, "keys")
    axes = {"query.weight": (keys, units), "key.weight": (keys, units), "key.bias": (keys,),
            "temperature": (Axis(heads, "heads"),)}  # fmt: skip
    return ParamSpec.build(axes, parents={"keys": ("heads", heads)})


SPECS = {
    "mlp": family("mlp", 5), "deep": family("mlp", 4, depth=4), "cnn": family("cnn", 4, depth=2),
    "resnet": family("resnet", 4, depth=1), "vit": family("vit", 4, depth=1),
    "lenet": family("lenet", 4), "residual": residual(4), "recurrent": recurrent(4),
    "attention": attention(3, 2), "one unit": family("mlp", 1),
}  # fmt: skip
ORDERS = ("together", "forward")
FRAME = frame_of(SPECS.values())


def model_of(order="together", messages="mean", frame=FRAME):
    model = graph_model(frame, 2, GraphStack(8, 2, order, messages), hidden=16)
    return model, model.init(jax.random.key(0))


def weights_of(spec, members, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((members, spec.size)).astype(dtype)


def outputs(model, params, members, **options):
    return np.asarray(jax.jit(model.apply)(params, unite(FRAME, members, **options)))


def relative(difference, reference):
    return np.abs(difference).max() / np.abs(reference).max()


# ------------------------------------------------------------------------------ graphs and batches
@pytest.mark.parametrize("name", SPECS)
def test_every_number_of_a_network_stands_in_its_graph_once(name):
    graph = graph_of(SPECS[name])
    places = [block.entries.reshape(-1) for block in graph.blocks]
    places.append(graph.values[graph.values >= 0])
    assert sorted(np.concatenate(places)) == list(range(SPECS[name].size))


@pytest.mark.parametrize("name", SPECS)
def test_a_batch_holds_all_weights_and_edges_join_nodes_of_one_member(name):
    spec, values = SPECS[name], weights_of(SPECS[name], 3)
    batch = unite(FRAME, [(SPECS["mlp"], weights_of(SPECS["mlp"], 2)), (spec, values)])
    numbers = np.concatenate([batch.edge_values[batch.edge_known],
                              batch.node_values[batch.node_known]])  # fmt: skip
    expected = np.concatenate([weights_of(SPECS["mlp"], 2).reshape(-1), values.reshape(-1)])
    np.testing.assert_array_equal(np.sort(numbers), np.sort(expected))
    member = batch.set_slot[batch.node_set] // 3
    np.testing.assert_array_equal(member[batch.source], batch.edge_member)
    np.testing.assert_array_equal(member[batch.target], batch.edge_member)
    assert batch.members == 5
    assert sum(batch.steps) == len(batch.source)
    shares = np.bincount(batch.edge_member, batch.edge_share)
    np.testing.assert_allclose(shares[:5], 1, rtol=1e-6)
    assert (batch.edge_share[batch.edge_member == 5] == 0).all()


def test_small_kernels_lie_in_the_middle_of_large_ones():
    small, large = (
        family("cnn", 2, depth=1),
        ParamSpec.build({"weight": (Axis(2, "maps"), Axis(1), Axis(5), Axis(5))}),
    )
    frame = frame_of([small, large])
    kernel, dense = graph_of(small).blocks
    assert frame.places(kernel).tolist() == [6, 7, 8, 11, 12, 13, 16, 17, 18]
    assert frame.places(dense).tolist() == [12]


def test_few_shapes_serve_a_phase_zoo():
    """Sixty random batches of members of eight widths, as in the digits zoo."""
    widths = (3, 4, 6, 8, 12, 16, 24, 48)
    specs = [family("mlp", width) for width in widths]
    frame, found = frame_of(specs), set()
    for seed in range(60):
        counts = np.random.default_rng(seed).multinomial(64, np.full(8, 1 / 8))
        members = [(s, np.zeros((n, s.size))) for s, n in zip(specs, counts, strict=True) if n]
        batch = unite(frame, members)
        found.add((batch.steps, len(batch.node_set), len(batch.set_slot)))
    assert len(found) <= 12


# ----------------------------------------------------------------------------------------- symmetry
@pytest.mark.parametrize("x64", [False, True])
@pytest.mark.parametrize(("name", "order"), list(product(SPECS, ORDERS)))
def test_the_order_of_units_is_unseen(name, order, x64):
    spec = SPECS[name]
    with jax.enable_x64(x64):
        model, params = model_of(order)
        values = weights_of(spec, 1, dtype=np.float64 if x64 else np.float32)
        moved = [spec.permute(values, spec.random_permutation(seed)) for seed in range(20)]
        found = outputs(model, params, [(spec, np.concatenate([values, *moved]))])
    assert found.dtype == (np.float64 if x64 else np.float32)
    assert relative(found[1:] - found[0], found[0]) <= (1e-10 if x64 else 1e-6)


@pytest.mark.parametrize("order", ORDERS)
def test_what_is_no_symmetry_is_seen(order):
    """Inputs and outputs are known, heads and parallel parameters told apart."""
    model, params = model_of(order)
    mlp, heads, stream = SPECS["mlp"], SPECS["attention"], SPECS["residual"]
    values = {spec: weights_of(spec, 1) for spec in (mlp, heads, stream)}
    parts = {spec: spec.unflatten(values[spec]) for spec in values}
    across = heads.flatten({
        name: part[:, [2, 1, 0, 3, 4, 5]] if part.shape[1] == 6 else part
        for name, part in parts[heads].items()
    })  # fmt: skip
    exchanged = {**parts[stream], "up.weight": parts[stream]["gate.weight"],
                 "gate.weight": parts[stream]["up.weight"]}  # fmt: skip
    inputs = {**parts[mlp], "hidden0.weight": parts[mlp]["hidden0.weight"][..., ::-1]}
    cases = [(mlp, mlp.flatten(inputs)), (heads, across), (stream, stream.flatten(exchanged))]
    for spec, changed in cases:
        found = outputs(model, params, [(spec, np.concatenate([values[spec], changed]))])
        assert relative(found[1] - found[0], found[0]) > 1e-4  # rounding: 1e-6


@pytest.mark.parametrize(("activation", "order"), list(product(("relu", "tanh"), ORDERS)))
def test_one_scale_hides_scales_and_signs(activation, order):
    spec = family("mlp", 6, activation)
    model, params = model_of(order)
    values = weights_of(spec, 1)
    moved = apply(spec, random_element(spec, 0, (20,)), values[0])
    members = [(spec, np.concatenate([values, moved]))]
    found = outputs(model, params, members, one_scale=True)
    assert relative(found[1:] - found[0], found[0]) <= 1e-6
    plain = outputs(model, params, members)
    assert relative(plain[1:] - plain[0], plain[0]) > 1e-3


# ------------------------------------------------------------------------- padding and neighbours
@pytest.mark.parametrize("order", ORDERS)
def test_members_do_not_see_each_other_or_padding(order):
    model, params = model_of(order)
    members = [(spec, weights_of(spec, 2, seed)) for seed, spec in enumerate(SPECS.values())]
    together = outputs(model, params, members)
    exact = outputs(model, params, members, pad=False)
    alone = np.concatenate([outputs(model, params, [one]) for one in members])
    assert relative(together - exact, exact) <= 1e-6
    assert relative(together - alone, alone) <= 1e-6


@pytest.mark.parametrize("order", ORDERS)
def test_gradients_are_finite_and_one_program_serves_batches_of_one_shape(order):
    model, params = model_of(order)
    loss = jax.jit(jax.value_and_grad(lambda p, b: jnp.square(model.apply(p, b)).sum()))
    batches = [unite(FRAME, [(s, weights_of(s, 2, seed)) for s in SPECS.values()])
               for seed in range(2)]  # fmt: skip
    for batch in batches:
        value, gradient = loss(params, batch)
        assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
        plain = jnp.square(model.apply(params, batch)).sum()
        np.testing.assert_allclose(value, plain, rtol=1e-5)
    assert loss._cache_size() == 1


@pytest.mark.parametrize(("order", "messages"), list(product(ORDERS, ("mean", "sum"))))
def test_blocks_give_what_lists_give(order, messages):
    """In float64, with the same params; kernels, parallel parameters, loops, owners."""
    specs = [SPECS[name] for name in ("cnn", "residual", "recurrent", "attention")]
    stack = GraphStack(4, 1, order, messages)
    with jax.enable_x64(True):
        model = graph_model(FRAME, 2, stack, 16)
        params = model.init(jax.random.key(0))
        members = [(spec, weights_of(spec, 2, dtype=np.float64)) for spec in specs]
        by_lists = outputs(model, params, members)
        models = [graph_model_of(spec, 2, stack, 16, FRAME) for spec in specs]
        parts = jax.jit(lambda p, x: [m.apply(p, w) for m, w in zip(models, x, strict=True)])
        by_blocks = np.concatenate(parts(params, [values for _, values in members]))
        assert relative(by_blocks - by_lists, by_lists) <= 1e-12


def test_flat_weights_of_one_spec_may_be_traced():
    spec = SPECS["cnn"]
    flat = graph_model_of(spec, 2, GraphStack(8, 2), 16, FRAME)
    slope = jax.grad(lambda x: flat.apply(model_of()[1], x).sum())(weights_of(spec, 3))
    assert (np.abs(slope).max(axis=0) > 0).mean() > 0.9


# --------------------------------------------------------------------------------- width and scale
def widened(spec, wide, values, copies):
    """Every hidden unit ``copies`` times, its outgoing weights shared out: the same function."""
    parts = {}
    for name, part in spec.unflatten(values).items():
        for place, axis in enumerate(spec[name].axes, start=1):
            if axis.group is not None:
                part = part.repeat(copies, axis=place) / (copies if place > 1 else 1)
        parts[name] = part
    return wide.flatten(parts)


@pytest.mark.parametrize(("name", "order"), list(product(("mlp", "cnn"), ORDERS)))
def test_means_do_not_see_a_widening_that_keeps_the_function(name, order):
    spec, wide = family(name, 3, depth=2), family(name, 12, depth=2)
    values = weights_of(spec, 2, dtype=np.float64)
    with jax.enable_x64(True):
        both = [(spec, values), (wide, widened(spec, wide, values, 4))]
        for messages, unseen in (("mean", True), ("sum", False)):
            found = outputs(*model_of(order, messages), both)
            difference = relative(found[:2] - found[2:], found)
            assert difference <= 1e-10 if unseen else difference > 1e-3


def test_standard_scale_of_roles():
    members = [(spec, weights_of(spec, 4)) for spec in (SPECS["mlp"], SPECS["deep"])]
    for messages in ("mean", "sum"):
        batch = unite(FRAME, members)
        scaled = standardise_graphs(fit_graph_standard(batch, messages), batch)
        again = fit_graph_standard(scaled, messages)
        np.testing.assert_allclose(np.concatenate(again), 1, rtol=1e-5)


# ------------------------------------------------------------------------------------------- errors
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: unite(FRAME, []), "at least one member"),
        (lambda: frame_of([]), "at least one spec"),
        (lambda: unite(FRAME, [(SPECS["mlp"], np.zeros((2, 3)))]), r"expected flat weights \[m, "),
        (lambda: unite(FRAME, [(SPECS["mlp"], np.full((2, SPECS["mlp"].size), np.nan))]),
         "2 of 2 members are not finite"),
        (lambda: unite(frame_of([SPECS["mlp"]]), [(SPECS["cnn"], np.zeros((1, 1)))]),
         "members from 0 on, spec 0: needs kernel"),
        (lambda: unite(FRAME, [(SPECS["mlp"], np.zeros((3, SPECS["mlp"].size))),
                               (ParamSpec.build({"w": (Axis(2),)}), np.zeros((1, 2)))]),
         "members from 3 on, spec 1: graph: expected a parameter of two axes"),
        (lambda: unite(FRAME, [(SPECS["attention"], np.zeros((1, SPECS["attention"].size)))],
                       one_scale=True), "spec 0: canonical form: expected groups of freely"),
        (lambda: graph_of(ParamSpec.build({"w": (Axis(2), Axis(2)), "s": ()})),
         "parameter 's': expected an axis"),
        (lambda: graph_of(ParamSpec.build({"w": (Axis(2), Axis(2), Axis(3, "third"))})),
         "an edge has two ends"),
        (lambda: graph_of(ParamSpec.build({"b": (Axis(2),)})), "a parameter of two axes"),
        (lambda: GraphStack(channels=0), "channels: expected at least 1"),
        (lambda: GraphStack(order="backward"), "order: expected one of"),
    ],
)  # fmt: skip
def test_errors_say_what_was_found(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
