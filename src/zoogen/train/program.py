"""The training program: pure functions of one member, compiled once per cohort.

``advance`` runs a member from one optimiser step to another. All hyper-parameters that need no
program of their own are arguments, so members that differ in them share the compilation.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int, UInt32

from zoogen.config import NetworkConfig, TrainConfig
from zoogen.data import augment, noisy_labels, normalise, pixel_values, places
from zoogen.keys import Purpose, key_for
from zoogen.networks import Network, build_network, dropping, step_factors
from zoogen.networks.cost import working_bytes
from zoogen.networks.statistics import moved
from zoogen.params import Params
from zoogen.population import MemberFunction, on_cpu, over_members
from zoogen.train.schedules import Timeline, rate_factor, timeline
from zoogen.train.shuffle import round_keys, shuffled

NEVER = -1


class MemberInput(NamedTuple):
    """What makes one member different from the others of its cohort.

    Attributes:
        words: identity from which all its keys are derived.
        values: its per-member hyper-parameters by dotted key.
        mask: which weights there are; the others stay zero. All of them without one, which
            costs nothing: a program that is given no mask has none.
        image: number of the image that it fits; a classifier has none.
    """

    words: UInt32[Array, "2"]
    values: Mapping[str, Float[Array, ""]]
    mask: Mapping[str, Bool[Array, "..."]] | None = None
    image: Int[Array, ""] | None = None


class MemberState(NamedTuple):
    """A member in training.

    Attributes:
        params: its weights, and running statistics of batches; NaN from divergence on.
        optimizer: state of the update rule.
        loss_sum: sum of the batch losses per epoch.
        hits: correctly classified training images per epoch, as they were met.
        diverged_epoch: epoch in which the loss ceased to be finite; −1 if it did not.
        stopped_epoch: epoch after which the loss target was reached; −1 if it was not.
    """

    params: Params
    optimizer: optax.OptState
    loss_sum: Float[Array, " epoch"]
    hits: Int[Array, " epoch"]
    diverged_epoch: Int[Array, ""]
    stopped_epoch: Int[Array, ""]


class TrainingData(NamedTuple):
    """What all members of a cohort share.

    Attributes:
        images: training images, raw; all images, where members fit one each. Inside the program
            these are the places in that one image, and its ``labels`` what is to be seen there.
        labels: clean labels.
        mean, std: per channel.
    """

    images: Array
    labels: Int[Array, " n"] | Float[Array, "n c"]
    mean: Float[Array, " c"]
    std: Float[Array, " c"]


class Span(NamedTuple):
    """Optimiser steps to run: from ``start`` up to but not including ``stop``."""

    start: Int[Array, ""]
    stop: Int[Array, ""]


@dataclass(frozen=True)
class Recipe:
    """Everything static about a cohort's training; equal recipes share one compilation.

    Where members fit an image, their training examples are its pixels: ``training_size`` is the
    number of these, ``image_shape`` that of a place, ``classes`` the number of channels, and
    ``white`` the brightest value.

    ``dropout`` says whether any member drops units: a program of none that does pays nothing.
    """

    network: NetworkConfig
    train: TrainConfig
    image_shape: tuple[int, int, int]
    classes: int
    training_size: int
    crop: int
    flip: bool
    noise_seed: int
    root: int
    white: float = 255.0
    dropout: bool = False

    @property
    def net(self) -> Network:
        return build_network(self.network, self.image_shape, self.classes)

    @property
    def timeline(self) -> Timeline:
        return timeline(self.train, self.training_size)


class Program(NamedTuple):
    """The compiled functions of a recipe, over members.

    Attributes:
        start: ``(MemberInput, None) → MemberState``, at initialisation.
        restart: ``((MemberInput, weights), None) → MemberState``, at given flat weights.
        advance: ``((MemberInput, MemberState), (TrainingData, Span)) → MemberState``.
    """

    start: MemberFunction
    restart: MemberFunction
    advance: MemberFunction


@lru_cache(maxsize=64)
def make_program(recipe: Recipe) -> Program:
    """The program of a recipe.

    Recipes that differ in initialisation share ``advance``; ``start`` is shared by those that
    differ in what comes after it.
    """
    network = recipe.network.model_copy(update={"init": "he_normal", "init_scale": 1.0})
    return Program(
        start=_start(_beginning(recipe)),
        restart=over_members(partial(restart_member, recipe)),
        advance=_advance(replace(recipe, network=network)),
    )


def _beginning(recipe: Recipe) -> Recipe:
    """A recipe with the same start, and all else as in others."""
    activated = recipe.network.model_copy(update={"activation": "relu"})
    size = recipe.training_size if recipe.train.steps else recipe.train.batch_size
    return replace(recipe, network=activated, training_size=size, dropout=False)


@lru_cache(maxsize=64)
def _start(recipe: Recipe) -> MemberFunction:
    return over_members(partial(start_member, recipe))


@lru_cache(maxsize=64)
def _advance(recipe: Recipe) -> MemberFunction:
    needed = None if on_cpu() else working_bytes(recipe.net, recipe.train.batch_size)
    return over_members(partial(advance_member, recipe), member_bytes=needed)


def start_member(recipe: Recipe, member: MemberInput, _shared: None) -> MemberState:
    """A member at initialisation."""
    key = key_for(recipe.root, member.words, Purpose.INIT)
    return _untrained(recipe, member, recipe.net.init(key, member.values["network.init_scale"]))


def restart_member(
    recipe: Recipe, member: tuple[MemberInput, Float[Array, " p"]], _shared: None
) -> MemberState:
    """A member at given weights, its optimiser as at initialisation."""
    given, weights = member
    return _untrained(recipe, given, _masked(given, recipe.net.spec.unflatten(weights)))


def _untrained(recipe: Recipe, member: MemberInput, params: Params) -> MemberState:
    epochs = recipe.timeline.n_epochs
    return MemberState(
        params=params,
        optimizer=_optimizer(recipe.train, member, 0.0).init(params),
        loss_sum=jnp.zeros(epochs, jnp.float32),
        hits=jnp.zeros(epochs, jnp.int32),
        diverged_epoch=jnp.int32(NEVER),
        stopped_epoch=jnp.int32(NEVER),
    )


def advance_member(
    recipe: Recipe, member: tuple[MemberInput, MemberState], shared: tuple[TrainingData, Span]
) -> MemberState:
    """A member after the steps of a span; one that diverged or stopped stays as it is."""
    (given, state), (data, span) = member, shared
    per_epoch = recipe.timeline.steps_per_epoch
    run = partial(_run_epoch, recipe, given, _own_data(recipe, given, data), span)

    def epoch_if_training(epoch: Int[Array, ""], state: MemberState) -> MemberState:
        training = (state.diverged_epoch == NEVER) & (state.stopped_epoch == NEVER)
        return jax.lax.cond(training, run, lambda _, state: state, epoch, state)

    last = (span.stop + per_epoch - 1) // per_epoch
    return jax.lax.fori_loop(span.start // per_epoch, last, epoch_if_training, state)


def _own_data(recipe: Recipe, member: MemberInput, data: TrainingData) -> TrainingData:
    """What this member trains on: images with its share of noisy labels, or pixels of its image."""
    if recipe.network.fits_image:
        _, _, height, width = data.images.shape
        values = pixel_values(data.images[member.image], recipe.white)
        return data._replace(images=jnp.asarray(places(height, width)), labels=values)
    labels = noisy_labels(
        data.labels, member.values["data.label_noise"], recipe.classes, recipe.noise_seed
    )
    return data._replace(labels=labels)


def _run_epoch(
    recipe: Recipe,
    member: MemberInput,
    data: TrainingData,
    span: Span,
    epoch: Int[Array, ""],
    state: MemberState,
) -> MemberState:
    """The part of an epoch that lies in the span; its order depends on member and epoch only."""
    per_epoch = recipe.timeline.steps_per_epoch
    order_key = key_for(recipe.root, member.words, Purpose.ORDER)
    order = round_keys(jax.random.fold_in(order_key, epoch))
    begin = epoch * per_epoch
    factors = step_factors(recipe.network, recipe.net.spec)

    def step(i: Int[Array, ""], carry: Any) -> Any:
        params, optimizer, loss_sum, hits = carry
        images, labels = _batch(recipe, member, data, order, i, begin + i)
        measure = _squared_error if recipe.network.fits_image else _loss
        (loss, (correct, statistics)), gradient = jax.value_and_grad(
            measure, argnums=1, has_aux=True
        )(_network(recipe, member, begin + i), params, images, labels)
        factor = rate_factor(recipe.train, recipe.timeline, begin + i)
        updates, optimizer = _optimizer(recipe.train, member, factor).update(
            gradient, optimizer, params
        )
        for name, absorbed in factors.items():
            updates[name] = absorbed * updates[name]
        params = {**_masked(member, optax.apply_updates(params, updates)), **statistics}
        return params, optimizer, loss_sum + loss, hits + correct

    low = jnp.maximum(span.start - begin, 0)
    high = jnp.minimum(span.stop - begin, per_epoch)
    carry = (state.params, state.optimizer, jnp.float32(0), jnp.int32(0))
    params, optimizer, loss_sum, hits = jax.lax.fori_loop(low, high, step, carry)
    state = state._replace(
        params=params,
        optimizer=optimizer,
        loss_sum=state.loss_sum.at[epoch].add(loss_sum),
        hits=state.hits.at[epoch].add(hits),
    )
    return _end_epoch(recipe, epoch, high == per_epoch, state)


def _masked(member: MemberInput, params: Params) -> Params:
    """The weights with zeros where the mask has none, whatever momentum carries there."""
    if member.mask is None:
        return params
    return {name: jnp.where(member.mask[name], leaf, 0) for name, leaf in params.items()}


def _batch(
    recipe: Recipe,
    member: MemberInput,
    data: TrainingData,
    order: UInt32[Array, " round"],
    i: Int[Array, ""],
    step: Int[Array, ""],
) -> tuple[Float[Array, "b c h w"], Int[Array, " b"]]:
    size = recipe.train.batch_size
    index = shuffled(order, i * size + jnp.arange(size, dtype=jnp.int32), recipe.training_size)
    images = data.images[index]
    if recipe.crop or recipe.flip:
        key = jax.random.fold_in(key_for(recipe.root, member.words, Purpose.AUGMENT), step)
        images = augment(key, images, recipe.crop, recipe.flip)  # the border is black, so first
    return normalise(images, data.mean, data.std), data.labels[index]


def _network(recipe: Recipe, member: MemberInput, step: Int[Array, ""]) -> Network:
    """The network in training at one step: with the units dropped that this member drops."""
    if not recipe.dropout:
        return recipe.net
    key = jax.random.fold_in(key_for(recipe.root, member.words, Purpose.DROPOUT), step)
    drop = dropping(key, member.values["train.dropout"])
    return replace(recipe.net, train_forward=partial(recipe.net.train_forward, drop=drop))


def _loss(
    network: Network, params: Params, images: Float[Array, "b c h w"], labels: Int[Array, " b"]
) -> tuple[Float[Array, ""], tuple[Int[Array, ""], Params]]:
    """Mean cross-entropy, number of hits, and running statistics after the batch."""
    logits, seen = network.train_forward(params, images)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, labels).mean()
    hits = jnp.sum(jnp.argmax(logits, axis=-1).astype(labels.dtype) == labels, dtype=jnp.int32)
    return loss, (hits, moved(params, seen))


def _squared_error(
    network: Network, params: Params, at: Float[Array, "b 2 1 1"], values: Float[Array, "b c"]
) -> tuple[Float[Array, ""], tuple[Int[Array, ""], Params]]:
    """Mean squared error over pixels and channels, and running statistics; there are no hits."""
    found, seen = network.train_forward(params, at)
    return jnp.mean(jnp.square(found - values)), (jnp.int32(0), moved(params, seen))


def _end_epoch(
    recipe: Recipe, epoch: Int[Array, ""], complete: Array, state: MemberState
) -> MemberState:
    """Flag divergence and a reached target; a diverged member's weights become NaN."""
    loss_sum, target = state.loss_sum[epoch], recipe.train.stop_at_train_loss
    finite = jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(state.params)])
    diverged = ~(jnp.isfinite(loss_sum) & jnp.all(finite))
    reached = jnp.bool_(False)
    if target is not None:
        reached = complete & (loss_sum <= target * recipe.timeline.steps_per_epoch)
    return state._replace(
        params=jax.tree.map(lambda leaf: jnp.where(diverged, jnp.nan, leaf), state.params),
        diverged_epoch=jnp.where(diverged, epoch, NEVER).astype(jnp.int32),
        stopped_epoch=jnp.where(reached & ~diverged, epoch, NEVER).astype(jnp.int32),
    )


def _optimizer(
    config: TrainConfig, member: MemberInput, factor: float | Float[Array, ""]
) -> optax.GradientTransformation:
    """The update rule at one step, with this member's rate, momentum and weight decay."""
    rate = member.values["train.learning_rate"] * factor
    momentum = member.values["train.momentum"]
    decay = member.values["train.weight_decay"]
    if config.optimizer == "adamw":
        return optax.adamw(rate, b1=momentum, weight_decay=decay)
    if config.optimizer == "sgd":
        rule = optax.sgd(rate, momentum, config.nesterov)
    elif config.optimizer == "adam":
        rule = optax.adam(rate, b1=momentum)
    else:
        rule = optax.rmsprop(rate, decay=0.9, eps=1e-7, eps_in_sqrt=False)
    return optax.chain(optax.add_decayed_weights(decay), rule)
