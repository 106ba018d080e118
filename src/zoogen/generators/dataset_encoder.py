"""What members were trained on, as a vector: attention within classes, then over classes.

The published encoder reads features of a pretrained network; none is at hand here, so a linear map
of standardised pixels, learned with the rest, takes their place.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float32, Int

from zoogen.config import DataConfig
from zoogen.data import Dataset, noisy_labels, normalise
from zoogen.models.heads import initial_matrix, initial_mlp, mlp

Tree = Any

LOOKED_AT = 2048  # most images of a data set from which examples are drawn
FEATURES, HEADS = 32, 4


# ----------------------------------------------------------------------------------- examples
@dataclass(frozen=True)
class Examples:
    """Images of several data sets that share them, by class.

    Attributes:
        images: standardised pixels, and a last row of zeros.
        order: of each data set, its images class by class.
        ends: of each data set, where in that order each class ends.
    """

    images: Float32[np.ndarray, "i d"]
    order: Int[np.ndarray, "v n"]
    ends: Int[np.ndarray, "v k"]

    def draw(
        self, rng: np.random.Generator, of: Int[np.ndarray, " r"], shots: int
    ) -> Int[np.ndarray, "r k shots"]:
        """Random images of each class of some data sets, with replacement.

        A class without images is shown by zeros.

        Args:
            rng: where they are drawn from.
            of: numbers of data sets.
            shots: images a class.
        """
        ends = self.ends[of][:, :, None]
        counts = np.diff(ends, axis=1, prepend=0)
        place = ends - counts + np.floor(rng.random((*ends.shape[:2], shots)) * counts).astype(int)
        chosen = self.order[of[:, None, None], np.minimum(place, self.order.shape[1] - 1)]
        return np.where(counts > 0, chosen, len(self.images) - 1)

    def shown(
        self, rng: np.random.Generator, of: Int[np.ndarray, "s b"], shots: int
    ) -> Int[np.ndarray, "s r k shots"]:
        """What an encoder sees in some steps: images of each data set, or of each row.

        One showing serves all rows of a data set, unless there are more sets than rows.

        Args:
            rng: where they are drawn from.
            of: number of the data set of each row of a step.
            shots: images a class.
        """
        steps, batch = of.shape
        sets = len(self.order)
        wanted = np.tile(np.arange(sets), steps) if sets < batch else of.reshape(-1)
        found = self.draw(rng, wanted, shots)
        return found.reshape(steps, -1, *found.shape[1:])


def examples_of(
    dataset: Dataset, config: DataConfig, subsets: Float[np.ndarray, "v 2"]
) -> Examples:
    """Examples of the data sets that a zoo's members can be trained on.

    They are all one data set, of which a member sees a share, with noise on the labels.

    Args:
        dataset: that they share.
        config: gives the seed of the noise.
        subsets: ``data.fraction`` and ``data.label_noise``, one row a data set.

    Raises:
        ConfigError: if a share holds no image.
    """
    images = dataset.train.images[:LOOKED_AT]
    pixels = np.asarray(normalise(*map(jnp.asarray, (images, dataset.mean, dataset.std))))
    flat = pixels.reshape(len(images), -1)
    order, ends = [], []
    for share, rate in subsets.tolist():
        seen = min(dataset.training_size(share), len(images))
        given = jnp.asarray(dataset.train.labels)
        labels = np.asarray(noisy_labels(given, rate, dataset.classes, config.seed))[:seen]
        by_class = np.argsort(labels, kind="stable")
        order.append(np.pad(by_class, (0, len(images) - seen)))
        ends.append(np.cumsum(np.bincount(labels, minlength=dataset.classes)))
    return Examples(np.pad(flat, ((0, 1), (0, 0))), np.stack(order), np.stack(ends))


# ------------------------------------------------------------------------------------ encoder
class DatasetEncoder(NamedTuple):
    """Sets of images to vectors.

    Attributes:
        init: ``key → params``.
        classes: ``(params, images [r k shots d]) → one vector a class [r k f]``; the order of the
            images of a class does not matter.
        whole: ``(params, classes [r k f]) → embeddings [r e]``; nor does that of the classes.
    """

    init: Callable[[Array], Tree]
    classes: Callable[[Tree, Float[Array, "r k shots d"]], Float[Array, "r k f"]]
    whole: Callable[[Tree, Float[Array, "r k f"]], Float[Array, "r e"]]

    def embed(self, params: Tree, images: Float[Array, "r k shots d"]) -> Float[Array, "r e"]:
        """Embeddings of data sets."""
        return self.whole(params, self.classes(params, images))

    def of_rows(
        self, params: Tree, images: Float[Array, "r k shots d"], of: Int[Array, " b"]
    ) -> tuple[Float[Array, "r e"], Int[Array, " b"]]:
        """Embeddings of what was :meth:`~Examples.shown`, and which of them is each row's."""
        embeddings = self.embed(params, images)
        return embeddings, of if len(embeddings) < len(of) else jnp.arange(len(of))


def dataset_encoder(pixels: int, embedding: int, inducing: int = 8) -> DatasetEncoder:
    """A two-level set transformer.

    Within a class two blocks with inducing points and pooling by attention; over classes one block
    of self-attention and pooling.

    Args:
        pixels: numbers of an image.
        embedding: numbers of an embedding.
        inducing: points by which the images of a class attend to one another.

    Reference:
        Lee, Lee, Kim, Kosiorek, Choi and Teh, Set transformer, 2019; Soro et al., Diffusion-based
        neural network weights generation, 2025 (two levels).
    """

    def init(key: Array) -> dict[str, Any]:
        keys = jax.random.split(key, 5)
        return {
            "pixels": initial_mlp(keys[0], (pixels, FEATURES)),
            "points": jax.random.normal(keys[1], (2, inducing, FEATURES)),
            "seeds": jax.random.normal(keys[2], (2, 1, FEATURES)),
            "blocks": jax.vmap(_initial_block)(jax.random.split(keys[3], 7)),
            "last": initial_mlp(keys[4], (FEATURES, embedding)),
        }

    def classes(params: dict[str, Any], images: Float[Array, "r k shots d"]) -> Array:
        def induced(x: Array, at: tuple[Any, Array]) -> tuple[Array, None]:
            blocks, points = at
            return _attended(_block(blocks, 1), x, _attended(_block(blocks, 0), points, x)), None

        pairs = jax.tree.map(lambda a: a[:4].reshape(2, 2, *a.shape[1:]), params["blocks"])
        x = mlp(params["pixels"], images)
        x, _ = jax.lax.scan(induced, x, (pairs, params["points"]))  # compiled once for both
        return _attended(_block(params["blocks"], 4), params["seeds"][0], x)[..., 0, :]

    def whole(params: dict[str, Any], found: Float[Array, "r k f"]) -> Float[Array, "r e"]:
        x = _attended(_block(params["blocks"], 5), found, found)
        pooled = _attended(_block(params["blocks"], 6), params["seeds"][1], x)[..., 0, :]
        return mlp(params["last"], pooled)

    return DatasetEncoder(init, classes, whole)


def _initial_block(key: Array) -> dict[str, Any]:
    maps, perceptron = jax.random.split(key)
    return {
        "maps": jax.random.normal(maps, (4, FEATURES, FEATURES)) / np.sqrt(FEATURES),
        "perceptron": initial_mlp(perceptron, (FEATURES, 2 * FEATURES, FEATURES)),
    }


def _block(blocks: Any, number: int) -> Any:
    return jax.tree.map(lambda a: a[number], blocks)


def _attended(
    block: dict[str, Any], x: Float[Array, "*r q f"], y: Float[Array, "*s n f"]
) -> Float[Array, "*s q f"]:
    """Every ``x`` after a look at all ``y``; the order of ``y`` does not matter."""
    into_query, into_key, into_value, out = block["maps"]

    def cut(values: Array) -> Array:
        return values.reshape(*values.shape[:-1], HEADS, FEATURES // HEADS)

    query, key, value = cut(x @ into_query), cut(y @ into_key), cut(y @ into_value)
    scores = jnp.einsum("...qhd,...nhd->...hqn", query, key) / np.sqrt(FEATURES // HEADS)
    seen = jnp.einsum("...hqn,...nhd->...qhd", jax.nn.softmax(scores), value)
    h = jax.nn.standardize(x + seen.reshape(*seen.shape[:-2], FEATURES) @ out)
    return jax.nn.standardize(h + mlp(block["perceptron"], h))


# ----------------------------------------------------------------------------------- alignment
def initial_contrast(key: Array, codes: int, embedding: int) -> dict[str, Array]:
    """Parameters of :func:`contrast`."""
    return {"codes": initial_matrix(key, codes, embedding), "sharpness": jnp.log(10.0)}


def contrast(
    params: dict[str, Array],
    codes: Float[Array, "b c"],
    embedded: Float[Array, "v e"],
    of: Int[Array, " b"],
) -> Float[Array, ""]:
    """Symmetric cross-entropy between codes of members and embeddings of their data sets.

    Members of one data set share its embedding: from the side of a data set all its members are
    equally right.

    Args:
        params: a linear map of codes, and how sharp angles are told apart.
        codes: of members.
        embedded: data sets.
        of: number of each member's data set.

    Reference:
        Radford et al., Learning transferable visual models from natural language supervision, 2021.
    """
    angles = _unit(codes @ params["codes"]) @ _unit(embedded).T
    logits = angles * jnp.exp(params["sharpness"])
    right = jax.nn.one_hot(of, len(embedded))
    members = -(right * jax.nn.log_softmax(logits, axis=1)).sum(axis=1).mean()
    counts = right.sum(axis=0)
    shares = right / jnp.maximum(counts, 1)
    sets = -(shares * jax.nn.log_softmax(logits, axis=0)).sum() / (counts > 0).sum()
    return (members + sets) / 2


def _unit(x: Float[Array, "n e"]) -> Float[Array, "n e"]:
    return x * jax.lax.rsqrt(jnp.square(x).sum(axis=1, keepdims=True) + 1e-12)
