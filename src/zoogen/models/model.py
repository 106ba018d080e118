"""Weight models: functions of other networks' weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
from jaxtyping import Array, Float

from zoogen.population import chunk_size, on_cpu

Tree = Any
Apply = Callable[..., Float[Array, "b ..."]]

# Of features of all layers, by measurement (benchmarks/weight_models.py):
CHUNK_BYTES = 2**21  # a CPU works on so many at once, so that they stay in cache
REUSED_BYTES = 2**25  # blocks of memory up to this size are kept from step to step and cost nothing
NARROW = 128  # features of an entry up to which computing them again is cheaper than new memory


@dataclass(frozen=True)
class WeightModel:
    """A model that reads weights, as pure functions.

    Attributes:
        init: ``key → params``.
        apply: ``(params, weights [b p] or [b p c]) → outputs [b …]``, of some models with a
            further argument ``condition [b d]``; a member's output does not depend on the other
            members of the batch.
    """

    init: Callable[[Array], Tree]
    apply: Apply


class Footprint(NamedTuple):
    """What a model computes on the way to its output.

    Attributes:
        member_bytes: size of one member's features in all layers.
        width: mean number of features that one entry of a tensor holds.
    """

    member_bytes: int
    width: float


class Body(NamedTuple):
    """Layers between the weights of networks and heads, as pure functions.

    Attributes:
        size: of a summary.
        footprint: of the layers.
        init: ``key → params``.
        state: ``(params, weights [b p c], condition [b d]) → state`` behind the last layer.
        summary: ``state → [b size]``, about whole networks.
        numbers: ``(params, state) → [b p o]``, about each parameter.
    """

    size: int
    footprint: Footprint
    init: Callable[[Array], Tree]
    state: Callable[[Tree, Float[Array, "b p c"], Float[Array, "b d"]], Tree]
    summary: Callable[[Tree], Float[Array, "b i"]]
    numbers: Callable[[Tree, Tree], Float[Array, "b p o"]]


def in_chunks(apply: Apply, footprint: Footprint, chunk_bytes: int | None = None) -> Apply:
    """On CPU, run a few members at a time, and run them again for the gradient.

    A step of training then allocates the features of a few members instead of a batch's. Where
    those are many and narrow that is nearly twice as fast although it computes more: there, new
    memory costs more than arithmetic that stays in cache. Elsewhere the batch runs as a whole.

    Args:
        apply: of a model; all arguments but the first have an axis of members.
        footprint: of the same model.
        chunk_bytes: features that run at once, by default ``CHUNK_BYTES``.
    """

    def run(params: Tree, *inputs: Float[Array, "b ..."]) -> Float[Array, "b ..."]:
        batch = inputs[0].shape[0]
        size = _chunk(batch, footprint, chunk_bytes or CHUNK_BYTES)
        if not on_cpu() or size == batch:
            return apply(params, *inputs)
        # Without the barriers against merging the two runs, which a loop does not need.
        again = jax.checkpoint(lambda chunk: apply(params, *chunk), prevent_cse=False)
        outputs = jax.lax.map(
            again, tuple(x.reshape(batch // size, size, *x.shape[1:]) for x in inputs)
        )
        return outputs.reshape(batch, *outputs.shape[2:])

    return run


def _chunk(batch: int, footprint: Footprint, chunk_bytes: int) -> int:
    """Members that run at once: the batch, or the largest divisor of it that fits the cache."""
    if footprint.width > NARROW or batch * footprint.member_bytes <= REUSED_BYTES:
        return batch
    fitting = chunk_size(footprint.member_bytes, chunk_bytes)
    return max(size for size in range(1, batch + 1) if batch % size == 0 and size <= fitting)
