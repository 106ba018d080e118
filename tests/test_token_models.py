"""Token models: tokens hold every weight, units in any order are the same, conditions are seen."""

from __future__ import annotations

from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.errors import ConfigError
from zoogen.models import (
    TokenStack,
    detokenise,
    token_model,
    token_parameter_model,
    tokenise,
    tokens_of,
)
from zoogen.params import Axis, ParamSpec


def mlp(*sizes):
    axes, incoming = {}, Axis(sizes[0])
    for i, size in enumerate(sizes[1:]):
        units = Axis(size, f"hidden{i}" if i < len(sizes) - 2 else None)
        axes |= {f"layer{i}.weight": (units, incoming), f"layer{i}.bias": (units,)}
        incoming = units
    return ParamSpec.build(axes)


def cnn(width):
    """Kernels, a scale of a norm, and a dense layer behind maps of four positions."""
    maps, units, side = Axis(width, "maps"), Axis(width, "units"), Axis(3)
    return ParamSpec.build(
        {
            "conv.weight": (maps, Axis(2), side, side), "norm.scale": (maps,),
            "dense.weight": (units, Axis(4 * width, "maps", block=4)), "dense.bias": (units,),
            "output.weight": (Axis(3), units),
        }
    )  # fmt: skip


def recurrent(width):
    state = Axis(width, "state")
    return ParamSpec.build(
        {"input.weight": (state, Axis(2)), "state.weight": (state, state), "bias": (state,)}
    )


def attention(heads, share):
    stream, keys = Axis(4, "stream"), Axis(heads * share, "keys")
    return ParamSpec.build(
        {"query": (keys, stream), "key": (keys, stream), "bias": (keys,),
         "temperature": (Axis(heads, "heads"),), "out": (Axis(2), stream)},
        parents={"keys": ("heads", heads)},
    )  # fmt: skip


SPECS = {
    "mlp": mlp(3, 5, 6, 2), "cnn": cnn(4), "recurrent": recurrent(4),
    "attention": attention(3, 2), "one unit": mlp(2, 1, 1, 1),
}  # fmt: skip
UNITS = TokenStack(channels=8, depth=2, heads=2, edge_channels=4)
PLAIN = TokenStack("plain", channels=8, depth=3, heads=2)


def weights_of(spec, members, seed=0, dtype=np.float32):
    return np.random.default_rng(seed).standard_normal((members, spec.size)).astype(dtype)


def relative(difference, reference):
    return np.abs(difference).max() / np.abs(reference).max()


# ------------------------------------------------------------------------------------------ tokens
@pytest.mark.parametrize(("name", "width", "outgoing"),
                         list(product(SPECS, (None, 1, 7), (False, True))))  # fmt: skip
def test_tokens_hold_every_number_once_and_are_inverted_exactly(name, width, outgoing):
    spec, values = SPECS[name], weights_of(SPECS[name], 3)
    tokens = tokens_of(spec, width, outgoing)
    rows = tokenise(tokens, values)
    assert rows.shape == (3, *tokens.index.shape)
    np.testing.assert_array_equal(detokenise(tokens, rows), values)
    np.testing.assert_array_equal(detokenise(tokens, tokenise(tokens, jnp.asarray(values))), values)
    assert sorted(tokens.index[tokens.owned]) == list(range(spec.size))
    assert (rows[:, tokens.index < 0] == 0).all()
    places = np.stack([tokens.layer, tokens.unit, tokens.part])
    assert len(np.unique(places, axis=1).T) == len(tokens.index)


def test_a_token_is_a_unit_with_all_that_it_owns():
    """A permutation of the last hidden units moves rows, of the first also columns."""
    spec = SPECS["mlp"]
    tokens, values = tokens_of(spec), weights_of(spec, 1)
    order = np.array([2, 0, 1, 5, 4, 3])
    rows, moved = (
        tokenise(tokens, v)[0] for v in (values, spec.permute(values, {"hidden1": order}))
    )
    hidden = tokens.sets.index("hidden1")
    np.testing.assert_array_equal(moved[tokens.layer == hidden],
                                  rows[tokens.layer == hidden][order])  # fmt: skip
    with_copies = tokens_of(spec, outgoing=True)
    parts = spec.unflatten(values)
    row = tokenise(with_copies, values)[0][with_copies.layer == 0][1]
    expected = [*parts["layer0.weight"][0, 1], parts["layer0.bias"][0, 1],
                *parts["layer1.weight"][0, :, 1]]  # fmt: skip
    np.testing.assert_array_equal(row[: len(expected)], expected)


# ------------------------------------------------------------------------------- plain and windows
def run(model, *inputs):
    """Outputs with random weights; drawing them in NumPy needs no program."""
    rng, shapes = np.random.default_rng(0), jax.eval_shape(model.init, jax.random.key(0))
    draw = lambda leaf: rng.standard_normal(leaf.shape) / np.sqrt(max(1, *leaf.shape[:-1], 1))  # noqa: E731
    params = jax.tree.map(lambda leaf: draw(leaf).astype(np.float32), shapes)
    return np.asarray(jax.jit(model.apply)(params, *inputs))


def test_plain_tokens_see_the_order_of_units():
    spec, values = SPECS["mlp"], weights_of(SPECS["mlp"], 1)
    both = np.concatenate([values, spec.permute(values, {"hidden1": np.array([2, 0, 1, 5, 4, 3])})])
    found = run(token_model(spec, 2, PLAIN), both)
    assert relative(found[1] - found[0], found) > 1e-2


@pytest.mark.parametrize("window", [1, 4, 5, 13, 100])
def test_what_a_token_says_depends_on_its_windows_alone(window):
    """Of 13 tokens, found by the gradient: three layers, the second one moved by half a window."""
    spec = SPECS["mlp"]
    tokens, stack = tokens_of(spec), TokenStack("plain", 8, 3, 2, window=window)
    model = token_parameter_model(spec, stack)
    params = model.init(jax.random.key(0))
    jacobian = jax.jit(jax.jacobian(lambda w: model.apply(params, w[None])[0]))
    slopes = np.abs(jacobian(weights_of(spec, 1)[0]))
    count = len(tokens.index)
    seen = np.zeros((count, count))
    owner = np.empty(spec.size, int)
    owner[tokens.index[tokens.owned]] = np.nonzero(tokens.owned)[0]
    np.add.at(seen, (owner[:, None], owner[None]), slopes)
    size = min(window, count)
    reach = np.eye(count)
    for shift in (0, size // 2, 0):
        place = (np.arange(count) + shift) // size
        reach = (place[:, None] == place) @ reach
    np.testing.assert_array_equal(seen > 0, reach > 0)


# ---------------------------------------------------------------------------------------- symmetry
@pytest.mark.parametrize("name", SPECS)
def test_units_move_with_their_parameters(name):
    """Twenty random orders of units; the table of all models has double precision and scales."""
    spec = SPECS[name]
    values = weights_of(spec, 1)[0]
    orders = [spec.random_permutation(seed) for seed in range(20)]
    moved = np.stack([values, *[spec.permute(values, order) for order in orders]])
    found = run(token_parameter_model(spec, UNITS), moved)
    expected = np.stack([spec.permute(found[0], order) for order in orders])
    assert relative(found[1:] - expected, found) <= 1e-6


# -------------------------------------------------------------------------------- what must be seen
@pytest.mark.slow
def test_what_is_no_symmetry_is_seen():
    """Inputs, the unit that reads itself, and heads are told apart."""
    changes = []
    for name, move in {
        "mlp": lambda parts: {"layer0.weight": parts["layer0.weight"][..., ::-1]},
        "recurrent": lambda parts: {"state.weight": parts["state.weight"][:, [1, 0, 2, 3]]},
        "attention": lambda parts: {
            key: parts[key][:, [2, 1, 0, 3, 4, 5]] for key in ("query", "key", "bias")
        },
    }.items():
        spec = SPECS[name]
        parts = spec.unflatten(weights_of(spec, 1))
        both = np.concatenate([spec.flatten(parts), spec.flatten(parts | move(parts))])
        found = run(token_model(spec, 2, UNITS), both)
        changes.append(relative(found[1] - found[0], found))
    assert min(changes) > 1e-3  # rounding: 1e-6


@pytest.mark.slow
@pytest.mark.parametrize("stack", [UNITS, PLAIN])
def test_conditions_are_unseen_at_first_and_learned(stack):
    spec = SPECS["cnn"]
    model = token_parameter_model(spec, stack, condition_size=3)
    apply, values = jax.jit(model.apply), weights_of(spec, 2)
    params = jax.jit(model.init)(jax.random.key(0))
    conditions = np.random.default_rng(0).standard_normal((2, 2, 3)).astype(np.float32)
    loss = jax.jit(jax.grad(lambda p, c: jnp.square(apply(p, values, c)).sum()))
    first, second = (apply(params, values, c) for c in conditions)
    np.testing.assert_array_equal(first, second)
    slope = loss(params, conditions[0])
    params = jax.tree.map(lambda p, s: p - 1e-3 * s / (1 + jnp.abs(s)), params, slope)
    first, second = (apply(params, values, c) for c in conditions)
    assert relative(first - second, first) > 1e-5


@pytest.mark.slow
def test_parameters_have_their_own_channels():
    spec = SPECS["cnn"]
    stack = TokenStack(channels=8, depth=2, heads=2, edge_channels=4, input_channels=2)
    values = np.stack([weights_of(spec, 3, seed) for seed in range(2)], axis=-1)
    for one in (stack, TokenStack("plain", 8, 2, 2, input_channels=2)):
        found = run(token_parameter_model(spec, one, channels=5), values)
        assert found.shape == (3, spec.size, 5)
        assert np.unique(found.reshape(3, -1).round(6), axis=1).shape[1] > 4 * spec.size


# ------------------------------------------------------------------------------------------ errors
@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: TokenStack(tokens="rows"), "tokens: expected one of units, plain, found 'rows'"),
        (lambda: TokenStack(depth=0), "depth: expected at least 1, found 0"),
        (lambda: TokenStack(channels=6, heads=4), "a divisor of 6 channels, found 4"),
        (lambda: TokenStack(window=8), "only for tokens='plain'"),
        (lambda: tokens_of(SPECS["mlp"], 0), "width of tokens: expected at least 1, found 0"),
        (lambda: tokens_of(ParamSpec.build({"s": ()})), "parameter 's': expected an axis"),
        (lambda: token_model(ParamSpec.build({"b": (Axis(2),)}), 1), "a parameter of two axes"),
        (lambda: run(token_model(SPECS["mlp"], 1, UNITS), np.zeros((2, 3), np.float32)),
         r"expected \('b', 70\), found \(2, 3\)"),
        (lambda: run(token_model(SPECS["mlp"], 1, UNITS, condition_size=2),
                     weights_of(SPECS["mlp"], 3)), r"expected \(3, 2\), found \(3, 0\)"),
    ],
)  # fmt: skip
def test_errors_say_what_was_found(build, message):
    with pytest.raises(ConfigError, match=message):
        build()
