"""Population: mapped or in chunks, on any number of members, each gets its own result."""

from __future__ import annotations

import subprocess
import sys
from types import SimpleNamespace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen import population
from zoogen.population import DEFAULT_BUDGET, chunk_size, dealt_out, memory_budget, over_members

DEVICES = jax.local_device_count()


def descend(member: dict[str, Any], shared: Any) -> dict[str, Any]:
    """A few gradient steps on a quadratic: a matrix product, a loop and a scalar per member."""

    def step(_: Any, w: Any) -> Any:
        return w - member["rate"] * (shared @ w)

    end = jax.lax.fori_loop(0, 5, step, member["w"])
    return {"w": end, "loss": end @ shared @ end}


def members(count: int, bad: int | None = None) -> dict[str, Any]:
    rng = np.random.default_rng(count)
    weights = rng.normal(size=(count, 6)).astype(np.float32)
    if bad is not None:
        weights[bad, 2] = np.nan
    return {"w": jnp.asarray(weights), "rate": jnp.linspace(0.1, 0.5, count, dtype=jnp.float32)}


SHARED = jnp.diag(jnp.arange(1.0, 7.0)) / 6


@pytest.fixture
def batch_sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Run as on an accelerator; the sizes of the chunks."""
    sizes: list[int] = []
    plain = jax.lax.map

    def spying(fn: Any, xs: Any, *, batch_size: int) -> Any:
        sizes.append(batch_size)
        return plain(fn, xs, batch_size=batch_size)

    monkeypatch.setattr(population, "on_cpu", lambda: False)
    monkeypatch.setattr(jax.lax, "map", spying)
    return sizes


@pytest.fixture(scope="module")
def one_by_one() -> Any:
    """Each member through the compiled function alone, stacked."""
    alone = jax.jit(descend)

    def run(given: dict[str, Any]) -> dict[str, Any]:
        count = len(given["w"])
        results = [alone(jax.tree.map(lambda leaf: leaf[i], given), SHARED) for i in range(count)]  # noqa: B023
        return jax.tree.map(lambda *leaves: np.stack(leaves), *results)

    return run


def close(found: Any, expected: Any) -> None:
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7), found, expected
    )


# One chunk, equal chunks, a rest, chunks of one; in two cases a device gets less than others.
@pytest.mark.parametrize(
    ("per_device", "chunk", "missing"), [(3, 64, 0), (4, 2, 0), (5, 2, 1), (7, 3, 0), (3, 1, 1)]
)
def test_chunks_equal_the_mapped_members(
    per_device: int, chunk: int, missing: int, batch_sizes: list[int], one_by_one: Any
) -> None:
    count = per_device * DEVICES - missing
    given = members(count, bad=1)
    found = over_members(descend, chunk)(given, SHARED)
    assert found["loss"].shape == (count,)
    assert batch_sizes
    assert max(batch_sizes) <= chunk
    close(found, one_by_one(given))
    lost = np.isnan(np.asarray(found["w"])).any(axis=1)
    assert lost.tolist() == [place == 1 for place in range(count)]


@pytest.mark.parametrize("count", [1, 3, 2 * DEVICES])
def test_mapped_members_do_not_depend_on_their_neighbours(count: int, one_by_one: Any) -> None:
    given = members(count, bad=0)
    found = over_members(descend)(given, SHARED)
    close(found, one_by_one(given))
    others = jax.tree.map(lambda leaf: leaf[::-1], given)
    turned = over_members(descend)(others, SHARED)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[::-1]), found, turned)


@pytest.mark.parametrize(
    ("per_device", "chunk", "size"), [(8, 5, 4), (65, 64, 33), (6, 6, 6), (7, 3, 3), (2, 9, 2)]
)
def test_chunks_are_as_even_as_can_be(
    per_device: int, chunk: int, size: int, batch_sizes: list[int]
) -> None:
    over_members(jnp.multiply, chunk)(jnp.ones(per_device * DEVICES), 2.0)
    assert batch_sizes == [size]


@pytest.mark.parametrize(
    ("member_bytes", "budget", "size"),
    [
        (1, 1, 1), (10, 100, 10), (10, 109, 10), (11, 100, 9), (101, 100, 1), (10**12, 1, 1),
        (0, 7, 7),
    ],
)  # fmt: skip
def test_as_many_members_as_fit_and_at_least_one(member_bytes: int, budget: int, size: int) -> None:
    assert chunk_size(member_bytes, budget) == size


@pytest.mark.parametrize(
    ("stats", "budget"),
    [
        ({"bytes_limit": 80 * 2**30, "bytes_in_use": 70 * 2**30}, 40 * 2**30),
        ({"bytes_in_use": 5}, DEFAULT_BUDGET),
        ({}, DEFAULT_BUDGET),
        (None, DEFAULT_BUDGET),
    ],
)
def test_half_of_the_memory_that_a_device_tells_is_the_budget(
    monkeypatch: pytest.MonkeyPatch, stats: dict[str, int] | None, budget: int
) -> None:
    device = SimpleNamespace(memory_stats=lambda: stats)
    monkeypatch.setattr(jax, "local_devices", lambda: [device])
    assert memory_budget() == budget


@pytest.mark.parametrize(
    ("settings", "most"),
    [
        ({}, population.DEFAULT_CHUNK),
        ({"member_bytes": 100}, 3),
        ({"member_bytes": 10**9}, 1),
        ({"member_bytes": 100, "chunk": 2}, 2),  # who names a chunk gets it
    ],
)
def test_the_chunk_follows_the_budget(
    monkeypatch: pytest.MonkeyPatch, batch_sizes: list[int], settings: dict[str, int], most: int
) -> None:
    monkeypatch.setattr(population, "memory_budget", lambda: 399)
    over_members(jnp.multiply, **settings)(jnp.ones(6 * DEVICES), 2.0)
    assert batch_sizes == [min(most, 6)]


def test_all_cores_are_used_unless_jax_has_started() -> None:
    code = """
import os, jax, jax.extend
from zoogen.population import use_all_cores
assert jax.local_device_count() == 1
use_all_cores()
assert jax.local_device_count() == 1
jax.extend.backend.clear_backends()
use_all_cores()
assert jax.local_device_count() == len(os.sched_getaffinity(0))
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True, timeout=60)


def test_rows_are_dealt_out_equally_or_left() -> None:
    even = np.arange(4 * DEVICES * 3.0).reshape(4 * DEVICES, 3)
    dealt = dealt_out({"a": even, "b": even[:, 0]})
    np.testing.assert_array_equal(dealt["a"], even)
    for leaf in dealt.values():
        rows = [shard.data.shape[0] for shard in leaf.addressable_shards]
        assert rows == [4] * DEVICES
    if DEVICES > 1:
        assert isinstance(dealt_out(even[1:]), np.ndarray)
