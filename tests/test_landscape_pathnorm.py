"""Path norm against a list of all paths: dense, convolutional, pooled and residual networks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from math import prod

import jax
import numpy as np
import pytest

from zoogen.config import NetworkConfig
from zoogen.landscape.pathnorm import path_norm
from zoogen.networks import Network, build_network, layers, path_twin

Node = tuple
Edges = dict[Node, list[tuple[Node, float]]]
ONE: Node = ("one",)
"""Where paths from biases begin."""


def paths(edges: Edges, node: Node) -> Iterator[list[float]]:
    """The weights along every path that ends in a node; a node without edges is an input."""
    if node not in edges:
        yield []
        return
    for source, weight in edges[node]:
        for path in paths(edges, source):
            yield [*path, weight]


def total(edges: Edges, outputs: list[Node]) -> float:
    return sum(prod(map(abs, path)) for node in outputs for path in paths(edges, node))


def dense(edges: Edges, name: str, inputs: list[Node], params: dict) -> list[Node]:
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    for o, row in enumerate(weight):
        into = [(node, float(w)) for node, w in zip(inputs, row, strict=True)]
        edges[(name, o)] = [*into, (ONE, float(bias[o]))]
    return [(name, o) for o in range(len(weight))]


def conv(
    edges: Edges, name: str, maps: dict, params: dict, stride: int, padding: int
) -> dict[tuple[int, int, int], Node]:
    """Maps are ``(channel, row, column) → node``."""
    weight, bias = params[f"{name}.weight"], params[f"{name}.bias"]
    size = 1 + max(row for _, row, _ in maps)
    out = (size + 2 * padding - weight.shape[2]) // stride + 1
    found = {}
    for o, y, x in np.ndindex(len(weight), out, out):
        into = [
            (maps[c, stride * y + i - padding, stride * x + j - padding], float(weight[o, c, i, j]))
            for c, i, j in np.ndindex(weight.shape[1:])
            if (c, stride * y + i - padding, stride * x + j - padding) in maps
        ]
        found[o, y, x] = (name, o, y, x)
        edges[name, o, y, x] = [*into, (ONE, float(bias[o]))]
    return found


def windows(edges: Edges, name: str, maps: dict, size: int, weight: float) -> dict:
    """One node per full window, all of whose entries lead to it."""
    found = {}
    full = (1 + max(row for _, row, _ in maps)) // size
    for (c, y, x), node in maps.items():
        place = (c, y // size, x // size)
        if max(place[1:]) >= full:
            continue
        found[place] = (name, *place)
        edges.setdefault((name, *place), []).append((node, weight))
    return found


def image_nodes(size: int, channels: int = 1) -> dict:
    return {place: ("x", *place) for place in np.ndindex(channels, size, size)}


def mlp_paths(params: dict, depth: int) -> float:
    edges: Edges = {}
    nodes = list(image_nodes(2).values())
    for name in [*(f"hidden{i}" for i in range(depth)), "output"]:
        nodes = dense(edges, name, nodes, params)
    return total(edges, nodes)


def cnn_paths(params: dict, size: int, padding: int) -> float:
    edges: Edges = {}
    maps = conv(edges, "conv0", image_nodes(size), params, 2, padding)
    maps = conv(edges, "conv1", maps, params, 2, padding)
    side = 1 + max(row for _, row, _ in maps)
    pooled = windows(edges, "pool", maps, side, 1 / side**2)
    return total(edges, dense(edges, "output", list(pooled.values()), params))


def lenet_paths(params: dict, size: int) -> float:
    edges: Edges = {}
    maps = conv(edges, "conv0", image_nodes(size), params, 1, 0)
    maps = conv(edges, "conv1", windows(edges, "max0", maps, 2, 1.0), params, 1, 0)
    maps = conv(edges, "conv2", windows(edges, "max1", maps, 2, 1.0), params, 1, 0)
    flat = [maps[place] for place in sorted(maps)]  # by channel, row, column
    return total(edges, dense(edges, "output", dense(edges, "hidden", flat, params), params))


def network_and_params(config: NetworkConfig, size: int, seed: int):
    network = build_network(config, (1, size, size), 2)
    w = np.random.default_rng(seed).normal(size=network.spec.size).astype(np.float32)
    return network, network.spec.unflatten(w)


@lru_cache
def norm_of(network: Network) -> Callable[[dict], jax.Array]:
    linear = path_twin(network)
    return jax.jit(lambda params: path_norm(linear, params, network.image_shape))


CASES: dict[str, tuple[NetworkConfig, int, Callable[[dict], float]]] = {
    "mlp 1": (NetworkConfig(family="mlp", width=3, depth=1), 2, lambda p: mlp_paths(p, 1)),
    "mlp 3": (
        NetworkConfig(family="mlp", width=3, depth=3, activation="tanh"),
        2,
        lambda p: mlp_paths(p, 3),
    ),
    "cnn same": (
        NetworkConfig(family="cnn", width=2, depth=2, padding="same"),
        5,
        lambda p: cnn_paths(p, 5, 1),
    ),
    "cnn valid": (NetworkConfig(family="cnn", width=2, depth=2), 7, lambda p: cnn_paths(p, 7, 0)),
    "lenet": (
        NetworkConfig(family="lenet", width=1, activation="tanh"),
        20,
        lambda p: lenet_paths(p, 20),
    ),
    "lenet, a row left over": (
        NetworkConfig(family="lenet", width=1),
        21,
        lambda p: lenet_paths(p, 21),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_path_norm_is_the_sum_over_all_paths(name):
    config, size, enumerate_paths = CASES[name]
    network, params = network_and_params(config, size, seed=0)
    assert norm_of(network)(params) == pytest.approx(enumerate_paths(params), rel=1e-4)


def test_residuals_and_maxima_are_paths_too():
    rng = np.random.default_rng(0)
    shapes = {
        "conv0.weight": (2, 1, 3, 3),
        "conv0.bias": (2,),
        "conv1.weight": (2, 2, 3, 3),
        "conv1.bias": (2,),
        "output.weight": (2, 8),
        "output.bias": (2,),
    }
    params = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}

    def linear(p: dict, images: jax.Array) -> jax.Array:
        x = images.transpose(1, 2, 3, 0)
        x = layers.conv2d(x, p["conv0.weight"], p["conv0.bias"], 1, 1)
        x = x + layers.conv2d(x, p["conv1.weight"], p["conv1.bias"], 1, 1)
        x = sum(x[:, i::2, j::2] for i in (0, 1) for j in (0, 1))  # in place of a 2×2 maximum
        return layers.dense(layers.flatten(x), p["output.weight"], p["output.bias"])

    edges: Edges = {}
    first = conv(edges, "conv0", image_nodes(4), params, 1, 1)
    second = conv(edges, "conv1", first, params, 1, 1)
    summed = {place: ("sum", *place) for place in second}
    edges |= {summed[place]: [(first[place], 1.0), (second[place], 1.0)] for place in summed}
    pooled = windows(edges, "max", summed, 2, 1.0)
    expected = total(edges, dense(edges, "output", list(pooled.values()), params))
    found = jax.jit(lambda params: path_norm(linear, params, (1, 4, 4)))(params)
    assert found == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_path_norm_bounds_a_network_with_maxima(seed):
    network, params = network_and_params(NetworkConfig(family="lenet", width=2), 20, seed)
    x = np.random.default_rng(seed).uniform(-1, 1, (50, 1, 20, 20)).astype(np.float32)
    outputs = np.abs(jax.jit(network.apply)(params, x)).sum(axis=1)
    assert (outputs <= float(norm_of(network)(params))).all()


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_path_norm_bounds_outputs_and_ignores_rescaling(seed):
    config = NetworkConfig(family="mlp", width=5, depth=2)
    network, params = network_and_params(config, 3, seed)
    norm = float(norm_of(network)(params))
    x = np.random.default_rng(seed).uniform(-1, 1, (200, 1, 3, 3)).astype(np.float32)
    assert (np.abs(jax.jit(network.apply)(params, x)).sum(axis=1) <= norm).all()
    factors = np.array([0.1, 0.5, 2, 4, 8], np.float32)
    other = params | {
        "hidden1.weight": params["hidden1.weight"] * factors[:, None],
        "hidden1.bias": params["hidden1.bias"] * factors,
        "output.weight": params["output.weight"] / factors,
    }
    assert norm_of(network)(other) == pytest.approx(norm, rel=1e-5)
