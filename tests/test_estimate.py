"""What a plan costs: counted exactly where it can be, monotone where it is a guess."""

from __future__ import annotations

import pytest

from zoogen.config import Config, NetworkConfig
from zoogen.data import load
from zoogen.estimate import SAMPLED_COHORTS, estimate
from zoogen.grid import expand
from zoogen.networks import build_network
from zoogen.networks.cost import forward_flops, working_bytes


def config(grid: dict, **train: object) -> Config:
    return Config.model_validate({"name": "e", "train": {"epochs": 2} | train, "grid": grid})


def test_counts_are_exact() -> None:
    plan = expand(config({"seeds": 3, "axes": {"network.width": [4, 8, 16]}}))
    cost = estimate(plan, load(plan.config.data))
    sizes = [64 * w + w + w * w + w + 10 * w + 10 for w in (4, 8, 16)]
    assert [row.parameters for row in cost.cohorts] == sizes
    assert cost.bytes == sum(3 * 2 * 4 * size for size in sizes)
    assert not cost.sampled


def test_large_plans_are_sampled_over_the_whole_grid() -> None:
    widths = list(range(1, 3 * SAMPLED_COHORTS + 1))
    plan = expand(config({"seeds": 1, "axes": {"network.width": widths}}))
    cost = estimate(plan, load(plan.config.data))
    assert cost.sampled
    assert len(cost.cohorts) == SAMPLED_COHORTS
    assert cost.cohorts[-1].values["network.width"] > 0.9 * len(widths)
    exact = sum(4 * 2 * (64 * w + w + w * w + w + 10 * w + 10) for w in widths)
    assert cost.bytes == pytest.approx(exact, rel=0.05)


def test_time_grows_with_work() -> None:
    axes = {"network.width": [8]}
    data = load(config({}).data)
    seconds = [
        estimate(expand(config({"seeds": seeds, "axes": axes}, epochs=epochs)), data).seconds
        for seeds, epochs in ((2, 2), (2, 40), (8, 40))
    ]
    assert seconds == sorted(seconds)
    assert seconds[0] < seconds[1] < seconds[2]


@pytest.mark.parametrize("batch", [1, 16])
def test_flops_of_an_mlp_are_those_of_its_products(batch: int) -> None:
    network = build_network(NetworkConfig(width=64, depth=2), (1, 28, 28), 10)
    products = 2 * (784 * 64 + 64 * 64 + 64 * 10)
    assert forward_flops(network, batch) == pytest.approx(products, rel=0.02)


def test_working_memory_covers_weights_and_activations() -> None:
    network = build_network(NetworkConfig(family="cnn"), (1, 28, 28), 10)
    maps = 16 * (13 * 13 + 6 * 6 + 2 * 2)
    one, many = working_bytes(network, 1), working_bytes(network, 64)
    assert one >= 4 * (2 * maps + network.spec.size)
    assert many - one == pytest.approx(63 * (working_bytes(network, 2) - one), rel=1e-6)
