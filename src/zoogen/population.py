"""Run a function of one member over a population: the one place that knows devices.

On CPU members are mapped one after another inside one program, so that weights and activations
stay in cache; on other backends they are vmapped in chunks. Either way the population axis is
sharded over all local devices through a mesh. A member's result does not depend on its
neighbours beyond float rounding (on CPU: not at all).
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = Any
MemberFunction = Callable[[Tree, Tree], Tree]

DEFAULT_CHUNK = 64
DEFAULT_BUDGET = 2 * 2**30  # bytes, where a device does not tell its memory


def use_all_cores() -> None:
    """Give XLA one CPU device per core, if JAX has not started yet and nobody chose a number.

    One device per core runs as many members side by side as there are cores. Has no effect
    where the backend is already initialised, or on accelerators.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or jax.config.values["jax_num_cpu_devices"] > 0:
        return
    with suppress(RuntimeError):  # JAX's answer once a backend is initialised
        jax.config.update("jax_num_cpu_devices", _usable_cores())


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def chunk_size(member_bytes: int, budget: int) -> int:
    """Members that fit side by side into a budget of memory; at least one.

    Args:
        member_bytes: what one member needs while it runs (weights, gradients, activations).
        budget: bytes for all of them.

    Example:
        >>> chunk_size(300, 1000), chunk_size(2000, 1000)
        (3, 1)
    """
    return max(1, budget // max(1, member_bytes))


def memory_budget() -> int:
    """Bytes that the members in work may take together on one device.

    Half of the device's memory, where it tells: the rest holds the data and the members that
    wait, and the error of the estimates. It does not depend on what is in use at the moment, so
    that a resumed run gets the same chunks, hence the same last bits.
    """
    limit = (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit", 0)
    return int(limit) // 2 or DEFAULT_BUDGET


def over_members(
    fn: MemberFunction, chunk: int | None = None, member_bytes: int | None = None
) -> MemberFunction:
    """Compile ``fn(member, shared)`` over the leading axis of ``member``.

    Args:
        fn: pure function of one member's arrays (a pytree) and of arrays that all share.
        chunk: most members that run side by side per device on accelerators; ignored on CPU.
        member_bytes: what one member needs while it runs; without a ``chunk``, as many run side
            by side as fit into :func:`memory_budget`. Without either: ``DEFAULT_CHUNK``.

    Returns:
        A function of the same signature in which every leaf of ``member`` and of the result has
        a leading member axis. It compiles once per shape.

    Example:
        >>> double = over_members(lambda member, shared: member * shared)
        >>> double(jnp.arange(3.0), jnp.float32(2)).tolist()
        [0.0, 2.0, 4.0]
    """
    mesh = _mesh()
    body = partial(_map_on_cpu, fn)
    if not on_cpu():
        body = partial(_map_in_chunks, fn, chunk or _fitting(member_bytes))
    members, shared = PartitionSpec("m"), PartitionSpec()
    program = jax.jit(
        jax.shard_map(
            body, mesh=mesh, in_specs=(members, shared), out_specs=members, check_vma=False
        )
    )

    def run(member: Tree, shared_arrays: Tree) -> Tree:
        missing = -_leading(member) % mesh.size
        if missing == 0:
            return program(member, shared_arrays)
        padded = jax.tree.map(partial(_pad, by=missing), member)
        result = program(padded, shared_arrays)
        return jax.tree.map(lambda leaf: leaf[:-missing], result)

    return run


def share(tree: Tree) -> Tree:
    """Place arrays that all members share on every device, once."""
    return jax.device_put(tree, NamedSharding(_mesh(), PartitionSpec()))


def dealt_out(tree: Tree) -> Tree:
    """Place rows of arrays on all devices, equally many on each.

    Compiled functions that treat rows alone then run on all devices, with the same results. Arrays
    whose rows can't be dealt out equally stay on one.
    """
    mesh = _mesh()
    if _leading(tree) % mesh.size:
        return tree
    return jax.device_put(tree, NamedSharding(mesh, PartitionSpec("m")))


def on_cpu() -> bool:
    """Whether members run on CPU devices."""
    return jax.local_devices()[0].platform == "cpu"


def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("m",))


def _fitting(member_bytes: int | None) -> int:
    return DEFAULT_CHUNK if member_bytes is None else chunk_size(member_bytes, memory_budget())


def _map_on_cpu(fn: MemberFunction, members: Tree, shared: Tree) -> Tree:
    return jax.lax.map(lambda member: fn(member, shared), members)


def _map_in_chunks(fn: MemberFunction, chunk: int, members: Tree, shared: Tree) -> Tree:
    count = _leading(members)
    # As even as can be: a rest of another size is compiled, and waited for, on its own.
    size = math.ceil(count / math.ceil(count / chunk))
    return jax.lax.map(lambda member: fn(member, shared), members, batch_size=size)


def _leading(tree: Tree) -> int:
    return int(jax.tree.leaves(tree)[0].shape[0])


def _pad(leaf: Any, by: int) -> Any:
    if by == 0:
        return leaf
    leaf = jnp.asarray(leaf)
    return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], by, axis=0)])
