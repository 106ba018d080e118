"""Weight models: functions of other networks' weights."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
from jaxtyping import Array, Float

from zoogen.population import on_cpu

Tree = Any
Apply = Callable[[Tree, Float[Array, "b p *c"]], Float[Array, "b ..."]]

CHUNK_BYTES = 2**19  # features of the members that a CPU works on at once: they stay in cache


@dataclass(frozen=True)
class WeightModel:
    """A model that reads weights, as pure functions.

    Attributes:
        init: ``key → params``.
        apply: ``(params, weights [b p] or [b p c]) → outputs [b …]``; a member's output does not
            depend on the other members of the batch.
    """

    init: Callable[[Array], Tree]
    apply: Apply


def in_chunks(apply: Apply, member_bytes: int) -> Apply:
    """On CPU, run a few members at a time, and run them again for the gradient.

    A step of training then allocates the features of a few members instead of a batch's. That is
    nearly twice as fast although it computes more: new memory costs more than arithmetic that
    stays in cache. On other backends the batch runs as a whole.

    Args:
        apply: of a model.
        member_bytes: the size of one member's features.
    """

    def run(params: Tree, weights: Float[Array, "b p *c"]) -> Float[Array, "b ..."]:
        batch = weights.shape[0]
        size = _chunk(batch, member_bytes)
        if not on_cpu() or size == batch:
            return apply(params, weights)
        # Without the barriers against merging the two runs, which a loop does not need.
        again = jax.checkpoint(lambda chunk: apply(params, chunk), prevent_cse=False)
        outputs = jax.lax.map(again, weights.reshape(-1, size, *weights.shape[1:]))
        return outputs.reshape(batch, *outputs.shape[2:])

    return run


def _chunk(batch: int, member_bytes: int) -> int:
    """The largest divisor of a batch of which so many members fit; at least one."""
    fitting = [n for n in range(1, batch + 1) if batch % n == 0 and n * member_bytes <= CHUNK_BYTES]
    return max(fitting, default=1)
