"""Token models: transformers over the units of a network, with heads and a condition per member."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from zoogen.errors import ConfigError
from zoogen.models import token_attention, unit_attention
from zoogen.models.equivariant import with_channels
from zoogen.models.heads import initial_mlp, mlp
from zoogen.models.model import Body, WeightModel, in_chunks
from zoogen.models.tokens import tokens_of
from zoogen.params import ParamSpec

Form = Literal["units", "plain"]


@dataclass(frozen=True)
class TokenStack:
    """Options of a token model.

    Attributes:
        tokens: ``units``: attention along weights, exactly equivariant. ``plain``: the weights of
            a unit are the content of its token, and tokens have positions; not equivariant.
        channels: features of a token.
        depth: layers.
        heads: of attention.
        edge_channels: features of the state of a weight (``units``).
        window: most tokens that attend to one another (``plain``); ``None`` for all.
        width: numbers of a token, see :func:`~zoogen.models.tokens_of` (``plain``).
        input_channels: numbers per parameter that the model reads.
    """

    tokens: Form = "units"
    channels: int = 64
    depth: int = 4
    heads: int = 4
    edge_channels: int = 16
    window: int | None = None
    width: int | None = None
    input_channels: int = 1

    def __post_init__(self) -> None:
        for name in ("channels", "depth", "heads", "edge_channels", "window", "width",
                     "input_channels"):  # fmt: skip
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ConfigError(f"{name}: expected at least 1, found {value}")
        if self.tokens not in get_args(Form):
            known = ", ".join(get_args(Form))
            raise ConfigError(f"tokens: expected one of {known}, found {self.tokens!r}")
        if self.channels % self.heads:
            raise ConfigError(
                f"heads: expected a divisor of {self.channels} channels, found {self.heads}"
            )
        if self.tokens == "units" and (self.window or self.width):
            raise ConfigError(
                "window, width: only for tokens='plain'; attention along weights has neither, its "
                "cost grows with the number of weights"
            )


def token_model(
    spec: ParamSpec,
    outputs: int,
    stack: TokenStack | None = None,
    condition_size: int = 0,
    hidden: int = 128,
) -> WeightModel:
    """A transformer over units that says something about a whole network.

    Args:
        spec: of the networks that it reads.
        outputs: numbers per network.
        stack: the layers.
        condition_size: numbers of each member's condition.
        hidden: units of the head's hidden layer.

    Returns:
        ``apply(params, weights [b p])`` gives ``[b outputs]``; with a condition
        ``apply(params, weights, condition [b d])``. Weights should be standardised.

    Raises:
        ConfigError: if the spec has no graph (``units``).

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(5, "hidden"), Axis(2))})
        >>> model = token_model(spec, 3, TokenStack(channels=8))
        >>> model.apply(model.init(jax.random.key(0)), jnp.ones((7, 10))).shape
        (7, 3)
    """
    stack = stack or TokenStack()
    body = _body(spec, stack, condition_size, 0)

    def init(key: Array) -> dict[str, Any]:
        of_body, of_head = jax.random.split(key)
        head = initial_mlp(of_head, (body.size, hidden, outputs))
        return {"body": body.init(of_body), "head": head}

    def apply(
        params: Any, weights: Float[Array, "b p c"], condition: Float[Array, "b d"]
    ) -> Float[Array, "b outputs"]:
        return mlp(params["head"], body.summary(body.state(params["body"], weights, condition)))

    return _conditioned(spec, stack, condition_size, body, init, apply)


def token_parameter_model(
    spec: ParamSpec,
    stack: TokenStack | None = None,
    channels: int = 1,
    condition_size: int = 0,
    scale: float = 1.0,
) -> WeightModel:
    """A transformer over units that says something about every parameter.

    With ``tokens="units"`` the result moves with the units as the parameters do: a velocity field
    for flows over weights, where time and what the network shall be are the condition.

    Args:
        spec: of the networks that it reads.
        stack: the layers.
        channels: numbers per parameter.
        condition_size: numbers of each member's condition; a new model does not see it yet.
        scale: initial factor on the outputs, learned.

    Returns:
        ``apply(params, weights [b p])`` gives ``[b p]``, or ``[b p channels]``; with a condition
        ``apply(params, weights, condition [b d])``.

    Raises:
        ConfigError: if the spec has no graph (``units``).

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"weight": (Axis(5, "hidden"), Axis(2))})
        >>> model = token_parameter_model(spec, TokenStack(channels=8), condition_size=2)
        >>> params = model.init(jax.random.key(0))
        >>> model.apply(params, jnp.ones((7, 10)), jnp.ones((7, 2))).shape
        (7, 10)
    """
    stack = stack or TokenStack()
    body = _body(spec, stack, condition_size, channels)

    def init(key: Array) -> dict[str, Any]:
        return {"body": body.init(key), "scale": jnp.full((), scale)}

    def apply(
        params: Any, weights: Float[Array, "b p c"], condition: Float[Array, "b d"]
    ) -> Float[Array, "b p *channels"]:
        state = body.state(params["body"], weights, condition)
        numbers = params["scale"] * body.numbers(params["body"], state)
        return numbers if channels > 1 else numbers[..., 0]

    return _conditioned(spec, stack, condition_size, body, init, apply)


def _body(spec: ParamSpec, stack: TokenStack, condition: int, outputs: int) -> Body:
    shared = {"channels": stack.channels, "depth": stack.depth, "heads": stack.heads}
    shared |= {"inputs": stack.input_channels, "condition": condition, "outputs": outputs}
    if stack.tokens == "units":
        sizes = unit_attention.Sizes(edges=stack.edge_channels, **shared)
        return unit_attention.unit_attention(spec, sizes)
    windowed = token_attention.Sizes(window=stack.window, **shared)
    return token_attention.token_attention(tokens_of(spec, stack.width), windowed)


def _conditioned(
    spec: ParamSpec, stack: TokenStack, size: int, body: Body, init: Any, apply: Any
) -> WeightModel:
    """The model in chunks, with its inputs checked and an empty condition where it has none."""
    chunked = in_chunks(apply, body.footprint)

    def run(
        params: Any, weights: Float[Array, "b p *c"], condition: Float[Array, "b d"] | None = None
    ) -> Float[Array, "b ..."]:
        channelled = with_channels(spec, stack.input_channels, weights)
        if condition is None:
            condition = jnp.zeros((len(channelled), 0), channelled.dtype)
        if condition.shape != (len(channelled), size):
            raise ConfigError(
                f"condition of a batch: expected {(len(channelled), size)}, found "
                f"{condition.shape}; this model was built for condition_size={size}"
            )
        return chunked(params, channelled, condition)

    return WeightModel(init, run)
