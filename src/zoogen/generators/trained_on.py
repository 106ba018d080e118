"""What members were trained on, for generators that are told it: data sets and their embeddings.

Members of a zoo share one data set, of which they see a share, with noise on the labels; what
differs in ``data.fraction`` or ``data.label_noise`` is a data set of its own to an encoder. Where
nothing differs all members have the same embedding, but for the images that it is drawn from.
"""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from jaxtyping import Float, Float32, Int

from zoogen.errors import ConfigError
from zoogen.generators.dataset_encoder import DatasetEncoder, Examples, examples_of
from zoogen.generators.generator import Fittable, Request, Source, State

DATA = ("data.fraction", "data.label_noise")  # what makes members' data sets differ
EMBEDDED = 256  # data sets at a time


class TrainedOn(NamedTuple):
    """The data sets of members.

    Attributes:
        subsets: fraction and label noise of each data set.
        of: numbers of the data sets of the members of each part.
        examples: images of each, or none where they are not embedded.
    """

    subsets: Float[np.ndarray, "v 2"]
    of: list[Int[np.ndarray, " n"]]
    examples: Examples | None

    @property
    def images(self) -> Float32[np.ndarray, "i d"]:
        """Of the examples."""
        return np.zeros((1, 0), np.float32) if self.examples is None else self.examples.images

    @property
    def state(self) -> State:
        """What a run keeps of them, for :func:`told_of`."""
        return {
            "subsets": self.subsets,
            "members": np.bincount(self.of[0], minlength=len(self.subsets)),
            "pixels": np.int64(self.images.shape[1]),
        }


def trained_on(train: Fittable, validation: Fittable, told: bool) -> TrainedOn:
    """The data sets of the members of two parts.

    Args:
        train: which are counted.
        validation: the others.
        told: whether they are to be embedded.

    Raises:
        ConfigError: if they are, and members have no classes of images, or conditions leave out
            what makes their data sets differ.
    """
    rows = [part.population.table[list(DATA)].to_numpy(float) for part in (train, validation)]
    subsets, of = np.unique(np.concatenate(rows), axis=0, return_inverse=True)
    places = np.split(of.reshape(-1), [len(rows[0])])
    source = train.source
    if not told:
        return TrainedOn(subsets, places, None)
    if source is None or source.network.config.fits_image:
        raise ConfigError(
            "options.embedding: the members have no classes of images to be told; set it to 0"
        )
    _refuse_split(source, subsets)
    return TrainedOn(subsets, places, examples_of(source.dataset(), source.config.data, subsets))


def _refuse_split(source: Source, subsets: Float[np.ndarray, "v 2"]) -> None:
    """What nobody asks for is drawn from a member, its conditions and its data set together."""
    conditions = {one.name for one in source.conditioning.quantities}
    for column, name in enumerate(DATA):
        if conditions and name not in conditions and len(np.unique(subsets[:, column])) > 1:
            raise ConfigError(
                f"options.embedding: members differ in {name}, which is not among the conditions, "
                f"so that samples could not be told conditions and data of one member; add {name} "
                "to conditions"
            )


def told_of(
    encoder: DatasetEncoder,
    params: Any,
    source: Source,
    state: State,
    request: Request,
    shots: int,
) -> Float32[np.ndarray, "n e"]:
    """Conditions of a sample, and the embeddings of the data sets that it asks for behind them.

    Where none is asked for, they are those of random training members. With another ``dataset`` in
    the source, of equally large images, that takes the place of the members' own.

    Args:
        encoder: fitted.
        params: its parameters.
        source: of the members.
        state: of the run, with what :attr:`TrainedOn.state` gave.
        request: of the sample.
        shots: images a class.

    Raises:
        ConfigError: for a data set of other images.
    """
    rng = np.random.default_rng([request.seed, 1])
    examples, of = _asked_for(source, state, request, rng)
    known = embedded(encoder, params, examples, of, shots, rng)
    return np.concatenate([request.conditions, known], axis=1)


def _asked_for(
    source: Source, state: State, request: Request, rng: np.random.Generator
) -> tuple[Examples, Int[np.ndarray, " n"]]:
    """The data sets that are asked for, or those of random training members, and which is whose."""
    shares = state["members"] / state["members"].sum()
    wanted = state["subsets"][rng.choice(len(shares), request.count, p=shares)]
    for column, name in enumerate(DATA):
        asked = source.conditioning.asked(name, request.conditions)
        known = np.isfinite(asked)
        wanted[known, column] = asked[known].round(5)  # they were float32
    subsets, of = np.unique(wanted, axis=0, return_inverse=True)
    examples = examples_of(source.dataset(), source.config.data, subsets)
    if examples.images.shape[1] != state["pixels"]:
        raise ConfigError(
            f"sample: found a data set with images of {examples.images.shape[1]} numbers, the run "
            f"was trained on {state['pixels']}"
        )
    return examples, of.reshape(-1)


def embedded(
    encoder: DatasetEncoder,
    params: Any,
    examples: Examples,
    of: Int[np.ndarray, " n"],
    shots: int,
    rng: np.random.Generator,
) -> Float32[np.ndarray, "n e"]:
    """Embeddings of data sets, each from images of its own.

    Args:
        encoder: fitted.
        params: its parameters.
        examples: of the data sets.
        of: their numbers.
        shots: images a class.
        rng: where images are drawn from.
    """
    shown = examples.draw(rng, of, shots)
    batches = np.split(shown, range(EMBEDDED, len(shown), EMBEDDED))
    return np.concatenate(
        [np.asarray(_embed(encoder, params, examples.images[b])) for b in batches]
    )


@partial(jax.jit, static_argnums=0)
def _embed(encoder: DatasetEncoder, params: Any, images: Any) -> Any:
    return encoder.embed(params, images)
