"""What a family's builder returns: a network without its initial weights."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from jaxtyping import Array, Float

from zoogen.params import Params, ParamSpec

Apply = Callable[[Params, Float[Array, "b c h w"]], Float[Array, "b k"]]


class Architecture(NamedTuple):
    """Parameters and function of a network.

    Attributes:
        spec: names, shapes and symmetries of the parameters.
        apply: ``(params, images [b c h w]) → logits [b k]``.
    """

    spec: ParamSpec
    apply: Apply
