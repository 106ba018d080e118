"""What a family's builder returns: a network, with initial weights only where they are its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple, Protocol

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


class BatchMoments(NamedTuple):
    """Of every unit's input to a norm, over the images of a batch and the positions of maps.

    Attributes:
        mean: ``[u]``.
        variance: ``[u]``, the mean squared deviation.
        size: number of values per unit.
    """

    mean: Float[Array, " u"]
    variance: Float[Array, " u"]
    size: int


Apply = Callable[[Params, Float[Array, "b c h w"]], Float[Array, "b k"]]
Init = Callable[[Array, float | Float[Array, ""]], Params]
Drop = Callable[[str, Array], Array]
"""What happens to the units of a layer, by its name, before the next one reads them."""


def keep(name: str, units: Array) -> Array:
    """All units as they are."""
    return units


class Forward(Protocol):
    """A network as a function: of parameters and images, and in training of what is dropped."""

    def __call__(
        self, params: Params, images: Float[Array, "b c h w"], /, drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, Hidden]]: ...


class TrainForward(Protocol):
    """The same in training: norms over a batch take its moments, and show them."""

    def __call__(
        self, params: Params, images: Float[Array, "b c h w"], /, drop: Drop = keep
    ) -> tuple[Float[Array, "b k"], dict[str, BatchMoments]]: ...


class Architecture(NamedTuple):
    """Parameters and function of a network.

    Attributes:
        spec: names, shapes and symmetries of the parameters.
        forward: ``(params, images [b c h w]) → (logits [b k], group of the spec → Hidden)``; with
            ``drop``, hidden units go through it after their activation.
        init: ``(key, scale) → params``, where the family has initial weights of its own.
        train_forward: ``(params, images) → (logits, norm → BatchMoments)``, normalised by the batch
            itself; ``None`` where training computes what evaluation does, but for what is dropped.
    """

    spec: ParamSpec
    forward: Forward
    init: Init | None = None
    train_forward: TrainForward | None = None
