"""Flow matching: a velocity field that carries noise to data, and its fit.

Noise ``x0`` and data ``x1``, both of unit scale, are joined by straight lines ``x_t = (1 − t) x0 +
t x1``. The model does not return the velocity itself but ``F`` in

    velocity = (2t − 1) / s² · x_t + F / s,    s² = t² + (1 − t)²,

where the first term is the best linear guess and ``F`` has unit scale at all times. Neither term
grows at the ends, and ``F`` is as good as a prediction of ``x1``: they differ by known factors.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int
from scipy.special import expit, ndtri

from zoogen.generators.batches import in_batches
from zoogen.generators.conditions import forgotten
from zoogen.generators.dataset_encoder import DatasetEncoder, Examples
from zoogen.generators.fitting import Fitted, Objective, fit
from zoogen.generators.generator import Effort
from zoogen.generators.sight import AT_ONCE, FACTS, Sight, gradients, squared
from zoogen.networks import Network

Tree = Any

FREQUENCIES = 16
TIMES = (np.arange(16) + 0.5) / 16  # at which errors of a fitted field are taken
ERRORS = 256  # least rows by which these errors are taken
GRADIENTS = 512  # training images of a step on which gradients are taken


class Field(NamedTuple):
    """A model of ``F``.

    Attributes:
        init: ``key → params``.
        apply: ``(params, x_t [b d], condition [b condition]) → F [b d]``; one that reads gradients
            is given ``[b d 2]``, weights and gradients. See :func:`condition_size`.
        matrices: ``params → tree of booleans``: which are matrices that Muon moves; ``None``: Adam
            moves all.
    """

    init: Callable[[Array], Tree]
    apply: Callable[[Tree, Float[Array, "b d"], Float[Array, "b e"]], Float[Array, "b d"]]
    matrices: Callable[[Tree], Tree] | None = None


class Data(NamedTuple):
    """What a field is fitted on.

    Attributes:
        values: of unit scale.
        conditions: of the same rows.
        of: number of the data set that each row was trained on, for a :class:`Teller`.
        images: of its :class:`~zoogen.generators.dataset_encoder.Examples`.
    """

    values: Float32[np.ndarray, "n d"]
    conditions: Float32[np.ndarray, "n e"]
    of: Int[np.ndarray, " n"] = np.zeros(0, int)
    images: Float32[np.ndarray, "i p"] = np.zeros((1, 0), np.float32)


Coupling = Callable[[Float32[np.ndarray, "b d"], Float32[np.ndarray, "b d"]], Any]
"""``(noise, data) → noise``: the same noise, brought nearer to the data that it is joined with."""


def independent(noise: Float32[np.ndarray, "b d"], _data: Any) -> Float32[np.ndarray, "b d"]:
    """Noise as it is drawn."""
    return noise


def condition_size(size: int, gradients: bool = False) -> int:
    """Length of what a field is told: conditions of this length, the time, facts of gradients."""
    return size + 2 * FREQUENCIES + FACTS * gradients


class Seen(NamedTuple):
    """What the networks see whose weights the data are.

    Attributes:
        network: that all are.
        sight: what they look at.
        gradients: whether the field reads gradients of their loss.
        weight: of the second part of the loss: errors as these networks see them. It grows with
            time, as guesses turn into networks.
    """

    network: Network
    sight: Sight
    gradients: bool = False
    weight: float = 0.0


class Teller(NamedTuple):
    """Tells a field what data were trained on, behind their conditions.

    Attributes:
        encoder: of data sets, fitted with the field.
        examples: images of each data set.
        shots: images of each class that it looks at.
    """

    encoder: DatasetEncoder
    examples: Examples
    shots: int


GradientOf = Callable[[Float[Array, "b d"]], tuple[Float[Array, "b d"], Float[Array, "b facts"]]]
"""Weights → gradients and facts of them, see :func:`~zoogen.generators.sight.gradients`."""


class Reading(NamedTuple):
    """What a field is given of ``x_t``, whatever it is asked for.

    Attributes:
        x: ``x_t``; with gradients, those at the best linear guess of the data beside it.
        told: the time, and facts of the gradients.
    """

    x: Float[Array, "b d *c"]
    told: Float[Array, "b t"]


def reading(
    gradient_of: GradientOf | None, x: Float[Array, "b d"], time: Float[Array, " b"]
) -> Reading:
    """``x_t`` as a field reads it."""
    told = with_time(jnp.zeros((len(x), 0)), time)
    if gradient_of is None:
        return Reading(x, told)
    t = time[:, None]
    gradient, facts = gradient_of(t / (t**2 + (1 - t) ** 2) * x)
    return Reading(jnp.stack([x, gradient], axis=-1), jnp.concatenate([told, facts], axis=1))


def answer(
    field: Field, params: Tree, read: Reading, conditions: Float[Array, "b e"]
) -> Float[Array, "b d"]:
    """``F``."""
    return field.apply(params, read.x, jnp.concatenate([conditions, read.told], axis=1))


# ---------------------------------------------------------------------------------------- fit
class _Draws(NamedTuple):
    """Everything random in some steps."""

    rows: Any
    noise: Any
    time: Any
    forget: Any
    forget_set: Any
    inputs: Any
    shown: Any

    @property
    def for_errors(self) -> Any:
        """Inputs of one step by which its errors are measured."""
        return self.inputs[:AT_ONCE]

    @property
    def for_gradients(self) -> Any:
        """Inputs of one step on which gradients are taken: others, where there are enough."""
        return self.inputs[-GRADIENTS:]


def fit_field(
    field: Field,
    train: Data,
    validation: Data,
    effort: Effort,
    coupling: Coupling = independent,
    seen: Seen | None = None,
    sizes: Sequence[int] | None = None,
    teller: Teller | None = None,
) -> Fitted:
    """Fit a field by flow matching.

    Args:
        field: to fit.
        train: of unit scale.
        validation: on the same scale; decides which look counts.
        effort: steps, batch size, learning rate, looks and seed.
        coupling: of noise and data.
        seen: what the networks see whose weights the data are; by default errors count as they
            are, and no gradients are read.
        sizes: entries that stand for each condition; one each by default.
        teller: tells of the data sets behind members; nothing is told of them by default.

    Returns:
        Parameters of the ``field`` and, with a teller, of its ``encoder``, and losses.

    Raises:
        ConfigError: if the loss is not finite.

    Reference:
        Lipman, Chen, Ben-Hamu, Nickel and Le, Flow matching for generative modeling, 2023; Tong et
        al., Improving and generalizing flow-based generative models with minibatch optimal
        transport, 2024 (couplings); Karras, Aittala, Aila and Laine, Elucidating the design space
        of diffusion-based generative models, 2022 (unit scale at all times).
    """
    objective = Objective(
        name="flow",
        numbers=train.values.shape[1],
        init=partial(initial, field, teller.encoder if teller else None),
        draw=partial(_draws, coupling, len(seen.sight.inputs) if seen else 0, sizes, teller),
        loss=partial(_loss, field, seen, teller),
        judged=lambda draws: draws._replace(
            forget=np.zeros_like(draws.forget), forget_set=np.zeros_like(draws.forget_set)
        ),
        matrices=None if field.matrices is None else partial(_matrices, field.matrices),
    )
    return fit(objective, train, validation, effort)


def initial(field: Field, encoder: DatasetEncoder | None, key: Array) -> dict[str, Tree]:
    """New parameters of a field, and of an encoder where there is one."""
    params = {"field": field.init(key)}
    if encoder is None:
        return params
    return params | {"encoder": encoder.init(jax.random.fold_in(key, 1))}


def _matrices(of_field: Callable[[Tree], Tree], params: dict[str, Tree]) -> dict[str, Tree]:
    """Those of the field; an encoder is moved by Adam."""
    none = {name: jax.tree.map(lambda _: False, part) for name, part in params.items()}
    return none | {"field": of_field(params["field"])}


def _draws(
    coupling: Coupling,
    inputs: int,
    sizes: Sequence[int] | None,
    teller: Teller | None,
    data: Data,
    batch: int,
    steps: int,
    seed: list[int],
) -> _Draws:
    rng = np.random.default_rng(seed)
    dimension, entries = data.values.shape[1], data.conditions.shape[1]
    rows = np.stack([rng.choice(len(data.values), batch, replace=False) for _ in range(steps)])
    noise = rng.standard_normal((steps, batch, dimension), np.float32)
    flat = coupling(noise.reshape(-1, dimension), data.values[rows.reshape(-1)])
    # More often in the middle, where the noise is neither gone nor all there is; one time in each
    # of as many equal parts as a batch has members, which makes the loss vary less.
    parts = rng.permuted(np.tile(np.arange(batch), (steps, 1)), axis=1)
    time = expit(ndtri((parts + rng.uniform(1e-6, 1 - 1e-6, parts.shape)) / batch))
    told = [*(sizes or [1] * entries), *([1] if teller else [])]
    forget, forget_set = np.split(forgotten(rng, told, (steps, batch)), [entries], axis=-1)
    # None twice in a step: a sample looks at each of them once, too.
    count = min(AT_ONCE + GRADIENTS, inputs)
    looked = np.stack([rng.choice(inputs, count, replace=False) for _ in range(steps)])
    shown = teller and teller.examples.shown(rng, data.of[rows], teller.shots)
    return _Draws(
        rows, flat.reshape(noise.shape), time.astype(np.float32), forget, forget_set, looked, shown
    )


def _loss(
    field: Field,
    seen: Seen | None,
    teller: Teller | None,
    params: dict[str, Tree],
    data: Data,
    drawn: _Draws,
) -> Float[Array, ""]:
    """Mean squared error of ``F``, and as it is seen from the data that are guessed with it."""
    x1, t = data.values[drawn.rows], drawn.time[:, None]
    conditions = _told(teller, params, data, drawn)
    x, target = _joined(drawn.noise, x1, t)
    gradient_of = None
    if seen is not None and seen.gradients:
        gradient_of = partial(gradients, seen.network, seen.sight, rows=drawn.for_gradients)
    read = reading(gradient_of, x, drawn.time)
    found = answer(field, params["field"], read, conditions)
    loss = jnp.square(found - target).mean()
    if seen is None or not seen.weight:
        return loss
    square = t**2 + (1 - t) ** 2
    guess = (t * x + (1 - t) * jnp.sqrt(square) * found) / square
    # Noise of another row: a row's own tells of its target, and would bias the prediction.
    unit = jnp.roll(drawn.noise, 1, axis=0)
    as_seen = squared(seen.network, seen.sight, guess, found - target, unit, drawn.for_errors)
    return loss + seen.weight * (drawn.time * as_seen).mean()


def _told(
    teller: Teller | None, params: dict[str, Tree], data: Data, drawn: _Draws
) -> Float[Array, "b e"]:
    """Conditions that are not forgotten, and the embedding of each row's data set."""
    told = jnp.where(drawn.forget, 0, data.conditions[drawn.rows])
    if teller is None:
        return told
    images, own = data.images[drawn.shown], data.of[drawn.rows]
    embedded, of = teller.encoder.of_rows(params["encoder"], images, own)
    return jnp.concatenate([told, jnp.where(drawn.forget_set, 0, embedded[of])], axis=1)


def with_time(
    conditions: Float[Array, "b e"], time: Float[Array, " b"]
) -> Float[Array, "b condition"]:
    """Conditions with the time behind them, as sines and cosines of many frequencies."""
    angles = time[:, None] * jnp.pi * jnp.geomspace(0.5, 64, FREQUENCIES)
    return jnp.concatenate([conditions, jnp.sin(angles), jnp.cos(angles)], axis=1)


# ------------------------------------------------------------------------------------------ errors
def errors_of(
    field: Field, params: Tree, data: Data, seen: Seen | None = None, seed: int = 0
) -> Float[np.ndarray, "times d"]:
    """Mean squared errors of ``F`` at :data:`TIMES`, entry by entry.

    They say how uncertain data are, given where a path is.

    Args:
        field: fitted.
        params: its parameters.
        data: that it was not fitted on.
        seen: what the networks see, if the field reads gradients.
        seed: of the noise.
    """
    rows = np.arange(max(len(data.values), ERRORS)) % len(data.values)
    noise = np.random.default_rng(seed).standard_normal((len(rows), *data.values.shape[1:]))
    some = noise.astype(np.float32), data.values[rows], data.conditions[rows]
    known = _known(field, seen)
    found = [
        in_batches(lambda _, *part, t=t: known(params, np.float32(t), *part), some, 64)
        for t in TIMES
    ]
    return np.stack([each.mean(axis=0) for each in found])


def _known(field: Field, seen: Seen | None) -> Callable[..., Float[Array, "b d"]]:
    gradient_of = None
    if seen is not None and seen.gradients:
        rows = jnp.arange(len(seen.sight.inputs))
        gradient_of = partial(gradients, seen.network, seen.sight, rows=rows)

    @jax.jit
    def squared_error(params: Tree, t: Array, noise: Array, x1: Array, conditions: Array) -> Array:
        x, target = _joined(noise, x1, t)
        read = reading(gradient_of, x, jnp.full(len(x), t))
        return jnp.square(answer(field, params, read, conditions) - target)

    return squared_error


def _joined(
    noise: Float[Array, "b d"], x1: Float[Array, "b d"], t: Float[Array, "..."]
) -> tuple[Float[Array, "b d"], Float[Array, "b d"]]:
    """``x_t`` and ``F`` there."""
    x, square = (1 - t) * noise + t * x1, t**2 + (1 - t) ** 2
    return x, jnp.sqrt(square) * (x1 - noise - (2 * t - 1) / square * x)
