"""The value of generated weights as a place to start training from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float32

from zoogen.config import PER_MEMBER_PARAMETERS, Config
from zoogen.data import Dataset
from zoogen.errors import ConfigError
from zoogen.grid import Member
from zoogen.train import continue_training, initial_weights, recipe_of, training_data

EPOCHS = (0, 1, 5, 25)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
SCRATCH = "scratch"

Weights = Float32[np.ndarray, "n p"]
Wrong = Callable[[Weights], Bool[np.ndarray, "n b"]]


@dataclass(frozen=True)
class Start:
    """Training from one kind of weights, after each time at the learning rate that suits it best.

    Attributes:
        name: what it starts from.
        data: name of the data set that it is trained on.
        rates: of each time, the learning rate of highest accuracy on the test images that choose
            it: what is best after one epoch is not what is best after many.
        epochs: the times at which the accuracy is taken.
        accuracy: mean accuracy of the networks at these times on the other test images; one that
            diverged, or was not finite to begin with, counts 0.
        deviation: over networks.
        networks: that were trained.
    """

    name: str
    data: str
    rates: tuple[float, ...]
    epochs: tuple[int, ...]
    accuracy: tuple[float, ...]
    deviation: tuple[float, ...]
    networks: int


def drawn(weights: Weights, count: int, seed: int = 0) -> Weights:
    """Some networks at random, good or bad, finite or not; all where there are no more.

    Example:
        >>> sorted(drawn(np.array([[5.0], [np.nan]], np.float32), 3)[:, 0].tolist())
        [5.0, nan]
    """
    return weights[np.random.default_rng(seed).permutation(len(weights))[:count]]


def compare_starts(
    config: Config,
    dataset: Dataset,
    starts: Mapping[str, Weights],
    wrong: Wrong,
    epochs: Sequence[int] = EPOCHS,
    rates: Sequence[float] = RATES,
    done: Callable[[float], None] = lambda epochs: None,
) -> tuple[Start, ...]:
    """Train from generated weights, from their nearest training members, and from scratch.

    All get the same recipe, images, order of images and choice of learning rates. Every second
    test image chooses the rates, the others are reported: training images can't choose, since
    generated networks may know them from the members that they were made after.

    Args:
        config: ``[network]`` and the recipe; its epochs and schedule are replaced by a constant
            rate for the last of ``epochs``.
        dataset: images to train on.
        starts: name → flat weights, equally many of each; such as ``generated`` and ``nearest``
            (see ``Evaluator.nearest_members``). Those that are not finite have accuracy 0, like
            those that diverge. ``scratch``, initialised as the config says, is added.
        wrong: which test images networks get wrong, ``Evaluator.wrong``.
        epochs: when networks are compared, in growing order.
        rates: learning rates that are tried.
        done: called with the number of epochs just done; they sum to the last of ``epochs``.

    Raises:
        ConfigError: if there is no start, or their shapes differ.

    Reference:
        D2NWG (Soro et al., 2024) and SANE (Schürholt et al., 2024) report fine-tuning against a
        scratch run with one learning rate; the nearest training member is our addition.
    """
    count, recipe = _common_count(starts), recipe_of(_constant(config, epochs[-1]), dataset)
    people = _people(config, rates, count)
    every = {**starts, SCRATCH: initial_weights(recipe, people[:count])}
    # One program for all: rates are arrays over members, and so is where a member starts.
    weights = np.concatenate([np.tile(values, (len(rates), 1)) for values in every.values()])
    stride = recipe.timeline.steps_per_epoch
    steps = [0, *(stride * epoch for epoch in epochs)]
    data = training_data(dataset, recipe)
    each = epochs[-1] / len(weights)
    trained = continue_training(
        recipe, data, people * len(every), weights, None, steps, lambda part: done(each * part)
    )
    right = ~wrong(trained.reshape(-1, recipe.net.spec.size))
    right = right.reshape(len(every), len(rates), count, len(epochs), -1)
    return tuple(
        _start(name, dataset.name, found, rates, epochs)
        for name, found in zip(every, right, strict=True)
    )


def _start(
    name: str,
    data: str,
    right: Bool[np.ndarray, "rates n epochs images"],
    rates: Sequence[float],
    epochs: Sequence[int],
) -> Start:
    """Even images choose a rate for each time, odd ones are reported."""
    chosen = right[..., ::2].mean(axis=(1, 3)).argmax(axis=0)
    accuracy = right[chosen, :, np.arange(len(epochs)), 1::2].mean(axis=-1)
    means, deviations = (
        tuple(map(float, v)) for v in (accuracy.mean(axis=1), accuracy.std(axis=1))
    )
    best = tuple(float(rates[rate]) for rate in chosen)
    return Start(name, data, best, tuple(map(int, epochs)), means, deviations, right.shape[1])


def _constant(config: Config, epochs: int) -> Config:
    train = {
        "epochs": epochs, "steps": None, "schedule": "constant", "anneal_at": None,
        "snapshots": (), "stop_at_train_loss": None,
    }  # fmt: skip
    return config.model_copy(update={"train": config.train.model_copy(update=train)})


def _common_count(starts: Mapping[str, Weights]) -> int:
    shapes = {name: np.shape(values) for name, values in starts.items()}
    if not shapes or len(set(shapes.values())) > 1 or not next(iter(shapes.values()))[0]:
        raise ConfigError(
            f"initialisation value: found starts of shapes {shapes or 'none'}, expected equally "
            "many networks of one architecture for each name"
        )
    return int(next(iter(shapes.values()))[0])


def _people(config: Config, rates: Sequence[float], count: int) -> tuple[Member, ...]:
    """One member a rate and network; networks of all rates and starts see images in one order."""
    values = config.values()
    own = {key: float(values[key] or 0) for key in PER_MEMBER_PARAMETERS}
    return tuple(
        Member(f"start {seed}", "start", seed, {**own, "train.learning_rate": float(rate)})
        for rate in rates
        for seed in range(count)
    )
