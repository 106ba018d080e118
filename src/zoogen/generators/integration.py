"""Integration: noise carried to data along a field, with new noise on the way or without."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32

from zoogen.generators.batches import in_batches
from zoogen.generators.flow import TIMES, Field, GradientOf, Seen, answer, reading
from zoogen.generators.path import Path, refuse_unknown_path
from zoogen.generators.sight import Sight, gradients
from zoogen.networks import Network

Tree = Any
Velocity = Callable[[Array, Array], Array]


def integrate(
    field: Field,
    params: Tree,
    noise: Float32[np.ndarray, "n d"],
    conditions: Float32[np.ndarray, "n e"],
    path: Path,
    seed: int = 0,
    batch: int = 64,
    seen: Seen | None = None,
    errors: Float[np.ndarray, "times d"] | None = None,
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
        errors: of the field, from :func:`~zoogen.generators.flow.errors_of`, for the ``sde``; none
            by default.

    Raises:
        ConfigError: for an unknown method or no steps.

    Reference:
        Ho and Salimans, Classifier-free diffusion guidance, 2022; Ho, Jain and Abbeel, Denoising
        diffusion probabilistic models, 2020, and Bao, Li, Zhu and Zhang, Analytic-DPM, 2022, for
        steps by what data may be, given where the path is, and how uncertain that is; Karras et
        al., 2022, for longer noise against samples that are too much alike.
    """
    refuse_unknown_path(path)
    if errors is None:
        errors = np.zeros((len(TIMES), noise.shape[1]), np.float32)
    network, sight = None, None
    if seen is not None and seen.gradients:
        network, sight = seen.network, seen.sight

    def run(number: int, noise: np.ndarray, conditions: np.ndarray) -> Array:
        key = jax.random.fold_in(jax.random.key(seed), number)
        carried: Array = _carried(
            field, path, network, sight, params, noise, conditions, errors, key
        )
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
    errors: Float[Array, "times d"],
    key: Array,
) -> Float[Array, "b d"]:
    gradient_of = None
    if network is not None and sight is not None:
        gradient_of = partial(gradients, network, sight, rows=jnp.arange(len(sight.inputs)))
    velocity = partial(_velocity, field, gradient_of, path.guidance, params, conditions)
    methods: dict[str, Callable[..., Array]] = {
        "heun": _heun, "rk4": _rk4, "sde": partial(_sde, path.noise, path.spread, errors),
    }  # fmt: skip
    step = methods[path.method]
    times = jnp.linspace(0, 1, path.path_steps + 1)  # ends are exact
    keys = jax.random.split(key, path.path_steps)

    def body(x: Array, at: tuple[Array, Array, Array]) -> tuple[Array, None]:
        return step(velocity, x, *at), None

    return jax.lax.scan(body, noise, (times[:-1], times[1:], keys))[0]


def _velocity(
    field: Field,
    gradient_of: GradientOf | None,
    guidance: float,
    params: Tree,
    conditions: Float[Array, "b e"],
    x: Float[Array, "b d"],
    t: Float[Array, ""],
) -> Float[Array, "b d"]:
    read = reading(gradient_of, x, jnp.full(len(x), t))
    found = answer(field, params, read, conditions)
    if guidance != 1 and conditions.shape[1]:
        unasked = answer(field, params, read, jnp.zeros_like(conditions))
        found = unasked + guidance * (found - unasked)
    square = t**2 + (1 - t) ** 2
    return (2 * t - 1) / square * x + found / jnp.sqrt(square)


def _heun(velocity: Velocity, x: Array, t: Array, end: Array, _key: Array) -> Array:
    first = velocity(x, t)
    return x + (end - t) / 2 * (first + velocity(x + (end - t) * first, end))


def _rk4(velocity: Velocity, x: Array, t: Array, end: Array, _key: Array) -> Array:
    h = end - t
    first = velocity(x, t)
    second = velocity(x + h / 2 * first, t + h / 2)
    third = velocity(x + h / 2 * second, t + h / 2)
    fourth = velocity(x + h * third, end)
    return x + h / 6 * (first + 2 * second + 2 * third + fourth)


def _sde(
    noise: float,
    spread: float,
    errors: Float[Array, "times d"],
    velocity: Velocity,
    x: Array,
    t: Array,
    end: Array,
    key: Array,
) -> Array:
    """A draw of where the path goes, given where it is.

    Data are normal around the guess, as far as that errs; of the noise that data leave a share is
    kept and the rest drawn anew, at the rate ``noise / (1 − t)``. Where data are normal and the
    field is right, this is exact for steps of any length, with a ``spread`` of 1.
    """
    kept = ((1 - end) / (1 - t)) ** noise
    of_x = kept * (1 - end) / (1 - t)
    of_data = end - t * of_x
    error = jax.vmap(lambda of_entry: jnp.interp(t, TIMES, of_entry), in_axes=1)(errors)
    uncertain = (1 - t) ** 2 / (t**2 + (1 - t) ** 2) * error
    variance = of_data**2 * uncertain + (1 - end) ** 2 * (1 - kept**2)
    guess = x + (1 - t) * velocity(x, t)
    drawn = (1 + (spread - 1) * (1 - t)) * jnp.sqrt(variance) * jax.random.normal(key, x.shape)
    return of_data * guess + of_x * x + drawn
