"""An autoencoder of weights: members, whole or in chunks, to a short code and back.

The published one maps the flat weights to an image of 64 × 64 and runs a convolutional
autoencoder over it. Neighbouring entries of a weight vector have nothing of neighbouring pixels,
and for a few thousand weights the convolutions cost a hundred times what dense layers cost; here a
linear autoencoder, which finds the principal components, has a perceptron beside it on either
side that starts at zero and learns what is not linear.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from zoogen.errors import ConfigError
from zoogen.generators.batches import in_batches
from zoogen.generators.fitting import Fitted, Objective, fit
from zoogen.generators.generator import Effort
from zoogen.models.heads import initial_matrix, initial_mlp, mlp
from zoogen.params import ParamSpec

Tree = Any
Places = Int[np.ndarray, "k s"]

CHUNKS = ("whole", "layers", "pieces")
SPREAD = -4.0  # logarithm of the variance of a code at the start
BOUND = 12.0  # on that logarithm
BATCH = 512  # members encoded or decoded side by side


def chunks_of(spec: ParamSpec, how: str, piece: int) -> Places:
    """Which weights each chunk holds; ``spec.size`` stands for padding.

    Args:
        spec: of the networks.
        how: ``whole``, ``layers`` (weight and bias of a layer together) or ``pieces``.
        piece: weights of a piece.

    Raises:
        ConfigError: for another ``how``, or pieces of no weights.

    Example:
        >>> from zoogen.params import Axis
        >>> spec = ParamSpec.build({"a.weight": (Axis(3),), "a.bias": (Axis(1),), "b": (Axis(1),)})
        >>> chunks_of(spec, "layers", 0).tolist()
        [[0, 1, 2, 3], [4, 5, 5, 5]]
        >>> chunks_of(spec, "pieces", 3).tolist()
        [[0, 1, 2], [3, 4, 5]]
    """
    if how not in CHUNKS:
        raise ConfigError(f"options.chunks: found {how!r}, expected one of {', '.join(CHUNKS)}")
    if how == "pieces" and piece < 1:
        raise ConfigError(f"options.piece: found {piece}, expected at least 1 weight")
    ends = {"whole": [spec.size], "pieces": [*range(piece, spec.size, piece or 1), spec.size]}
    stops = ends[how] if how in ends else _ends_of_layers(spec)
    starts = [0, *stops[:-1]]
    longest = max(stop - start for start, stop in zip(starts, stops, strict=True))
    places = np.add.outer(starts, np.arange(longest))
    return np.where(places < np.array(stops)[:, None], places, spec.size)


def _ends_of_layers(spec: ParamSpec) -> list[int]:
    ends = {
        p.name.rpartition(".")[0] or p.name: p.offset + p.size for p in spec.parameters
    }  # of one layer the last counts
    return list(ends.values())


class Code(NamedTuple):
    """A normal distribution of codes.

    Attributes:
        mean: of each number.
        deviation: of each number.
    """

    mean: Any
    deviation: Any


class Autoencoder(NamedTuple):
    """Weights to codes and back; all chunks share the parameters and are told their number.

    Attributes:
        init: ``key, mean of the members [p] → params``.
        encode: ``(params, values [b p]) → Code [b c]``.
        decode: ``(params, codes [b c]) → values [b p]``.
        size: numbers of a code, c: those of a chunk times chunks.
    """

    init: Callable[[Array, Float[Array, " p"]], Tree]
    encode: Callable[[Tree, Float[Array, "b p"]], Code]
    decode: Callable[[Tree, Float[Array, "b c"]], Float[Array, "b p"]]
    size: int


def autoencoder(places: Places, weights: int, latent: int, width: int) -> Autoencoder:
    """A variational autoencoder over chunks of weights.

    Args:
        places: of :func:`chunks_of`.
        weights: of a network, p.
        latent: numbers of a chunk's code.
        width: of the two hidden layers of both perceptrons.

    Reference:
        Kingma and Welling, Auto-encoding variational Bayes, 2014.
    """
    chunks, size = places.shape
    numbers = np.eye(chunks, dtype=np.float32) if chunks > 1 else np.zeros((1, 0), np.float32)
    told = numbers.shape[1]
    present = (places < weights).astype(np.float32)
    home = np.zeros(weights, int)  # of each weight in the chunks, end to end
    home[places[places < weights]] = np.flatnonzero(places < weights)

    def cut(values: Float[Array, "b p"]) -> Float[Array, "b k s"]:
        return jnp.pad(values, ((0, 0), (0, 1)))[:, places]

    def init(key: Array, mean: Float[Array, " p"]) -> dict[str, Any]:
        keys = jax.random.split(key, 4)
        return {
            "into": initial_matrix(keys[0], size, latent),
            "read": _from_zero(initial_mlp(keys[1], (size + told, width, width, 2 * latent))),
            "out_of": initial_matrix(keys[2], latent, size),
            "write": _from_zero(initial_mlp(keys[3], (latent + told, width, width, size))),
            "mean": cut(mean[None])[0],
        }

    def with_number(x: Float[Array, "b k s"]) -> Float[Array, "bk told_s"]:
        both = jnp.concatenate([x, jnp.broadcast_to(numbers, (len(x), *numbers.shape))], axis=2)
        return both.reshape(-1, both.shape[2])

    def encode(params: dict[str, Any], values: Float[Array, "b p"]) -> Code:
        x = (cut(values) - params["mean"]) * present
        shift, spread = jnp.split(mlp(params["read"], with_number(x)), 2, axis=1)
        spread = jnp.clip(SPREAD + spread, -BOUND, BOUND)
        mean = (x @ params["into"]).reshape(shift.shape) + shift
        return Code(*(a.reshape(len(values), -1) for a in (mean, jnp.exp(spread / 2))))

    def decode(params: dict[str, Any], codes: Float[Array, "b c"]) -> Float[Array, "b p"]:
        z = codes.reshape(len(codes), chunks, latent)
        bent = mlp(params["write"], with_number(z)).reshape(len(codes), chunks, size)
        return (params["mean"] + z @ params["out_of"] + bent).reshape(len(codes), -1)[:, home]

    return Autoencoder(init, encode, decode, chunks * latent)


def _from_zero(layers: Any) -> Any:
    """A perceptron that returns zeros until it has learned something."""
    return [*layers[:-1], jax.tree.map(jnp.zeros_like, layers[-1])]


# ---------------------------------------------------------------------------------------- fit
class _Draws(NamedTuple):
    rows: Any
    noise: Any


def fit_autoencoder(
    model: Autoencoder,
    train: Float32[np.ndarray, "n p"],
    validation: Float32[np.ndarray, "v p"],
    effort: Effort,
    kl: float = 1e-6,
) -> Fitted:
    """Fit by the mean squared error of a weight plus ``kl`` times the divergence of a code.

    Args:
        model: to fit.
        train: of about unit scale.
        validation: on the same scale.
        effort: steps, batch size, learning rate, looks and seed.
        kl: factor on the divergence of a member's code from standard normal numbers, in nats.

    Raises:
        ConfigError: if the loss is not finite.
    """
    mean = train.mean(axis=0)
    objective = Objective(
        name="autoencoder",
        numbers=model.size,
        init=lambda key: model.init(key, mean),
        draw=partial(_draws, model.size),
        loss=partial(_loss, model, kl),
    )
    return fit(objective, (train,), (validation,), effort, stage="autoencoder")


def _draws(size: int, data: Any, batch: int, steps: int, seed: list[int]) -> _Draws:
    rng = np.random.default_rng(seed)
    rows = np.stack([rng.choice(len(data[0]), batch, replace=False) for _ in range(steps)])
    return _Draws(rows, rng.standard_normal((steps, batch, size), np.float32))


def _loss(model: Autoencoder, kl: float, params: Tree, data: Any, drawn: _Draws) -> Array:
    values = data[0][drawn.rows]
    code = model.encode(params, values)
    found = model.decode(params, code.mean + code.deviation * drawn.noise)
    variance = jnp.square(code.deviation)
    nats = (jnp.square(code.mean) + variance - jnp.log(variance) - 1).sum(axis=1) / 2
    return jnp.square(found - values).mean() + kl * nats.mean()


# ------------------------------------------------------------------------------------- in use
def encoded(model: Autoencoder, params: Tree, values: Float32[np.ndarray, "n p"]) -> Code:
    """Codes of all members."""
    run = jax.jit(model.encode)
    found: Code = in_batches(lambda _, rows: run(params, rows), (values,), BATCH)
    return found


def decoded(
    model: Autoencoder, params: Tree, codes: Float32[np.ndarray, "n c"]
) -> Float32[np.ndarray, "n p"]:
    """Weights of all codes."""
    run = jax.jit(model.decode)
    found: np.ndarray = in_batches(lambda _, rows: run(params, rows), (codes,), BATCH)
    return found
