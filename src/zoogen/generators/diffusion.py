"""Denoising diffusion of codes: a model that predicts the noise, its fit and its sampling.

A code ``z`` of unit scale becomes ``x = √ā z + √(1 − ā) ε`` at each of ``STEPS`` levels of noise;
ā falls from nearly 1 to nearly 0. The model reads ``x``, the level, conditions and the embedding of
the data set, and returns ε.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from zoogen.errors import ConfigError
from zoogen.generators.batches import in_batches
from zoogen.generators.conditions import forgotten
from zoogen.generators.dataset_encoder import (
    DatasetEncoder,
    Examples,
    contrast,
    initial_contrast,
)
from zoogen.generators.fitting import Fitted, Objective, fit
from zoogen.generators.flow import Field, with_time
from zoogen.generators.generator import Effort

Tree = Any

STEPS, FIRST, LAST = 1000, 0.0015, 0.0155
BATCH = 1024  # codes that are sampled side by side


def signal() -> Float[np.ndarray, " t"]:
    """ā of each level: the share of the variance that is not noise; variances grow linearly."""
    return np.cumprod(1 - np.linspace(FIRST, LAST, STEPS))


class Denoiser(NamedTuple):
    """A model of the noise, with the encoder of data sets that is fitted with it.

    Attributes:
        init: ``key → {"field": …, "encoder": …, "contrast": …}``.
        field: reads codes and conditions, the last of which are the embedding.
        encoder: of data sets, or none.
    """

    init: Callable[[Array], Tree]
    field: Field
    encoder: DatasetEncoder | None


def denoiser(field: Field, encoder: DatasetEncoder | None, codes: int, embedding: int) -> Denoiser:
    """A field and an encoder, side by side."""

    def init(key: Array) -> dict[str, Any]:
        params = {"field": field.init(key)}
        if encoder is None:
            return params
        return params | {
            "encoder": encoder.init(jax.random.fold_in(key, 1)),
            "contrast": initial_contrast(jax.random.fold_in(key, 2), codes, embedding),
        }

    return Denoiser(init, field, encoder)


class Latents(NamedTuple):
    """What a denoiser is fitted on.

    Attributes:
        mean: of the code of each member, all together of unit scale.
        deviation: of its code.
        conditions: of the same rows.
        of: number of the data set of each row.
        images: of :class:`~zoogen.generators.dataset_encoder.Examples`.
    """

    mean: Float32[np.ndarray, "n c"]
    deviation: Float32[np.ndarray, "n c"]
    conditions: Float32[np.ndarray, "n e"]
    of: Int[np.ndarray, " n"]
    images: Float32[np.ndarray, "i d"]


# ---------------------------------------------------------------------------------------- fit
class _Draws(NamedTuple):
    """Everything random in some steps; ``shown`` are images, of each data set or of each row."""

    rows: Any
    code: Any
    noise: Any
    level: Any
    forget: Any
    forget_set: Any
    shown: Any


def fit_denoiser(
    model: Denoiser,
    train: Latents,
    validation: Latents,
    effort: Effort,
    examples: Examples | None = None,
    shots: int = 5,
    weight: float = 0.0,
    sizes: Sequence[int] | None = None,
) -> Fitted:
    """Fit a denoiser by the mean squared error of the noise.

    Args:
        model: to fit.
        train: of unit scale.
        validation: on the same scale; decides which look counts.
        effort: steps, batch size, learning rate, looks and seed.
        examples: of the data sets, where the model has an encoder.
        shots: images of each class that the encoder sees at a time.
        weight: of the alignment of embeddings with codes, where there are several data sets.
        sizes: entries that stand for each condition; one each by default.

    Raises:
        ConfigError: if the loss is not finite.

    Reference:
        Ho, Jain and Abbeel, Denoising diffusion probabilistic models, 2020; Ho and Salimans,
        Classifier-free diffusion guidance, 2022 (conditions left open in training).
    """
    objective = Objective(
        name="diffusion",
        numbers=2 * train.mean.shape[1],
        init=model.init,
        draw=partial(_draws, examples, shots, sizes),
        loss=partial(_loss, model, weight),
        judged=lambda draws: draws._replace(
            forget=np.zeros_like(draws.forget), forget_set=np.zeros_like(draws.forget_set)
        ),
    )
    return fit(objective, train, validation, effort, stage="diffusion")


def _draws(
    examples: Examples | None,
    shots: int,
    sizes: Sequence[int] | None,
    data: Latents,
    batch: int,
    steps: int,
    seed: list[int],
) -> _Draws:
    rng = np.random.default_rng(seed)
    codes, entries = data.mean.shape[1], data.conditions.shape[1]
    rows = np.stack([rng.choice(len(data.mean), batch, replace=False) for _ in range(steps)])
    code, noise = rng.standard_normal((2, steps, batch, codes), np.float32)
    level = rng.integers(STEPS, size=(steps, batch))
    told = forgotten(rng, [*(sizes or [1] * entries), 1], (steps, batch))  # the data set, too
    forget, forget_set = told[..., :-1], told[..., -1:]
    shown = None if examples is None else examples.shown(rng, data.of[rows], shots)
    return _Draws(rows, code, noise, level, forget, forget_set, shown)


def _loss(
    model: Denoiser, weight: float, params: Tree, data: Latents, drawn: _Draws
) -> Float[Array, ""]:
    z = data.mean[drawn.rows] + data.deviation[drawn.rows] * drawn.code
    kept = jnp.asarray(signal(), jnp.float32)[drawn.level][:, None]
    x = jnp.sqrt(kept) * z + jnp.sqrt(1 - kept) * drawn.noise
    told, aligned = jnp.where(drawn.forget, 0, data.conditions[drawn.rows]), jnp.zeros(())
    if model.encoder is not None:
        images, own = data.images[drawn.shown], data.of[drawn.rows]
        embedded, of = model.encoder.of_rows(params["encoder"], images, own)
        told = jnp.concatenate([told, jnp.where(drawn.forget_set, 0, embedded[of])], axis=1)
        if weight and len(embedded) > 1:
            aligned = weight * contrast(params["contrast"], z, embedded, of)
    found = model.field.apply(params["field"], x, with_time(told, drawn.level / STEPS))
    return jnp.square(found - drawn.noise).mean() + aligned


# ------------------------------------------------------------------------------------- sampling
class _Step(NamedTuple):
    """Numbers of one step from a level of noise to the next lower one."""

    level: Any
    signal: Any
    of_code: Any
    of_x: Any
    noise: Any


def steps_of(count: int) -> _Step:
    """Ancestral steps over ``count`` evenly spaced levels, from most noise to none.

    Raises:
        ConfigError: unless there are 1 to ``STEPS``.

    Reference:
        Nichol and Dhariwal, Improved denoising diffusion probabilistic models, 2021 (fewer steps).
    """
    if not 1 <= count <= STEPS:
        raise ConfigError(f"sampling_steps: found {count}, expected 1 to {STEPS}")
    level = np.round(np.linspace(STEPS - 1, 0, count)).astype(int)
    now = signal()[level]
    below = np.append(now[1:], 1.0)
    added = 1 - now / below
    steps = _Step(
        level / STEPS,
        now,
        np.sqrt(below) * added / (1 - now),
        np.sqrt(now / below) * (1 - below) / (1 - now),
        np.sqrt(added * (1 - below) / (1 - now)),
    )
    return _Step(*(column.astype(np.float32) for column in steps))


def denoised(
    field: Field,
    params: Tree,
    conditions: Float32[np.ndarray, "n e"],
    codes: int,
    steps: int,
    guidance: float,
    seed: int,
) -> Float32[np.ndarray, "n c"]:
    """Codes from noise.

    Args:
        field: fitted.
        params: its parameters.
        conditions: one row a code, embedding included; zeros where nothing is asked.
        codes: numbers of a code.
        steps: of at most ``STEPS``.
        guidance: 1 follows the conditions as learned, more exaggerates them, 0 ignores them.
        seed: of all noise.

    Raises:
        ConfigError: for no steps, or too many.
    """
    path = steps_of(steps)

    def run(number: int, asked: np.ndarray) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), number)
        found: Array = _denoised(field, codes, guidance, params, asked, path, key)
        return found

    found: np.ndarray = in_batches(run, (conditions,), BATCH)
    return found


@partial(jax.jit, static_argnums=(0, 1, 2))
def _denoised(
    field: Field,
    codes: int,
    guidance: float,
    params: Tree,
    conditions: Float[Array, "b e"],
    path: _Step,
    key: Array,
) -> Float[Array, "b c"]:
    def guess(x: Array, asked: Array, level: Array) -> Array:
        return field.apply(params, x, with_time(asked, jnp.full(len(x), level)))

    def body(x: Array, at: tuple[_Step, Array]) -> tuple[Array, None]:
        step, own = at
        noise = guess(x, conditions, step.level)
        if guidance != 1 and conditions.shape[1]:
            unasked = guess(x, jnp.zeros_like(conditions), step.level)
            noise = unasked + guidance * (noise - unasked)
        code = (x - jnp.sqrt(1 - step.signal) * noise) / jnp.sqrt(step.signal)
        mean = step.of_code * code + step.of_x * x
        return mean + step.noise * jax.random.normal(own, x.shape), None

    first, rest = jax.random.split(key)
    start = jax.random.normal(first, (len(conditions), codes))
    keys = jax.random.split(rest, len(path.level))
    return jax.lax.scan(body, start, (path, keys))[0]
