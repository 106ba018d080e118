"""Tracing: specs found in programs equal declared ones, are as large as known, never too large."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.errors import ConfigError
from zoogen.networks import build_network
from zoogen.networks.layers import ACTIVATIONS
from zoogen.params import ParamSpec
from zoogen.symmetry import apply, random_element, trace_spec
from zoogen.symmetry.check import findings_of, refuse_wrong_claims

# ------------------------------------------------------------------------------- declared networks
DECLARED = [
    *[
        (NetworkConfig(width=4, depth=depth, activation=name), (1, 2, 3))
        for name in ACTIVATIONS for depth in (1, 3)
    ],
    *[
        (NetworkConfig(family="cnn", width=4, depth=2, activation=a, padding=p), (2, 9, 9))
        for a, p in (("leaky_relu", "valid"), ("tanh", "same"), ("silu", "valid"))
    ],
    (NetworkConfig(family="lenet", width=4), (1, 24, 21)),
    (NetworkConfig(family="lenet", width=4, activation="tanh"), (1, 24, 21)),
    (NetworkConfig(family="resnet", width=4), (2, 6, 6)),
    (NetworkConfig(family="vit", width=6, activation="gelu"), (1, 6, 6)),
    (NetworkConfig(family="vit", width=6, depth=1, heads=3), (1, 6, 6)),
]  # fmt: skip


@pytest.mark.parametrize(("config", "shape"), DECLARED)
def test_traced_specs_equal_declared_ones(config, shape):
    network = build_network(config, shape, 3)
    params = {p.name: jax.ShapeDtypeStruct(p.shape, float) for p in network.spec.parameters}
    traced = trace_spec(network.apply, params, jax.ShapeDtypeStruct((5, *shape), float))
    heads = {f"block{i}.query.parent": f"block{i}.heads" for i in range(2)}
    parents = tuple((g, heads[parent], size) for g, parent, size in traced.spec.parents)
    named_alike = replace(traced.spec, parents=parents).groups  # a parent's name is free
    assert traced.spec.parameters == network.spec.parameters
    assert {n: g.parent for n, g in named_alike.items()} == {
        n: g.parent for n, g in network.spec.groups.items()
    }
    for name, group in network.spec.groups.items():
        assert named_alike[name].size == group.size
        assert dict(traced.spec.scalings).get(name, "none") == group.scaling
    assert traced.opaque == ()
    vector = np.arange(network.spec.size)
    named = network.spec.unflatten(vector)
    assert np.array_equal(traced.flatten(named), vector)


# ------------------------------------------------------------------ networks of other people's kind
class Residual(nn.Module):
    """A residual perceptron with one stream."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x)
        for _ in range(2):
            x = x + nn.Dense(6)(nn.tanh(nn.Dense(4)(x)))
        return nn.Dense(1)(x)


class Convolutional(nn.Module):
    """Residual convolutions with norms, and channels-last maps that are flattened."""

    norm: str

    @nn.compact
    def __call__(self, x):
        norm = {
            "batch": lambda: nn.BatchNorm(use_running_average=True),
            "layer": nn.LayerNorm,
            "group": lambda: nn.GroupNorm(2),
        }[self.norm]
        x = nn.Conv(6, (3, 3))(x)
        x = x + norm()(nn.Conv(6, (3, 3))(nn.relu(norm()(nn.Conv(8, (3, 3))(x)))))
        x = nn.max_pool(x, (2, 2), (2, 2)).reshape(x.shape[0], -1)
        return nn.Dense(2)(nn.relu(nn.Dense(5)(x)))


class Transformer(nn.Module):
    """One block with a tied stream; the norm is centred (layer) or not (rms)."""

    norm: str

    @nn.compact
    def __call__(self, x):
        norm = {"layer": nn.LayerNorm, "rms": nn.RMSNorm}[self.norm]
        x = nn.Dense(8)(x) + self.param("places", nn.initializers.normal(), (x.shape[1], 8))
        x = x + nn.MultiHeadDotProductAttention(num_heads=2, qkv_features=6)(norm()(x))
        x = x + nn.Dense(8)(nn.gelu(nn.Dense(10)(norm()(x))))
        return nn.Dense(3)(x.mean(1))


class Fused(nn.Module):
    """Attention whose queries, keys and values come from one matrix."""

    @nn.compact
    def __call__(self, x):
        x = nn.Dense(6)(x)
        q, k, v = jnp.split(nn.Dense(12, use_bias=False)(x), 3, axis=-1)
        split = lambda a: a.reshape(*a.shape[:2], 2, 2)  # noqa: E731
        scores = jax.nn.softmax(jnp.einsum("bthe,buhe->bhtu", split(q), split(k)))
        heads = jnp.einsum("bhtu,buhe->bthe", scores, split(v))
        return nn.Dense(2)(x + nn.Dense(6)(heads.reshape(*x.shape[:2], -1)))


class Recurrent(nn.Module):
    @nn.compact
    def __call__(self, x):
        return nn.Dense(2)(nn.RNN(nn.SimpleCell(5))(x)[:, -1])


class Language(nn.Module):
    @nn.compact
    def __call__(self, tokens):
        return nn.Dense(2)(nn.silu(nn.Dense(4)(nn.Embed(7, 6)(tokens))))


class Dense(nn.Module):
    """Concatenated features, as in a DenseNet: pieces of an axis have no group."""

    @nn.compact
    def __call__(self, x):
        x = jnp.concatenate([x, nn.relu(nn.Dense(4)(x)), nn.relu(nn.Dense(3)(x))], axis=-1)
        return nn.Dense(2)(jnp.clip(nn.Dense(5)(x), -20, 20))


RNG = np.random.default_rng(0)
SEQUENCES = RNG.normal(size=(3, 5, 4)).astype(np.float32)
MAPS = RNG.normal(size=(3, 6, 6, 2)).astype(np.float32)
TOKENS = RNG.integers(0, 7, (3, 5))
# Name → module, input, and groups as size, scaling, parent's size.
MODULES = {
    "residual": (Residual(), SEQUENCES, [(6, "nonzero", 0), (4, "sign", 0), (4, "sign", 0)]),
    "batch-norm": (
        Convolutional("batch"), MAPS, [(6, "none", 0), (8, "none", 0), (5, "positive", 0)]
    ),
    "layer-norm": (
        Convolutional("layer"), MAPS, [(6, "none", 0), (8, "none", 0), (5, "positive", 0)]
    ),
    "group-norm": (
        Convolutional("group"), MAPS,
        [(2, "none", 0), (6, "none", 2), (2, "none", 0), (8, "none", 2), (5, "positive", 0)],
    ),
    "transformer": (
        Transformer("layer"), SEQUENCES,
        [(8, "none", 0), (2, "none", 0), (6, "sign", 2), (6, "nonzero", 2), (10, "none", 0)],
    ),
    "transformer-rms": (
        Transformer("rms"), SEQUENCES,
        [(8, "none", 0), (2, "none", 0), (6, "sign", 2), (6, "nonzero", 2), (10, "none", 0)],
    ),
    # Queries, keys and values of one matrix share their order: smaller than it could be.
    "fused": (Fused(), SEQUENCES, [(6, "nonzero", 0), (2, "none", 0), (4, "sign", 2)]),
    "recurrent": (Recurrent(), SEQUENCES, [(5, "sign", 0)]),
    "language": (Language(), TOKENS, [(6, "nonzero", 0), (4, "none", 0)]),
    # A clip at 20 that no trial reaches is no symmetry.
    "dense": (Dense(), SEQUENCES, [(5, "none", 0)]),
}  # fmt: skip
SLOW = {"group-norm", "layer-norm", "transformer-rms"}
ALL = pytest.mark.parametrize(
    "name", [pytest.param(n, marks=[pytest.mark.slow] * (n in SLOW)) for n in MODULES]
)


@lru_cache
def traced_module(name):
    module, example, _ = MODULES[name]
    params = drawn(jax.eval_shape(module.init, jax.random.key(0), example))
    return params, trace_spec(module.apply, params, example)


def drawn(shapes):
    """Random parameters, without compiling the module's own; variances are positive."""
    rng = np.random.default_rng(0)
    normal = lambda s: rng.normal(size=s.shape).astype(np.float32)  # noqa: E731
    of = lambda path, s: np.exp(normal(s)) if "var" in str(path[-1]) else normal(s)  # noqa: E731
    return jax.tree_util.tree_map_with_path(of, shapes)


@ALL
def test_groups_of_flax_modules_are_as_large_as_they_are_known_to_be(name):
    params, traced = traced_module(name)
    groups = traced.spec.groups
    size = lambda parent: groups[parent].size if parent else 0  # noqa: E731
    found = [(g.size, g.scaling, size(g.parent)) for g in groups.values()]
    assert sorted(found) == sorted(MODULES[name][2])
    flat = traced.flatten(params)
    jax.tree.map(np.testing.assert_array_equal, traced.unflatten(flat), params)
    assert max(f.error for f in traced.findings if f.claimed) <= 1e-5
    assert min(f.error for f in traced.findings if not f.claimed) > 1e-5 or name == "dense"


@pytest.mark.parametrize("name", ["residual", "transformer"])
def test_elements_of_a_traced_spec_leave_the_users_own_function(name):
    params, traced = traced_module(name)
    module, example, _ = MODULES[name]
    moved = apply(traced.spec, random_element(traced.spec, 1), traced.flatten(params))
    assert not np.allclose(moved, traced.flatten(params))
    run = jax.jit(module.apply)
    before, after = (run(p, example) for p in (params, traced.unflatten(moved)))
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())


def test_claims_hold_in_double_precision():
    module, example, _ = MODULES["residual"]
    with jax.enable_x64(True):
        params = jax.tree.map(lambda x: x.astype(float), traced_module("residual")[0])
        traced = trace_spec(module.apply, params, example.astype(float))
    assert max(f.error for f in traced.findings if f.claimed) <= 1e-10


@pytest.mark.parametrize("name", ["residual", "transformer", "batch-norm"])
def test_every_missing_label_of_a_traced_spec_is_caught(name):
    _, traced = traced_module(name)
    module, example, _ = MODULES[name]
    spec, checked = traced.spec, 0
    for parameter in spec.parameters:
        for place, axis in enumerate(parameter.axes):
            # Adding one number to all keys of a query changes no attention.
            if axis.group and not parameter.name.endswith("key.bias"):
                broken = without_label(spec, parameter.name, place)
                member = variances_positive(spec, np.random.default_rng(3).normal(size=spec.size))
                found = findings_of(
                    broken, module.apply, traced.unflatten, (example,), member,
                    np.random.default_rng(0),
                )  # fmt: skip
                with pytest.raises(ConfigError, match="correct the axes"):
                    refuse_wrong_claims("spec", found, 1e-5)
                checked += 1
    assert checked > 8


def without_label(spec, name, place):
    axes = {p.name: list(p.axes) for p in spec.parameters}
    axes[name][place] = replace(axes[name][place], group=None, block=1)
    parents = {group: tuple(parent) for group, *parent in spec.parents}
    return ParamSpec.build({n: tuple(a) for n, a in axes.items()}, dict(spec.scalings), parents)


def variances_positive(spec, member):
    return spec.flatten(
        {n: np.abs(v) if n.endswith("var") else v for n, v in spec.unflatten(member).items()}
    )


# --------------------------------------------------------------------------- what can't be carried
def shapes(*sizes):
    return {f"w{i}": jax.ShapeDtypeStruct(size, float) for i, size in enumerate(sizes)}


X = jax.ShapeDtypeStruct((5, 3), float)
PROGRAMS = {  # function of p and x → group sizes
    "sorted": (lambda p, x: jnp.sort(x @ p["w0"], axis=-1) @ p["w1"], []),
    "running sum": (lambda p, x: jnp.cumsum(x @ p["w0"], axis=-1) @ p["w1"], []),
    "position matters": (lambda p, x: (x @ p["w0"] * jnp.arange(6.0)) @ p["w1"], []),
    "equal constants": (lambda p, x: (x @ p["w0"] * jnp.full(6, 2.0)) @ p["w1"], [6]),
    "unequal cuts": (
        lambda p, x: (x @ p["w0"]).reshape(-1, 3, 2).sum(1) @ p["w1"][:2]
        + (x @ p["w0"]).reshape(-1, 2, 3).sum(1) @ p["w1"][:3],
        [],
    ),
    "halves": (lambda p, x: ((x @ p["w0"])[:, :3] * (x @ p["w0"])[:, 3:]) @ p["w1"][:3], [3]),
    "maxout": (lambda p, x: (x @ p["w0"]).reshape(-1, 3, 2).max(-1) @ p["w1"][:3], [3, 6]),
    "softmax": (lambda p, x: jax.nn.softmax(x @ p["w0"]) @ p["w1"], [6]),
    "masked": (lambda p, x: jnp.where(x[:, :1] > 0, x @ p["w0"], 0) @ p["w1"], [6]),
    "loop": (
        lambda p, x: jax.lax.fori_loop(
            0, 2, lambda _, h: jnp.tanh(h + x @ p["w0"]), jnp.zeros((5, 6))
        ) @ p["w1"],
        [6],
    ),
    "branch": (
        lambda p, x: jax.lax.cond(x[0, 0] > 0, jnp.tanh, jnp.sin, x @ p["w0"]) @ p["w1"], [6]
    ),
    "transform": (lambda p, x: jnp.abs(jnp.fft.fft(x @ p["w0"])) @ p["w1"], []),
}  # fmt: skip


@pytest.mark.parametrize("name", PROGRAMS)
def test_what_orders_units_fixes_them(name):
    function, sizes = PROGRAMS[name]
    traced = trace_spec(function, shapes((3, 6), (6, 2)), X)
    assert [group.size for group in traced.spec.groups.values()] == sizes
    assert traced.opaque == (("fft",) if name == "transform" else ())


@pytest.mark.parametrize(
    ("params", "inputs", "message"),
    [
        ({}, (X,), "expected parameters, found none"),
        (shapes((3, 6), (6, 2)), (jax.ShapeDtypeStruct((5, 3), int),), "found its shape"),
    ],
)
def test_bad_input_is_refused_in_one_line(params, inputs, message):
    with pytest.raises(ConfigError, match=message):
        trace_spec(lambda p, x: (x @ p["w0"]) @ p["w1"], params, *inputs)


@pytest.mark.slow
def test_the_example_of_the_documentation_runs(capsys):
    page = (Path(__file__).parents[1] / "docs" / "symmetry.md").read_text(encoding="utf-8")
    found = {}
    exec(page.split("```python\n")[1].split("```")[0], found)
    assert capsys.readouterr().out.count("Group(") == 5
    expected = jax.jit(found["module"].apply)(found["params"], found["x"])
    np.testing.assert_allclose(found["same"], expected, atol=1e-5)
