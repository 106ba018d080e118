"""The value of generated weights as a place to start training from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Float32

from zoogen.config import PER_MEMBER_PARAMETERS, Config
from zoogen.data import Dataset
from zoogen.errors import ConfigError
from zoogen.evaluate.generation.behaviour import Images, wrong_predictions
from zoogen.grid import Member
from zoogen.train import continue_training, initial_weights, recipe_of, training_data

EPOCHS = (0, 1, 5, 25)
RATES = (0.003, 0.01, 0.03, 0.1, 0.3)
SCRATCH = "scratch"

Weights = Float32[np.ndarray, "n p"]
Measure = Callable[[Weights], Float[np.ndarray, " n"]]


@dataclass(frozen=True)
class Start:
    """Training from one kind of weights, at the learning rate that suits it best.

    Attributes:
        name: what it starts from.
        rate: the learning rate of highest validation accuracy after the last epoch.
        epochs: when the accuracy is taken.
        accuracy: mean test accuracy of the networks at these times; one that diverged counts 0.
        deviation: over networks.
    """

    name: str
    rate: float
    epochs: tuple[int, ...]
    accuracy: tuple[float, ...]
    deviation: tuple[float, ...]


def compare_starts(
    config: Config,
    dataset: Dataset,
    starts: Mapping[str, Weights],
    measure: Measure,
    epochs: Sequence[int] = EPOCHS,
    rates: Sequence[float] = RATES,
) -> tuple[Start, ...]:
    """Train from generated weights, from their nearest training members, and from scratch.

    All get the same recipe, images and choice of learning rates. A share of the training images,
    which no start is trained on here, chooses the rate of each; test images choose nothing.

    Args:
        config: ``[network]`` and the recipe; its epochs and schedule are replaced by a constant
            rate for the last of ``epochs``. ``data.fraction`` below 1 leaves images to validate
            on; at 1, a tenth is left.
        dataset: images to train on.
        starts: name → flat weights, equally many of each; such as ``generated`` and ``nearest``
            (see ``Evaluator.nearest_members``). ``scratch``, initialised as the config says, is
            added.
        measure: test accuracy of networks, ``Evaluator.accuracies``.
        epochs: when networks are compared, in growing order from 0.
        rates: learning rates that are tried.

    Raises:
        ConfigError: if there is no start, or their shapes differ.

    Reference:
        D2NWG (Soro et al., 2024) and SANE (Schürholt et al., 2024) report fine-tuning against a
        scratch run with one learning rate; the nearest training member is our addition.
    """
    count = _common_count(starts)
    constant = {"epochs": epochs[-1], "steps": None, "schedule": "constant", "anneal_at": None,
                "snapshots": (), "stop_at_train_loss": None}  # fmt: skip
    fraction = min(config.data.fraction, 0.9)
    config = config.model_copy(
        update={
            "train": config.train.model_copy(update=constant),
            "data": config.data.model_copy(update={"fraction": fraction}),
        }
    )
    recipe = recipe_of(config, dataset)
    data, network = training_data(dataset, recipe), recipe.net
    people = _people(config, rates, count)
    every = {**starts, SCRATCH: initial_weights(recipe, people[:count])}
    # One program for all: rates are arrays over members, and so is where a member starts.
    weights = np.concatenate([np.tile(values, (len(rates), 1)) for values in every.values()])
    stride = recipe.timeline.steps_per_epoch
    steps = [0, *(stride * epoch for epoch in epochs if epoch)]
    trained = continue_training(recipe, data, people * len(every), weights, None, steps)
    if epochs[0] == 0:
        trained = np.concatenate([weights[:, None], trained], axis=1)
    by_start = trained.reshape(len(every), len(rates), count, len(epochs), -1)

    unseen = dataset.train.take(np.arange(recipe.training_size, len(dataset.train)))
    images = Images(unseen.images, dataset.mean, dataset.std)
    last = by_start[..., -1, :].reshape(-1, network.spec.size)
    right = ~wrong_predictions(network, last, images, unseen.labels)
    validation = right.mean(axis=1).reshape(by_start.shape[:3]).mean(axis=2)
    found = []
    for name, rate, values in zip(every, validation.argmax(axis=1), by_start, strict=True):
        chosen = values[rate].reshape(count * len(epochs), -1)
        accuracy = measure(chosen).reshape(count, len(epochs))
        means, spreads = accuracy.mean(axis=0), accuracy.std(axis=0)
        times = tuple(int(epoch) for epoch in epochs)
        found.append(
            Start(name, float(rates[rate]), times, tuple(means.tolist()), tuple(spreads.tolist()))
        )
    return tuple(found)


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
