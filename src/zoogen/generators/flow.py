"""Flow matching: a velocity field that carries noise to data, its fit and its integration.

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
from jaxtyping import Array, Float, Float32
from scipy.special import expit, ndtri

from zoogen.errors import ConfigError
from zoogen.generators.batches import in_batches
from zoogen.generators.conditions import forgotten
from zoogen.generators.fitting import Fitted, Objective, fit
from zoogen.generators.generator import Effort
from zoogen.generators.sight import AT_ONCE, FACTS, Sight, gradients, squared
from zoogen.networks import Network

Tree = Any

FREQUENCIES = 16
GRADIENTS = 512  # training images of a step on which gradients are taken


class Field(NamedTuple):
    """A model of ``F``.

    Attributes:
        init: ``key → params``.
        apply: ``(params, x_t [b d], condition [b condition]) → F [b d]``; one that reads gradients
            is given ``[b d 2]``: both, entry by entry. See :func:`condition_size`.
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
    """

    values: Float32[np.ndarray, "n d"]
    conditions: Float32[np.ndarray, "n e"]


Coupling = Callable[[Float32[np.ndarray, "b d"], Float32[np.ndarray, "b d"]], Any]
"""``(noise, data) → noise``: the same noise, brought nearer to the data that it is joined with."""


def independent(noise: Float32[np.ndarray, "b d"], _data: Any) -> Float32[np.ndarray, "b d"]:
    """Noise as it is drawn."""
    return noise


def condition_size(size: int, reads: int = 1) -> int:
    """Length of what a field is told: conditions of this length, the time, facts of gradients."""
    return size + 2 * FREQUENCIES + (reads - 1) * FACTS


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


def _answer(
    field: Field,
    look: Callable[[Array], tuple[Array, Array]] | None,
    params: Tree,
    x: Float[Array, "b d"],
    conditions: Float[Array, "b e"],
    time: Float[Array, " b"],
) -> Float[Array, "b d"]:
    """``F``; one that reads gradients is given those at the best linear guess of the data."""
    told = with_time(conditions, time)
    if look is None:
        return field.apply(params, x, told)
    t = time[:, None]
    gradient, facts = look(t / (t**2 + (1 - t) ** 2) * x)
    read = jnp.stack([x, gradient], axis=-1)
    return field.apply(params, read, jnp.concatenate([told, facts], axis=1))


# ---------------------------------------------------------------------------------------- fit
class _Draws(NamedTuple):
    """Everything random in some steps."""

    rows: Any
    noise: Any
    time: Any
    forget: Any
    inputs: Any


def fit_field(
    field: Field,
    train: Data,
    validation: Data,
    effort: Effort,
    coupling: Coupling = independent,
    seen: Seen | None = None,
    sizes: Sequence[int] | None = None,
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
        init=field.init,
        draw=partial(_draws, coupling, len(seen.sight.inputs) if seen else 0, sizes),
        loss=partial(_loss, field, seen),
        judged=lambda draws: draws._replace(forget=np.zeros_like(draws.forget)),
        matrices=field.matrices,
    )
    return fit(objective, train, validation, effort)


def _draws(
    coupling: Coupling,
    inputs: int,
    sizes: Sequence[int] | None,
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
    forget = forgotten(rng, sizes or [1] * entries, (steps, batch))
    count = AT_ONCE + GRADIENTS if inputs else 0
    looked = rng.integers(max(1, inputs), size=(steps, count))
    return _Draws(rows, flat.reshape(noise.shape), time.astype(np.float32), forget, looked)


def _loss(
    field: Field, seen: Seen | None, params: Tree, data: Data, drawn: _Draws
) -> Float[Array, ""]:
    """Mean squared error of ``F``, and as it is seen from the data that are guessed with it."""
    x1, t = data.values[drawn.rows], drawn.time[:, None]
    conditions = jnp.where(drawn.forget, 0, data.conditions[drawn.rows])
    x, square = (1 - t) * drawn.noise + t * x1, t**2 + (1 - t) ** 2
    target = jnp.sqrt(square) * (x1 - drawn.noise - (2 * t - 1) / square * x)
    look = None
    if seen is not None and seen.gradients:
        look = partial(gradients, seen.network, seen.sight, rows=drawn.inputs[AT_ONCE:])
    found = _answer(field, look, params, x, conditions, drawn.time)
    loss = jnp.square(found - target).mean()
    if seen is None or not seen.weight:
        return loss
    guess = (t * x + (1 - t) * jnp.sqrt(square) * found) / square
    # Noise of another row: a row's own tells of its target, and would bias the prediction.
    unit = jnp.roll(drawn.noise, 1, axis=0)
    rows = drawn.inputs[:AT_ONCE]
    as_seen = squared(seen.network, seen.sight, guess, found - target, unit, rows)
    return loss + seen.weight * (drawn.time * as_seen).mean()


def with_time(
    conditions: Float[Array, "b e"], time: Float[Array, " b"]
) -> Float[Array, "b condition"]:
    """Conditions with the time behind them, as sines and cosines of many frequencies."""
    angles = time[:, None] * jnp.pi * jnp.geomspace(0.5, 64, FREQUENCIES)
    return jnp.concatenate([conditions, jnp.sin(angles), jnp.cos(angles)], axis=1)


# ---------------------------------------------------------------------------------- integration
class Path(NamedTuple):
    """How a field is integrated.

    Attributes:
        steps: of equal length in time.
        method: ``heun`` (two evaluations a step), ``rk4`` (four) or ``sde`` (one).
        guidance: 1 follows the conditions as learned, more exaggerates them, 0 ignores them.
        noise: of the ``sde``: how fast noise is renewed on the way; 0 is Euler's method. More of
            it repairs errors of the field, but makes samples more alike, and takes more steps.
        spread: of the ``sde``: length of new noise; more than 1 makes samples less alike.
    """

    steps: int = 32
    method: str = "heun"
    guidance: float = 1.0
    noise: float = 0.5
    spread: float = 1.0


METHODS = {"heun": 2, "rk4": 4, "sde": 1}
"""Evaluations per step."""


def refuse_unknown_path(path: Path) -> None:
    """Before a fit, too: nobody wants to learn of it after one.

    Raises:
        ConfigError: for an unknown method, no steps, or negative noise or spread.
    """
    if path.method not in METHODS or path.steps < 1:
        raise ConfigError(
            f"sampling: found method {path.method!r} with {path.steps} steps, expected one of "
            f"{', '.join(METHODS)} with at least 1"
        )
    for name in ("noise", "spread"):
        if getattr(path, name) < 0:
            raise ConfigError(f"options.{name}: found {getattr(path, name)}, expected at least 0")


def integrate(
    field: Field,
    params: Tree,
    noise: Float32[np.ndarray, "n d"],
    conditions: Float32[np.ndarray, "n e"],
    path: Path,
    seed: int = 0,
    batch: int = 64,
    seen: Seen | None = None,
) -> Float32[np.ndarray, "n d"]:
    """Carry noise to data.

    Args:
        field: fitted.
        params: its parameters.
        noise: standard normal.
        conditions: of the same rows; zeros where nothing is asked.
        path: steps, method, guidance and noise on the way.
        seed: of the noise on the way.
        batch: rows that run side by side; with more of them features leave a CPU's cache.
        seen: what the networks see, if the field reads gradients: those of all inputs.

    Raises:
        ConfigError: for an unknown method or no steps.

    Reference:
        Ho and Salimans, Classifier-free diffusion guidance, 2022; Albergo, Boffi and
        Vanden-Eijnden, Stochastic interpolants, 2023 (noise on the way); Karras et al., 2022
        (longer noise against samples that are too smooth).
    """
    refuse_unknown_path(path)
    eyes = (seen.network, seen.sight) if seen is not None and seen.gradients else (None, None)

    def run(number: int, noise: np.ndarray, conditions: np.ndarray) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), number)
        carried: Array = _carried(field, path, eyes[0], eyes[1], params, noise, conditions, key)
        return carried

    found: np.ndarray = in_batches(run, (noise, conditions), batch)
    return found


@partial(jax.jit, static_argnums=(0, 1, 2))
def _carried(
    field: Field,
    path: Path,
    network: Network | None,
    sight: Sight | None,
    params: Tree,
    noise: Float[Array, "b d"],
    conditions: Float[Array, "b e"],
    key: Array,
) -> Float[Array, "b d"]:
    look = None
    if network is not None and sight is not None:
        look = partial(gradients, network, sight, rows=jnp.arange(len(sight.inputs)))
    velocity = partial(_velocity, field, look, path.guidance, params, conditions)
    methods: dict[str, Callable[..., Array]] = {
        "heun": _heun, "rk4": _rk4, "sde": partial(_sde, path.noise, path.spread),
    }  # fmt: skip
    step = methods[path.method]
    times = jnp.arange(path.steps) / path.steps
    keys = jax.random.split(key, path.steps)

    def body(x: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        return step(velocity, x, at[0], 1 / path.steps, at[1]), None

    return jax.lax.scan(body, noise, (times, keys))[0]


def _velocity(
    field: Field,
    look: Callable[[Array], tuple[Array, Array]] | None,
    guidance: float,
    params: Tree,
    conditions: Float[Array, "b e"],
    x: Float[Array, "b d"],
    t: Float[Array, ""],
) -> Float[Array, "b d"]:
    time = jnp.full(len(x), t)

    def guess(asked: Array) -> Array:
        return _answer(field, look, params, x, asked, time)

    found = guess(conditions)
    if guidance != 1 and conditions.shape[1]:
        unasked = guess(jnp.zeros_like(conditions))
        found = unasked + guidance * (found - unasked)
    square = t**2 + (1 - t) ** 2
    return (2 * t - 1) / square * x + found / jnp.sqrt(square)


def _heun(velocity: Any, x: Array, t: Array, h: float, _key: Array) -> Array:
    first = velocity(x, t)
    return x + h / 2 * (first + velocity(x + h * first, t + h))


def _rk4(velocity: Any, x: Array, t: Array, h: float, _key: Array) -> Array:
    first = velocity(x, t)
    second = velocity(x + h / 2 * first, t + h / 2)
    third = velocity(x + h / 2 * second, t + h / 2)
    fourth = velocity(x + h * third, t + h)
    return x + h / 6 * (first + 2 * second + 2 * third + fourth)


def _sde(
    noise: float, spread: float, velocity: Any, x: Array, t: Array, h: float, key: Array
) -> Array:
    """A part of the noise that is thought to be left is replaced by new noise.

    Of noise that is renewed at the rate ``noise / (1 − t)``, this share is kept in a step.
    """
    end, v = t + h, velocity(x, t)
    kept = ((1 - end) / (1 - t)) ** noise
    new = spread * jax.random.normal(key, x.shape)
    left = kept * (x - t * v) + jnp.sqrt(1 - kept**2) * new
    return end * (x + (1 - t) * v) + (1 - end) * left
