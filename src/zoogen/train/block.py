"""Train members: a block from initialisation to the end, or any further from given weights.

The program is called for short spans of steps, so that progress can be shown and a killed run
can resume from its last checkpoint. Where spans are cut has no influence on the result.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Float32, Int

from zoogen.config import Config
from zoogen.data import PLACE_SHAPE, Dataset
from zoogen.errors import ConfigError
from zoogen.grid import Member
from zoogen.keys import identity_words
from zoogen.population import share
from zoogen.train.program import (
    MemberInput,
    MemberState,
    Program,
    Recipe,
    Span,
    TrainingData,
    make_program,
)
from zoogen.train.resume import Checkpoint

SPAN_SECONDS = 1.0
CHECKPOINT_SECONDS = 60.0


@dataclass(frozen=True)
class TrainedBlock:
    """What training leaves of a block of members.

    Attributes:
        weights: ``[m, s, p]``, the flat weights at every snapshot.
        train_loss: ``[m, epoch]``, mean loss of the batches of an epoch as they were met;
            cross-entropy, or squared error where members fit images.
        train_accuracy: ``[m, epoch]``, share of hits in these batches, 0 to 1; NaN where members
            fit images.
        diverged_epoch: ``[m]``, epoch in which the loss ceased to be finite, −1 if it did not.
        stopped_epoch: ``[m]``, epoch after which the loss target was reached, −1 if never.
    """

    weights: Float[np.ndarray, "m s p"]
    train_loss: Float[np.ndarray, "m epoch"]
    train_accuracy: Float[np.ndarray, "m epoch"]
    diverged_epoch: Int[np.ndarray, " m"]
    stopped_epoch: Int[np.ndarray, " m"]


def recipe_of(config: Config, dataset: Dataset) -> Recipe:
    """The static description of a cohort's training.

    Raises:
        ConfigError: if the training set does not fill one batch, or the images are too small for
            the network.
    """
    if config.network.fits_image:
        return _recipe_of_fits(config, dataset)
    size = dataset.training_size(config.data.fraction)
    if size < config.train.batch_size:
        raise ConfigError(
            f"config {config.name!r}: train.batch_size: found {config.train.batch_size}, but a "
            f"member sees only {size} training images (data.fraction = {config.data.fraction:g}); "
            "choose a smaller batch or a larger fraction"
        )
    recipe = Recipe(
        network=config.network,
        train=config.train,
        image_shape=tuple(dataset.train.images.shape[1:]),
        classes=dataset.classes,
        training_size=size,
        crop=config.data.crop,
        flip=config.data.flip,
        noise_seed=config.data.seed,
        root=config.seed,
    )
    _ = recipe.net  # an impossible network is an error now, not after hours of other cohorts
    return recipe


def _recipe_of_fits(config: Config, dataset: Dataset) -> Recipe:
    """The training of members that fit one image each: its pixels are their examples."""
    channels, height, width = dataset.image_shape
    found = len(dataset.train), len(dataset.test)
    if found != config.images:
        wanted = "{} training and {} test images".format(*config.images)
        raise ConfigError(
            f"config {config.name!r}: data.train_examples, data.test_examples: expected {wanted}, "
            f"one for each cell, but data set {dataset.name!r} has only {found[0]} and {found[1]}; "
            "lower them"
        )
    if config.train.batch_size > height * width:
        raise ConfigError(
            f"config {config.name!r}: train.batch_size: found {config.train.batch_size}, but an "
            f"image has only {height}×{width} = {height * width} pixels; choose a smaller batch"
        )
    if dataset.train.images.dtype != np.uint8 and not _in_unit_range(dataset.all_images):
        raise ConfigError(
            f"config {config.name!r}: data set {dataset.name!r} has pixels beyond 0 and 1, and "
            "what is black and white in it is not known; scale them to [0, 1]"
        )
    return Recipe(
        network=config.network,
        train=config.train,
        image_shape=PLACE_SHAPE,
        classes=channels,
        training_size=height * width,
        crop=0,
        flip=False,
        noise_seed=0,
        root=config.seed,
        white=dataset.white,
    )


def _in_unit_range(images: np.ndarray) -> bool:
    return bool(images.min() >= 0 and images.max() <= 1)


def training_data(dataset: Dataset, recipe: Recipe) -> TrainingData:
    """The images that members of a recipe see, on every device."""
    if recipe.network.fits_image:
        mean, std = np.zeros(2, np.float32), np.ones(2, np.float32)  # places are what they are
        given = dataset.all_images, np.zeros(0, np.int32), mean, std
        return share(TrainingData(*map(jnp.asarray, given)))
    n = recipe.training_size
    images, labels = dataset.train.images[:n], dataset.train.labels[:n]
    return share(TrainingData(*map(jnp.asarray, (images, labels, dataset.mean, dataset.std))))


def member_input(members: Sequence[Member]) -> MemberInput:
    """Identities and per-member hyper-parameters, stacked."""
    values = {
        key: jnp.array([member.values[key] for member in members], jnp.float32)
        for key in members[0].values
    }
    words = np.stack([identity_words(member.id) for member in members])
    if members[0].image is None:
        return MemberInput(jnp.asarray(words), values)
    images = jnp.array([member.image for member in members], jnp.int32)
    return MemberInput(jnp.asarray(words), values, image=images)


def train_block(
    recipe: Recipe,
    data: TrainingData,
    members: Sequence[Member],
    resume_dir: Path | None = None,
    on_members: Callable[[float], None] = lambda members: None,
    width: int = 0,
) -> TrainedBlock:
    """Train members of one recipe and return their weights at every snapshot.

    Args:
        recipe: the static description.
        data: what :func:`training_data` returned for the recipe.
        members: those to train; their results do not depend on each other.
        resume_dir: where to keep checkpoints of a run that takes longer than a minute.
        on_members: called with the work just done, in members; it sums to their number.
        width: members that the program takes; copies of the last one fill it up, so that a
            smaller block needs no compilation of its own.
    """
    program, line = make_program(_with_dropout(recipe, members)), recipe.timeline
    filled = [*members, *[members[-1]] * (width - len(members))]
    given, checkpoint = member_input(filled), Checkpoint(resume_dir, CHECKPOINT_SECONDS)
    progress = checkpoint.restore(
        _Progress(
            state=program.start(given, None),
            snapshots=_empty_snapshots(len(filled), recipe),
            position=np.int64(0),
        )
    )
    per_step = len(members) / line.total_steps
    on_members(per_step * int(progress.position))
    cuts = _Cuts(line.steps_per_epoch)
    for index, stop in enumerate(line.snapshots):
        while progress.position < stop:
            target = cuts.next(int(progress.position), stop)
            span = Span(jnp.int32(progress.position), jnp.int32(target))
            state = _advanced(program, (given, progress.state), (data, span), cuts)
            on_members(per_step * (target - int(progress.position)))
            progress = progress._replace(state=state, position=np.int64(target))
            checkpoint.save_if_due(progress, target)
        if progress.position == stop:
            weights = recipe.net.spec.flatten(progress.state.params)
            progress.snapshots[:, index] = np.asarray(weights)
    return _finish(recipe, progress, len(members))


def initial_weights(recipe: Recipe, members: Sequence[Member]) -> Float32[np.ndarray, "m p"]:
    """The flat weights from which members of a recipe start."""
    state = make_program(recipe).start(member_input(members), None)
    return np.asarray(recipe.net.spec.flatten(state.params))


def continue_training(
    recipe: Recipe,
    data: TrainingData,
    members: Sequence[Member],
    weights: Float32[np.ndarray, "m p"],
    mask: Bool[np.ndarray, "m p"] | None = None,
    steps: Sequence[int] | None = None,
    on_members: Callable[[float], None] = lambda members: None,
) -> Float32[np.ndarray, "m s p"]:
    """Train members from given weights through a stretch of their recipe.

    Learning rate and order of images are those of that stretch; the optimiser starts anew, and
    no loss target ends it early. A member's result does not depend on the others.

    Args:
        recipe: the static description.
        data: what :func:`training_data` returned for the recipe.
        members: who they are: their keys and per-member hyper-parameters.
        weights: from where they go on; NaN where a member diverged.
        mask: weights that there are; all others are zero from the first step on and stay it.
        steps: where to begin, then where weights are returned, in growing order; by default the
            begin and the end of the recipe.
        on_members: called with the work just done, in members; it sums to their number.

    Returns:
        The flat weights at every step but the first; NaN for a member that diverged.

    Reference:
        Renda, Frankle and Carbin, Comparing rewinding and fine-tuning in neural network pruning,
        2020: *learning-rate rewinding* is a stretch that ends with the recipe.
    """
    train = recipe.train.model_copy(update={"stop_at_train_loss": None})
    trained = _with_dropout(replace(recipe, train=train), members)
    program, line = make_program(trained), recipe.timeline
    begin, *stops = (0, line.total_steps) if steps is None else steps
    kept = None if mask is None else recipe.net.spec.unflatten(jnp.asarray(mask))
    given = member_input(members)._replace(mask=kept)
    state = program.restart((given, jnp.asarray(weights, jnp.float32)), None)
    position, cuts, found = begin, _Cuts(line.steps_per_epoch), []
    for stop in stops:
        while position < stop:
            target = cuts.next(position, stop)
            span = Span(jnp.int32(position), jnp.int32(target))
            state = _advanced(program, (given, state), (data, span), cuts)
            on_members(len(members) * (target - position) / (stops[-1] - begin))
            position = target
        found.append(np.asarray(recipe.net.spec.flatten(state.params)))
    return np.stack(found, axis=1)


def _with_dropout(recipe: Recipe, members: Sequence[Member]) -> Recipe:
    """The recipe with dropout if any of these members drops units."""
    rates = [member.values.get("train.dropout", 0.0) for member in members]
    return replace(recipe, dropout=any(rates))


def _advanced(
    program: Program,
    member: tuple[MemberInput, MemberState],
    shared: tuple[TrainingData, Span],
    cuts: _Cuts,
) -> MemberState:
    """The members after a span, whose time sets the length of the next one."""
    with cuts.timed():
        state: MemberState = program.advance(member, shared)
        jax.block_until_ready(state)
    return state


class _Progress(NamedTuple):
    """All that a resumed block needs."""

    state: MemberState
    snapshots: Float[np.ndarray, "m s p"]
    position: np.int64


def _empty_snapshots(members: int, recipe: Recipe) -> Float[np.ndarray, "m s p"]:
    shape = (members, len(recipe.timeline.snapshots), recipe.net.spec.size)
    return np.full(shape, np.nan, np.float32)


def _finish(recipe: Recipe, progress: _Progress, members: int) -> TrainedBlock:
    line = recipe.timeline
    state = jax.tree.map(lambda leaf: np.asarray(leaf)[:members], progress.state)
    steps = np.full(line.n_epochs, line.steps_per_epoch)
    steps[-1] = line.total_steps - (line.n_epochs - 1) * line.steps_per_epoch
    begun = state.loss_sum.astype(np.float64)
    ended = (state.stopped_epoch >= 0) | (state.diverged_epoch >= 0)
    last = np.where(ended, np.maximum(state.stopped_epoch, state.diverged_epoch), line.n_epochs)
    never_run = np.arange(line.n_epochs) > last[:, None]
    images = steps * recipe.train.batch_size
    unclassified = never_run | recipe.network.fits_image
    return TrainedBlock(
        weights=progress.snapshots[:members],
        train_loss=np.where(never_run, np.nan, begun / steps).astype(np.float32),
        train_accuracy=np.where(unclassified, np.nan, state.hits / images).astype(np.float32),
        diverged_epoch=state.diverged_epoch,
        stopped_epoch=state.stopped_epoch,
    )


class _Cuts:
    """Where to cut training into spans of about a second, at epoch boundaries."""

    def __init__(self, steps_per_epoch: int) -> None:
        self._steps_per_epoch = steps_per_epoch
        self._epochs = 1

    def next(self, position: int, stop: int) -> int:
        return min(stop, (position // self._steps_per_epoch + self._epochs) * self._steps_per_epoch)

    @contextmanager
    def timed(self) -> Iterator[None]:
        """Lengthen or shorten the next span by the time that this one takes."""
        begin = time.perf_counter()
        yield
        seconds = max(time.perf_counter() - begin, 1e-3)
        factor = min(max(SPAN_SECONDS / seconds, 0.25), 8.0)
        self._epochs = max(1, round(self._epochs * factor))
