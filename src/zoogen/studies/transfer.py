"""Fine-tuning: members trained on to another data set, against the same training from scratch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache

import numpy as np
from jaxtyping import Float32

from zoogen.config import PER_MEMBER_PARAMETERS, Config, DataConfig, changed
from zoogen.data import Dataset, load
from zoogen.errors import ConfigError
from zoogen.grid import Member
from zoogen.params import ParamSpec
from zoogen.progress import scaled
from zoogen.studies.cohort import probe_of
from zoogen.studies.estimates import Estimate, compare_members
from zoogen.studies.trainees import Trainees
from zoogen.train import continue_training, initial_weights, recipe_of, training_data

# How members see images; the rest of [data] belongs to the data set that it names.
_OF_MEMBERS = ("source", "crop", "flip", "test_fraction", "probe_examples", "seed")
_REPLACED_BY = {
    "train.epochs": ("steps",), "train.steps": ("epochs",), "train.schedule": ("anneal_at",),
}  # fmt: skip


def fine_tune(members: Trainees) -> Iterator[Estimate]:
    """Train on to another data set, against the same training from the own initialisation.

    Images are normalised by the statistics of the new set. A layer that does not fit its number
    of classes starts anew.

    Reference:
        Yosinski, Clune, Bengio and Lipson, How transferable are features in deep neural
        networks?, 2014.
    """
    config = target_config(members.config, members.overrides)
    dataset = _loaded(config.data.model_dump_json())
    _require_images(members.dataset, dataset)
    recipe = recipe_of(config, dataset)
    data = training_data(dataset, recipe)
    people = _retold(members.members, config, members.overrides)
    old, network = members.subjects, recipe.net
    scratch = initial_weights(recipe, people)
    start = transferred(old.network.spec, old.weights(old.snapshots - 1), network.spec, scratch)
    times = _times(config)
    stride = recipe.timeline.steps_per_epoch if config.train.epochs else 1

    steps, advance = [0, *(time * stride for time in times)], scaled(members.on_members, 1 / 2)
    tuned, reference = (
        continue_training(recipe, data, people, weights, None, steps, advance)
        for weights in (start, scratch)
    )
    probe, labels = probe_of(dataset, config.data)
    new = replace(old, network=network, probe=probe, labels=labels)
    for place, (time, setting) in enumerate(times.items()):
        if time == 0 and network.classes != old.network.classes:
            continue
        pair = new.accuracy(tuned[:, place]), new.accuracy(reference[:, place])
        yield from compare_members(new.by_cell(), setting, *pair)


def transferred(
    old: ParamSpec,
    values: Float32[np.ndarray, "m p"],
    new: ParamSpec,
    fresh: Float32[np.ndarray, "m q"],
) -> Float32[np.ndarray, "m q"]:
    """Weights of another network: those of the same name and shape, the rest fresh.

    Args:
        old: of the given weights.
        values: flat weights.
        new: of the weights that are wanted.
        fresh: flat weights of that network.

    Example:
        >>> from zoogen.params import Axis
        >>> old = ParamSpec.build({"hidden": (Axis(2),), "output": (Axis(1),)})
        >>> new = ParamSpec.build({"hidden": (Axis(2),), "output": (Axis(2),)})
        >>> one, other = np.full((1, 3), 1.0), np.full((1, 4), 2.0)
        >>> transferred(old, one, new, other).tolist()
        [[1.0, 1.0, 2.0, 2.0]]
    """
    there, wanted = old.unflatten(values), new.unflatten(fresh)
    same = {p.name: p.shape for p in old.parameters}
    return new.flatten({
        p.name: (there if same.get(p.name) == p.shape else wanted)[p.name]
        for p in new.parameters
    })  # fmt: skip


def target_config(config: Config, overrides: Sequence[str]) -> Config:
    """How members of a config are trained on: their own ``[train]`` and the named ``[data]``.

    Raises:
        ConfigError: if no data set is named, another section is, or values contradict each other.
    """
    keys = _keys(overrides)
    foreign = sorted(key for key in keys if key.split(".")[0] not in {"data", "train"})
    if foreign:
        raise ConfigError(
            f"study fine-tune: --set {foreign[0]}: expected a key of [data] or [train]; the "
            "network stays as it is"
        )
    if not keys & {"data.source", "data.path"}:
        raise ConfigError(
            "study fine-tune: no data set named; name one in a config's words, such as "
            "--set data.source=npz --set data.path=FILE"
        )
    table = config.model_dump(mode="json", by_alias=True)
    replaced = {name for key in keys for name in _REPLACED_BY.get(key, ())}
    gone = {"snapshots", "stop_at_train_loss"} | replaced
    table["data"] = {name: table["data"][name] for name in _OF_MEMBERS}
    table["train"] = {name: v for name, v in table["train"].items() if name not in gone}
    return changed(table, overrides, "study fine-tune")


def _keys(overrides: Sequence[str]) -> set[str]:
    return {override.partition("=")[0].strip() for override in overrides}


def _retold(
    members: Sequence[Member], config: Config, overrides: Sequence[str]
) -> tuple[Member, ...]:
    """The members with what overrides say of them, and the label noise of the new set."""
    said = {"data.label_noise", *_keys(overrides)} & set(PER_MEMBER_PARAMETERS)
    values = {key: float(config.values()[key] or 0.0) for key in said}
    return tuple(replace(member, values={**member.values, **values}) for member in members)


def _times(config: Config) -> dict[int, str]:
    """When members are compared, in epochs (constant-step mode: steps), and in words."""
    train = config.train
    unit, total = ("epoch", train.epochs) if train.epochs else ("step", train.steps or 0)
    between = train.snapshots or ((1,) if train.epochs else ())
    times = sorted({0, *between, total})
    return {time: f"{time} {unit}{'' if time == 1 else 's'}" for time in times}


@lru_cache(maxsize=1)
def _loaded(config: str) -> Dataset:
    """The data set of a ``[data]`` section in JSON; the cohorts of a zoo share it."""
    return load(DataConfig.model_validate_json(config))


def _require_images(old: Dataset, new: Dataset) -> None:
    if old.image_shape != new.image_shape:
        expected, found = ("×".join(map(str, data.image_shape)) for data in (old, new))
        raise ConfigError(
            f"study fine-tune: data set {new.name!r}: expected images of {expected} (channels, "
            f"height, width) as the members take them, found {found}; write images of that shape "
            "to an npz file (docs/data.md) and name it"
        )
