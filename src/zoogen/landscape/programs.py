"""The two programs of a measurement, each of one row: a member or a pair at one snapshot."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import jax
import numpy as np

from zoogen.landscape.group import (
    Arrays,
    Examples,
    MemberRow,
    MemberView,
    PairRow,
    PairView,
    Raw,
    Task,
)
from zoogen.landscape.groups import GROUPS
from zoogen.networks.cost import working_bytes
from zoogen.population import MemberFunction, on_cpu, over_members

_CPU_BLOCK = 16  # rows per device between two reports of progress
_ACCELERATOR_BLOCK = 256


@lru_cache(maxsize=64)
def member_program(task: Task, groups: tuple[str, ...]) -> MemberFunction:
    """The program over rows of type :class:`MemberRow`, compiled once for equal arguments."""
    return over_members(partial(_measure_member, task, groups), member_bytes=_row_bytes(task))


@lru_cache(maxsize=64)
def pair_program(task: Task, groups: tuple[str, ...]) -> MemberFunction:
    """The program over rows of type :class:`PairRow`, compiled once for equal arguments."""
    return over_members(partial(_measure_pair, task, groups), member_bytes=_row_bytes(task))


def _row_bytes(task: Task) -> int | None:
    """Memory of a row on an accelerator, where many lie side by side: a pass over both probe sets
    is the largest thing that it does."""
    return None if on_cpu() else working_bytes(task.network, 2 * task.probe)


def _measure_member(task: Task, groups: tuple[str, ...], row: MemberRow, data: Examples) -> Raw:
    view = MemberView(task, row, data)
    found: Raw = {}
    for name in groups:
        take = GROUPS[name].of_member
        found |= take(view) if take else {}
    return found


def _measure_pair(task: Task, groups: tuple[str, ...], row: PairRow, data: Examples) -> Raw:
    view = PairView(task, row, data)
    found: Raw = {}
    for name in groups:
        take = GROUPS[name].of_pair
        found |= take(view) if take else {}
    return found


def over_rows(
    program: MemberFunction,
    row: Callable[[int, int], Any],
    items: int,
    snapshots: int,
    data: Examples,
    on_rows: Callable[[int], None],
) -> Arrays:
    """Run a program over (item, snapshot) in blocks of one shape, hence one compilation.

    Args:
        program: of one row and the shared examples.
        row: item and snapshot → the row's arrays.
        items: members or pairs; at least one.
        snapshots: per item.
        data: what all rows share.
        on_rows: called with the number of rows just done.

    Returns:
        Raw arrays ``[items, snapshots, …]``.
    """
    total, size = items * snapshots, _block_size(items * snapshots)
    parts = []
    for begin in range(0, total, size):
        # The last block is filled up with copies of the last row.
        places = np.minimum(np.arange(begin, begin + size), total - 1)
        rows = [row(*divmod(int(place), snapshots)) for place in places]
        block = jax.tree.map(lambda *leaves: np.stack(leaves), *rows)
        parts.append(jax.tree.map(np.asarray, program(block, data)))
        on_rows(min(begin + size, total) - begin)
    joined = {name: np.concatenate([part[name] for part in parts])[:total] for name in parts[0]}
    return {name: rows.reshape(items, snapshots, *rows.shape[1:]) for name, rows in joined.items()}


def _block_size(total: int) -> int:
    """Rows per call: a multiple of the devices, and as even as can be over the calls."""
    devices = jax.local_device_count()
    calls = math.ceil(total / (devices * (_CPU_BLOCK if on_cpu() else _ACCELERATOR_BLOCK)))
    return math.ceil(total / calls / devices) * devices


def empty_rows(
    task: Task, groups: tuple[str, ...], row: PairRow, snapshots: int, data: Examples
) -> Arrays:
    """The raw arrays of no pairs at all: shapes alone, nothing is compiled."""
    shapes = jax.eval_shape(partial(_measure_pair, task, groups), row, data)
    return {name: np.empty((0, snapshots, *s.shape), s.dtype) for name, s in shapes.items()}
