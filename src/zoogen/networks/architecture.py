"""What a family's builder returns: a network, with initial weights only where they are its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

from zoogen.params import Params, ParamSpec


class Hidden(NamedTuple):
    """What the units of one group hold: ``[b u]``, or ``[b u h w]`` for channels of maps.

    Attributes:
        before: input of the activation.
        after: its output, which the next layer reads.
    """

    before: Float[Array, "b u *hw"]
    after: Float[Array, "b u *hw"]


Apply = Callable[[Params, Float[Array, "b c h w"]], Float[Array, "b k"]]
Forward = Callable[[Params, Float[Array, "b c h w"]], tuple[Float[Array, "b k"], dict[str, Hidden]]]
Init = Callable[[Array, float | Float[Array, ""]], Params]


class Architecture(NamedTuple):
    """Parameters and function of a network.

    Attributes:
        spec: names, shapes and symmetries of the parameters.
        forward: ``(params, images [b c h w]) → (logits [b k], group of the spec → Hidden)``.
        init: ``(key, scale) → params``, where the family has initial weights of its own.
    """

    spec: ParamSpec
    forward: Forward
    init: Init | None = None
