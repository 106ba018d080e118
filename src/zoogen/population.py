"""Run a function of one member over a population: the one place that knows devices.

On CPU members are mapped one after another inside one program, so that weights and activations
stay in cache; on other backends they are vmapped in chunks. Either way the population axis is
sharded over all local devices through a mesh. A member's result does not depend on its
neighbours beyond float rounding (on CPU: not at all).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

Tree = Any
MemberFunction = Callable[[Tree, Tree], Tree]

DEFAULT_CHUNK = 64


def use_all_cores() -> None:
    """Give XLA one CPU device per core, if JAX has not started yet and nobody chose a number.

    One device per core runs as many members side by side as there are cores. Has no effect
    where the backend is already initialised, or on accelerators.
    """
    chosen = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if chosen or jax.config.values["jax_num_cpu_devices"] > 0 or _backend_started():
        return
    jax.config.update("jax_num_cpu_devices", _usable_cores())


def _usable_cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _backend_started() -> bool:
    return bool(jax._src.xla_bridge.backends_are_initialized())


def over_members(fn: MemberFunction, chunk: int | None = None) -> MemberFunction:
    """Compile ``fn(member, shared)`` over the leading axis of ``member``.

    Args:
        fn: pure function of one member's arrays (a pytree) and of arrays that all share.
        chunk: members that run side by side per device on accelerators; ignored on CPU.

    Returns:
        A function of the same signature in which every leaf of ``member`` and of the result has
        a leading member axis. It compiles once per shape.

    Example:
        >>> double = over_members(lambda member, shared: member * shared)
        >>> double(jnp.arange(3.0), jnp.float32(2)).tolist()
        [0.0, 2.0, 4.0]
    """
    mesh = _mesh()
    body = partial(_map_on_cpu if on_cpu() else _map_in_chunks, fn, chunk)
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


def on_cpu() -> bool:
    """Whether members run on CPU devices."""
    return jax.local_devices()[0].platform == "cpu"


def _mesh() -> Mesh:
    return Mesh(np.array(jax.local_devices()), ("m",))


def _map_on_cpu(fn: MemberFunction, _chunk: int | None, members: Tree, shared: Tree) -> Tree:
    return jax.lax.map(lambda member: fn(member, shared), members)


def _map_in_chunks(fn: MemberFunction, chunk: int | None, members: Tree, shared: Tree) -> Tree:
    size = min(chunk or DEFAULT_CHUNK, _leading(members))
    return jax.lax.map(lambda member: fn(member, shared), members, batch_size=size)


def _leading(tree: Tree) -> int:
    return int(jax.tree.leaves(tree)[0].shape[0])


def _pad(leaf: Any, by: int) -> Any:
    if by == 0:
        return leaf
    leaf = jnp.asarray(leaf)
    return jnp.concatenate([leaf, jnp.repeat(leaf[-1:], by, axis=0)])
