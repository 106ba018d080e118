"""Attention among tokens with positions, in windows: the published form, which sees the order.

Incoming weights stand in a token in the order of the layer before, and every token knows its place.
So members should be aligned or augmented; `unit_attention` is the form that needs neither.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from zoogen.models.heads import VARIANCE_FLOOR, initial_matrix
from zoogen.models.model import Body, Footprint
from zoogen.models.modulation import initial_modulation, modulated, normalised
from zoogen.models.tokens import Tokens, detokenise, tokenise


class Sizes(NamedTuple):
    """Numbers that a body of attention among tokens works with.

    Attributes:
        channels: features of a token.
        heads: of attention; they divide the channels.
        depth: layers.
        window: most tokens that attend to one another in a layer; ``None`` for all.
        inputs: numbers read per parameter.
        condition: numbers of a condition.
        outputs: numbers returned per parameter; 0 for a body that returns none.
    """

    channels: int
    heads: int
    depth: int
    window: int | None
    inputs: int
    condition: int
    outputs: int


def token_attention(tokens: Tokens, sizes: Sizes) -> Body:
    """The body of a model of tokens with positions.

    Windows lie side by side, and every second layer moves them by half their length, so that what
    two neighbouring windows know meets.

    Args:
        tokens: of the spec of the networks.
        sizes: of the model.

    Reference:
        Schürholt, Mahoney and Borth, Towards scalable and versatile weight space learning, 2024;
        moved windows: Liu et al., Swin transformer, 2021.
    """
    count, width = tokens.index.shape
    window = min(sizes.window or count, count)

    def init(key: Array) -> dict[str, Any]:
        of_entry, of_exit, *of_layers = jax.random.split(key, 2 + sizes.depth)
        return {
            "entry": _initial_entry(of_entry, tokens, sizes),
            "layers": [_initial_layer(k, sizes) for k in of_layers],
            "exit": initial_matrix(of_exit, sizes.channels, width * sizes.outputs),
        }

    def state(params: Any, weights: Float[Array, "b p c"], condition: Float[Array, "b d"]) -> Any:
        x = _enter(params["entry"], tokens, weights)
        for number, one in enumerate(params["layers"]):
            x = _layer(one, x, condition, sizes.heads, window, number % 2 * (window // 2))
        return normalised(x)

    def numbers(params: Any, state: Any) -> Float[Array, "b p o"]:
        rows = (state @ params["exit"]).reshape(*state.shape[:-1], width, sizes.outputs)
        return detokenise(tokens, rows.transpose(0, 3, 1, 2)).swapaxes(1, 2)

    floats = sizes.depth * count * (16 * sizes.channels + window * sizes.heads)
    return Body(3 * sizes.channels, Footprint(4 * floats, sizes.channels), init, state,
                _summary, numbers)  # fmt: skip


def _initial_entry(key: Array, tokens: Tokens, sizes: Sizes) -> dict[str, Array]:
    of_numbers, *of_tables = jax.random.split(key, 4)
    tables = {"layer": tokens.layer, "unit": tokens.unit, "part": tokens.part}
    return {
        "numbers": initial_matrix(of_numbers, tokens.index.shape[1] * sizes.inputs, sizes.channels),
        **{name: jax.random.normal(k, (place.max() + 1, sizes.channels))
           for (name, place), k in zip(tables.items(), of_tables, strict=True)},
    }  # fmt: skip


def _enter(
    params: dict[str, Array], tokens: Tokens, weights: Float[Array, "b p c"]
) -> Float[Array, "b t f"]:
    rows = tokenise(tokens, weights.swapaxes(1, 2)).transpose(0, 2, 1, 3)
    numbers = rows.reshape(*rows.shape[:2], -1) @ params["numbers"]
    places = [params[name][getattr(tokens, name)] for name in ("layer", "unit", "part")]
    return numbers + sum(places[1:], places[0])


def _initial_layer(key: Array, sizes: Sizes) -> dict[str, Any]:
    keys, channels = jax.random.split(key, 4), sizes.channels
    return {
        "attention_condition": initial_modulation(sizes.condition, channels),
        "perceptron_condition": initial_modulation(sizes.condition, channels),
        "attend": initial_matrix(keys[0], channels, 3 * channels),
        "join": initial_matrix(keys[1], channels, channels),
        "hidden": initial_matrix(keys[2], channels, 4 * channels),
        "hidden_bias": jnp.zeros(4 * channels),
        "back": initial_matrix(keys[3], 4 * channels, channels),
    }


def _layer(
    params: Any,
    x: Float[Array, "b t f"],
    condition: Float[Array, "b d"],
    heads: int,
    window: int,
    shift: int,
) -> Float[Array, "b t f"]:
    read = modulated(params["attention_condition"], normalised(x), condition)
    query, key, value = jnp.split(read @ params["attend"], 3, axis=-1)
    x = x + _attended(query, key, value, heads, window, shift) @ params["join"]
    read = modulated(params["perceptron_condition"], normalised(x), condition)
    return x + jax.nn.gelu(read @ params["hidden"] + params["hidden_bias"]) @ params["back"]


def _attended(
    query: Float[Array, "b t f"],
    key: Float[Array, "b t f"],
    value: Float[Array, "b t f"],
    heads: int,
    window: int,
    shift: int,
) -> Float[Array, "b t f"]:
    """Each token's mean of the values in its window; the first window has ``shift`` tokens less."""
    batch, count, features = query.shape
    after = -(count + shift) % window
    real = np.pad(np.ones(count, bool), (shift, after)).reshape(-1, window)

    def cut(x: Float[Array, "b t f"]) -> Float[Array, "b w n h d"]:
        padded = jnp.pad(x, ((0, 0), (shift, after), (0, 0)))
        return padded.reshape(batch, -1, window, heads, features // heads)

    heard = _in_windows(cut(query), cut(key), cut(value), real)
    return heard.reshape(batch, -1, features)[:, shift : shift + count]


def _in_windows(
    query: Float[Array, "b w n h d"],
    key: Float[Array, "b w n h d"],
    value: Float[Array, "b w n h d"],
    real: Bool[np.ndarray, "w n"],
) -> Float[Array, "b w n h d"]:
    scores = jnp.einsum("bwqhd,bwkhd->bwhqk", query, key) / math.sqrt(query.shape[-1])
    # Every window holds a real token, so that no row of scores is empty.
    scores = jnp.where(real[:, None, None, :], scores, -jnp.inf)
    return jnp.einsum("bwhqk,bwkhd->bwqhd", jax.nn.softmax(scores, axis=-1), value)


def _summary(state: Float[Array, "b t f"]) -> Float[Array, "b i"]:
    deviation = jnp.sqrt(state.var(axis=1) + VARIANCE_FLOOR)
    return jnp.concatenate([state.mean(axis=1), state.max(axis=1), deviation], axis=-1)
