"""Adam on any arrays, with a falling rate, inside one compiled loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import optax
from jaxtyping import Array, Float, Int


def descend(
    loss: Callable[[Any], Float[Array, ""]], start: Any, steps: int, learning_rate: float
) -> Any:
    """Arrays after some steps of Adam on all examples at once; the rate falls as a cosine to 0.

    Args:
        loss: of the arrays.
        start: a pytree of arrays.
        steps: of Adam.
        learning_rate: at the first step.

    Example:
        >>> start = jax.numpy.float32(0)
        >>> round(float(descend(lambda x: (x - 3) ** 2, start, 200, 0.3)), 3)
        3.0
    """
    adam = optax.adam(optax.cosine_decay_schedule(learning_rate, steps))

    def step(_: Int[Array, ""], carry: Any) -> Any:
        arrays, state = carry
        updates, state = adam.update(jax.grad(loss)(arrays), state)
        return optax.apply_updates(arrays, updates), state

    arrays, _ = jax.lax.fori_loop(0, steps, step, (start, adam.init(start)))
    return arrays
