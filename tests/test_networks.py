"""Networks: published sizes, PyTorch's own outputs, symmetries, initial distributions, errors."""

from __future__ import annotations

import math
from functools import lru_cache
from itertools import pairwise

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import Config, NetworkConfig
from zoogen.data import load, normalise
from zoogen.errors import ConfigError
from zoogen.grid import expand
from zoogen.networks import FAMILIES, build_network
from zoogen.networks.initializers import INITIALIZERS, initial_params
from zoogen.networks.layers import ACTIVATIONS
from zoogen.params import Axis, ParamSpec
from zoogen.train import recipe_of, train_block, training_data

GREY, COLOUR = (1, 28, 28), (3, 28, 28)

NETWORKS = [
    (NetworkConfig(family="mlp", width=5), (1, 8, 8)),
    (NetworkConfig(family="mlp", width=6, depth=1, activation="tanh"), (2, 3, 4)),
    (NetworkConfig(family="mlp", width=4, depth=4, activation="silu"), (1, 8, 8)),
    (NetworkConfig(family="cnn", width=4, activation="gelu"), COLOUR),
    (NetworkConfig(family="cnn", width=3, padding="same", activation="leaky_relu"), (1, 9, 8)),
    (NetworkConfig(family="cnn", width=4, depth=2, activation="sigmoid"), (1, 8, 8)),
    (NetworkConfig(family="lenet", width=8), COLOUR),
    (NetworkConfig(family="lenet", width=3, activation="tanh"), (1, 21, 24)),
    (NetworkConfig(family="resnet", width=4), (3, 9, 8)),
    (NetworkConfig(family="resnet", width=4, norm="batch", activation="silu"), (3, 9, 8)),
    (NetworkConfig(family="vit", width=6, depth=1, activation="gelu"), (1, 8, 8)),
    (NetworkConfig(family="siren", width=6, activation="sin", init="siren"), (2, 1, 1)),
]
ALL = pytest.mark.parametrize(
    ("config", "shape"), NETWORKS, ids=[f"{c.family}-{c.activation}" for c, _ in NETWORKS]
)


@lru_cache
def compiled(config, shape):
    """Network, jitted ``(vectors [m p], images) → logits [m b k]``: one program for most tests."""
    network = build_network(config, shape, 10)
    member = lambda vector, x: network.apply(network.spec.unflatten(vector), x)  # noqa: E731
    return network, jax.jit(jax.vmap(member, in_axes=(0, None)))


def logits_of(config, shape, vectors):
    """Logits of up to three members; missing ones are copies, so that the program is the same."""
    assert len(vectors) <= 3
    padded = jnp.stack([*vectors, *[vectors[0]] * (3 - len(vectors))])
    return compiled(config, shape)[1](padded, images(shape))[: len(vectors)]


def images(shape, count=7, seed=0):
    rng = np.random.default_rng(seed)
    return jnp.asarray(rng.normal(size=(count, *shape)), jnp.float32)


def flat_params(network, seed=0):
    """Weights and biases that are all different from zero, and variances above it."""
    rng = np.random.default_rng(seed)
    params = network.spec.unflatten(0.3 * rng.normal(size=network.spec.size))
    for name, kind in network.spec.statistics:
        params[name] = np.exp(params[name]) if kind == "variance" else params[name]
    return jnp.asarray(network.spec.flatten(params), jnp.float32)


@pytest.mark.parametrize(
    ("config", "shape", "parameters"),
    [
        (NetworkConfig(family="mlp", width=64), GREY, 55_050),
        (NetworkConfig(family="cnn", width=16), GREY, 4_970),
        (NetworkConfig(family="lenet", width=8), GREY, 2_464),
        (NetworkConfig(family="lenet", width=8), COLOUR, 2_864),
        # 144 + 16 + 2 blocks of 2 × (32 + 2,320) + 32 + 170; 272 + 784 + 2 × 2,208 + 32 + 170
        (NetworkConfig(family="resnet", width=16), GREY, 9_770),
        (NetworkConfig(family="resnet", width=16, norm="batch"), GREY, 9_930),  # 5 norms × 32
        (NetworkConfig(family="vit", width=16), GREY, 5_674),
    ],
)
def test_published_architectures_have_their_published_size(config, shape, parameters):
    assert build_network(config, shape, 10).spec.size == parameters


def test_every_family_of_the_table_is_tested():
    assert {config.family for config, _ in NETWORKS} == set(FAMILIES)


def test_lenet_width_scales_all_layers_in_proportion():
    groups = build_network(NetworkConfig(family="lenet", width=16), GREY, 10).spec.groups
    assert [group.size for group in groups.values()] == [16, 12, 8, 40]
    narrow = build_network(NetworkConfig(family="lenet", width=1), GREY, 10).spec.groups
    assert min(group.size for group in narrow.values()) == 1


def test_training_with_batch_norms_equals_pytorch():
    """Weights and running statistics after steps on all images, whose order does not matter."""
    torch = pytest.importorskip("torch")
    config = Config.model_validate({
        "name": "t",
        "data": {"train_examples": 40},
        "network": {"family": "resnet", "norm": "batch", "width": 4, "depth": 1},
        "train": {"steps": 3, "batch_size": 40, "weight_decay": 0.1, "learning_rate": 0.05},
        "grid": {"seeds": 1},
    })  # fmt: skip
    dataset = load(config.data)
    recipe, members = recipe_of(config, dataset), expand(config).cohorts[0].members
    data = training_data(dataset, recipe)
    trained = train_block(recipe, data, members).weights[0]
    twin = torch_twin(torch, recipe.net)
    load_flat(torch, twin, trained[0])
    x = torch.from_numpy(np.array(normalise(data.images, data.mean, data.std)))
    rule = torch.optim.SGD(twin.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
    for _ in range(3):
        rule.zero_grad()
        targets = torch.from_numpy(np.array(data.labels)).long()
        torch.nn.functional.cross_entropy(twin(x), targets).backward()
        rule.step()
    found = recipe.net.spec.unflatten(trained[-1])
    for name, expected in twin.state_dict().items():
        if expected.is_floating_point():
            name = name if name in found else name.replace("_", ".", 1)
            np.testing.assert_allclose(found[name], expected.numpy(), atol=1e-5, err_msg=name)


@ALL
def test_logits_equal_pytorch(config, shape):
    torch = pytest.importorskip("torch")
    network, _ = compiled(config, shape)
    twin = torch_twin(torch, network).eval()
    vectors = [flat_params(network, seed) for seed in range(3)]
    for vector, found in zip(vectors, logits_of(config, shape, vectors), strict=True):
        load_flat(torch, twin, np.asarray(vector))
        with torch.no_grad():
            expected = twin(torch.from_numpy(np.array(images(shape)))).numpy()
        np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


@pytest.mark.parametrize("activation", sorted(ACTIVATIONS))
def test_activation_and_gradient_equal_pytorch(activation):
    torch = pytest.importorskip("torch")
    x = np.array([-3, -1, -0.1, 0, 0.2, 1, 4], np.float32)
    given = torch.from_numpy(x).requires_grad_()
    expected = torch_activation(torch, activation)(given)
    expected.sum().backward()
    fn = ACTIVATIONS[activation]
    np.testing.assert_allclose(fn(jnp.asarray(x)), expected.detach().numpy(), atol=1e-6)
    gradient = jax.grad(lambda x: fn(x).sum())(jnp.asarray(x))
    np.testing.assert_allclose(gradient, given.grad.numpy(), atol=1e-6)


@ALL
def test_permuting_units_leaves_logits(config, shape):
    network, _ = compiled(config, shape)
    vector = flat_params(network)
    permuted = network.spec.permute(vector, network.spec.random_permutation(1))
    assert not np.array_equal(vector, permuted)
    before, after = logits_of(config, shape, [vector, permuted])
    np.testing.assert_allclose(before, after, rtol=1e-4, atol=1e-5)


@ALL
def test_scaling_units_leaves_logits_exactly_where_the_spec_says(config, shape):
    spec = compiled(config, shape)[0].spec
    vector = flat_params(compiled(config, shape)[0])
    for group in spec.groups.values():
        if not any(axis.group == group.name for p in spec.parameters for axis in p.axes):
            continue  # heads have no entries of their own
        factor = {"positive": 1.7, "sign": -1.0, "nonzero": -1.7, "none": -1.7}[group.scaling]
        scaled = spec.flatten(scale_units(spec, spec.unflatten(vector), group.name, factor))
        before, after = logits_of(config, shape, [vector, scaled])
        # Of the largest logit: a small one is a difference of large sums, in single precision.
        apart = np.abs(before - after).max() / np.abs(before).max()
        assert (apart <= 1e-5) == (group.scaling != "none")


def scale_units(spec, params, group, factor):
    """Outgoing weights of a group ÷ factor, its incoming weights and biases × factor."""
    result = dict(params)
    for parameter in spec.parameters:
        for position, axis in enumerate(parameter.axes):
            if axis.group == group:
                result[parameter.name] *= factor if position == 0 else 1 / factor
    return result


@ALL
def test_every_parameter_acts_on_the_logits(config, shape):
    network, _ = compiled(config, shape)
    vector = flat_params(network)
    for parameter in network.spec.parameters:
        changed = vector.at[parameter.offset : parameter.offset + parameter.size].multiply(1.5)
        before, after = logits_of(config, shape, [vector, changed])
        assert np.isfinite(after).all()
        assert not np.allclose(before, after), parameter.name


# Variance of a weight of `shape` by scheme; fans are units × kernel positions.
VARIANCES = {
    "he": lambda fan_in, fan_out: 2 / fan_in,
    "glorot": lambda fan_in, fan_out: 2 / (fan_in + fan_out),
    "lecun": lambda fan_in, fan_out: 1 / fan_in,
    "normal": lambda fan_in, fan_out: 0.05**2,
    "truncated": lambda fan_in, fan_out: 0.05**2 * 0.7737,  # of a normal cut at twice its deviation
}


@pytest.mark.parametrize("name", sorted(set(INITIALIZERS) - {"orthogonal"}))
def test_initial_weights_have_the_variance_of_their_scheme(name):
    spec = ParamSpec.build({"conv.weight": (Axis(48), Axis(32), Axis(3), Axis(3))})
    expected = 1.5 * math.sqrt(VARIANCES[name.split("_")[0]](32 * 9, 48 * 9))
    draw = jax.jit(lambda key: initial_params(spec, name, key, 1.5)["conv.weight"])
    for seed in range(3):
        weight = np.asarray(draw(jax.random.key(seed)))
        # 13,824 draws: a relative standard error of the deviation of 0.6 %
        assert weight.std() == pytest.approx(expected, rel=0.03)
        assert abs(weight.mean()) < 5 * expected / math.sqrt(weight.size)
        if name.endswith("uniform"):
            assert np.abs(weight).max() <= expected * math.sqrt(3) * (1 + 1e-6)


@pytest.mark.parametrize("width", [8, 100])
def test_orthogonal_weights_have_equal_singular_values(width):
    spec = ParamSpec.build({"hidden.weight": (Axis(width), Axis(64))})
    weight = initial_params(spec, "orthogonal", jax.random.key(0), 2.0)["hidden.weight"]
    values = np.linalg.svd(np.asarray(weight), compute_uv=False)
    np.testing.assert_allclose(values, 2.0, rtol=1e-4)


def test_init_depends_on_key_and_scale_only_and_biases_are_zero():
    network = build_network(NetworkConfig(family="mlp", width=8, depth=1), (1, 4, 4), 3)
    init = jax.jit(network.init)
    one, again, other = (init(jax.random.key(k), 1.0) for k in (0, 0, 1))
    doubled = init(jax.random.key(0), 2.0)
    for parameter in network.spec.parameters:
        name = parameter.name
        assert one[name].shape == parameter.shape
        assert one[name].dtype == jnp.float32
        np.testing.assert_array_equal(one[name], again[name])
        np.testing.assert_allclose(doubled[name], 2 * one[name], rtol=1e-6)
        if name.endswith("bias"):
            assert not one[name].any()
        else:
            assert not np.array_equal(one[name], other[name])


@pytest.mark.parametrize(("family", "norm"), [("resnet", None), ("resnet", "batch"), ("vit", None)])
def test_norms_begin_as_the_identity_at_every_scale(family, norm):
    network = build_network(NetworkConfig(family=family, width=4, norm=norm), (1, 8, 8), 3)
    params = jax.jit(network.init)(jax.random.key(0), 3.0)
    vectors = {p.name for p in network.spec.parameters if len(p.axes) == 1}
    scales = {name for name in vectors if name.endswith(("weight", "var"))}
    assert len(scales) == (10 if norm == "batch" else 5)
    for name in vectors:
        assert (np.asarray(params[name]) == (name in scales)).all()


def test_vmapped_members_equal_single_ones():
    config, shape = NETWORKS[3]
    network, _ = compiled(config, shape)
    vectors = [flat_params(network, seed) for seed in range(3)]
    apply = jax.jit(network.apply)
    for vector, logits in zip(vectors, logits_of(config, shape, vectors), strict=True):
        alone = apply(network.spec.unflatten(vector), images(shape))
        np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-5)


def test_equal_arguments_build_once():
    config = NetworkConfig(family="cnn", width=4)
    same = NetworkConfig(family="cnn", width=4)
    assert build_network(config, GREY, 10) is build_network(same, GREY, 10)


@pytest.mark.parametrize(
    ("config", "shape", "words"),
    [
        (NetworkConfig(family="lenet"), (1, 8, 8), ["network.family", "8×8", "20×20", "mlp"]),
        (NetworkConfig(family="lenet"), (1, 28, 19), ["network.family", "28×19"]),
        (NetworkConfig(family="cnn"), (1, 8, 8), ["network.depth", "8×8", "conv2", "'same'"]),
        (NetworkConfig(family="cnn", depth=1), (1, 2, 9), ["network.depth", "2×9", "'same'"]),
        (NetworkConfig(family="vit"), (1, 9, 8), ["network.family", "9×8", "2×2", "resnet"]),
        (NetworkConfig(family="vit", heads=3), (1, 8, 8), ["network.heads", "3 heads", "16"]),
    ],
)
def test_images_and_widths_that_do_not_fit_are_refused_with_key_size_and_action(
    config, shape, words
):
    with pytest.raises(ConfigError) as error:
        build_network(config, shape, 10)
    for word in words:
        assert word in str(error.value)


@pytest.mark.parametrize("side", [1, 2, 7, 8])
def test_same_padding_fits_every_image(side):
    shape = (1, side, side)
    network = build_network(NetworkConfig(family="cnn", padding="same", depth=5), shape, 3)
    params = network.spec.unflatten(flat_params(network))
    assert jax.eval_shape(network.apply, params, images(shape)).shape == (7, 3)


def torch_activation(torch, name):
    nn = torch.nn
    return {
        "relu": nn.ReLU, "leaky_relu": nn.LeakyReLU, "tanh": nn.Tanh, "gelu": nn.GELU,
        "silu": nn.SiLU, "sigmoid": nn.Sigmoid, "sin": lambda: sine(torch),
    }[name]()  # fmt: skip


def sine(torch):
    class Sine(torch.nn.Module):
        def forward(self, x):
            return torch.sin(x)

    return Sine()


def torch_twin(torch, network):
    """The same architecture in plain PyTorch modules."""
    nn, config = torch.nn, network.config
    shapes = {p.name: p.shape for p in network.spec.parameters}
    act = torch_activation(torch, config.activation)

    def linear(name):
        out, inputs = shapes[f"{name}.weight"]
        return nn.Linear(inputs, out)

    def conv(name, **options):
        out, inputs, kernel, _ = shapes[f"{name}.weight"]
        return nn.Conv2d(inputs, out, kernel, **options)

    convs = sorted({name.split(".")[0] for name in shapes if name.startswith("conv")})
    if config.family in {"mlp", "siren"}:
        hidden = [f"hidden{i}" for i in range(config.depth or 2)]
        body = [module for name in hidden for module in (linear(name), act)]
        return nn.Sequential(nn.Flatten(), *body, linear("output"))
    if config.family == "cnn":
        options = {"stride": 2, "padding": 1 if config.padding == "same" else 0}
        body = [module for name in convs for module in (conv(name, **options), act)]
        return nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), linear("output"))
    if config.family in ("resnet", "vit"):
        return residual_twin(torch, config, shapes, act, conv)
    pooled = [m for name in convs[:2] for m in (conv(name), nn.MaxPool2d(2), act)]
    head = [conv("conv2"), act, nn.Flatten(), linear("hidden"), act, linear("output")]
    return nn.Sequential(*pooled, *head)


def residual_twin(torch, config, shapes, act, conv):
    """Modules in the order of the parameters, and one function that joins them."""
    nn, width = torch.nn, config.width
    owners = dict.fromkeys(name.rpartition(".")[0] for name in shapes)

    def module(name):
        rank, biased = len(shapes[f"{name}.weight"]), f"{name}.bias" in shapes
        if f"{name}.running_var" in shapes:
            return nn.BatchNorm2d(width)
        if rank == 1:
            return nn.GroupNorm(1, width) if config.family == "resnet" else nn.LayerNorm(width)
        if rank == 4:
            return conv(name, padding=1, stride=2 if name == "stem" else 1)
        out, inputs = shapes[f"{name}.weight"]
        return nn.Linear(inputs, out, bias=biased)

    class Twin(nn.Module):
        def __init__(self):
            super().__init__()
            for name in owners:
                self.add_module(name.replace(".", "_"), module(name))

        def forward(self, x):
            blocks = sorted({name.split(".")[0] for name in owners if name.startswith("block")})
            part = lambda name: getattr(self, name.replace(".", "_"))  # noqa: E731
            if config.family == "resnet":
                x = self.stem(x)
                for block in blocks:
                    inner = part(f"{block}.conv0")(act(part(f"{block}.norm0")(x)))
                    x = x + part(f"{block}.conv1")(act(part(f"{block}.norm1")(inner)))
                return self.output(act(self.norm(x)).mean((2, 3)))
            weight = self.embed.weight.reshape(width, -1, 2, 2)
            x = nn.functional.conv2d(x, weight, self.embed.bias, stride=2).flatten(2)
            x = (x + self.places.weight).transpose(1, 2)
            for block in blocks:
                read = part(f"{block}.norm0")(x)
                q, k, v = (
                    part(f"{block}.{name}")(read)
                    .unflatten(-1, (config.heads or 2, -1))
                    .transpose(1, 2)
                    for name in ("query", "key", "value")
                )
                heads = nn.functional.scaled_dot_product_attention(q, k, v)
                x = x + part(f"{block}.mix")(heads.transpose(1, 2).flatten(2))
                x = x + part(f"{block}.down")(act(part(f"{block}.up")(part(f"{block}.norm1")(x))))
            return self.output(self.norm(x).mean(1))

    return Twin()


def load_flat(torch, module, vector):
    """Fill a module's state_dict, in its own order, from a flat vector."""
    state = {k: v for k, v in module.state_dict().items() if v.is_floating_point()}  # no counters
    sizes = [tensor.numel() for tensor in state.values()]
    assert sum(sizes) == vector.size
    ends = np.cumsum([0, *sizes])
    module.load_state_dict({
        name: torch.from_numpy(vector[begin:end].copy()).reshape(tensor.shape)
        for (name, tensor), (begin, end) in zip(state.items(), pairwise(ends), strict=True)
    }, strict=False)  # fmt: skip
