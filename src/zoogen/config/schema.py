"""The whole config: sections and grid, checked against each other, and its sizes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, model_validator

from zoogen.config.axes import Range, Scalar, Values
from zoogen.config.draws import Draw
from zoogen.config.grid import GridConfig
from zoogen.config.sections import (
    FIT_GROUPS,
    PER_MEMBER,
    DataConfig,
    LandscapeConfig,
    NetworkConfig,
    PhasesConfig,
    Section,
    TrainConfig,
)
from zoogen.config.wording import NAME, expectation, nearest, sentence
from zoogen.errors import ConfigError


class Config(Section):
    """One zoo, complete and checked.

    Attributes:
        name: short name of the zoo, used in titles.
        description: what it is for.
        seed: root of all random keys of training.
        sizes: size name → scale (see :meth:`at_size`).
    """

    name: str = Field(pattern=NAME)
    description: str = ""
    seed: int = Field(default=0, ge=0, lt=2**31)
    data: DataConfig = DataConfig()
    network: NetworkConfig = NetworkConfig()
    train: TrainConfig
    grid: GridConfig = GridConfig()
    landscape: LandscapeConfig = LandscapeConfig()
    phases: PhasesConfig = PhasesConfig()
    sizes: dict[Literal["tiny", "small", "full"], Annotated[float, Field(gt=0)]] = Field(
        default_factory=dict
    )

    @model_validator(mode="after")
    def _axes_are_hyper_parameters(self) -> Config:
        for key, axis in self.grid.axes.items():
            self._check_axis("grid.axes", key, axis)
        return self

    @model_validator(mode="after")
    def _draws_are_hyper_parameters(self) -> Config:
        draws = self.grid.random.draws if self.grid.random else {}
        for key, draw in draws.items():
            self._check_axis("grid.random.draws", key, draw.values or draw.range)
            if draw.choices is None and key not in PER_MEMBER_PARAMETERS:
                raise ValueError(
                    f"grid.random.draws.{key!r}: found a range without points, but every value of "
                    "it is a program of its own; give a list of values, or points = N"
                )
            if draw.choices is None and not _accepts(key, float):
                raise ValueError(f"grid.random.draws.{key!r}: found a range, expected a list")
        return self

    def _check_axis(self, table: str, key: str, axis: Values | Range) -> None:
        if key not in HYPER_PARAMETERS:
            raise ValueError(
                f"{table}: found {key!r}, allowed a hyper-parameter of [data], [network] or "
                f"[train]{nearest(key, HYPER_PARAMETERS)}"
            )
        for value in axis if isinstance(axis, tuple) else _ends(key, axis):
            self._check_axis_value(f"{table}.{key!r}", key, value)
        values = _axis_values(key, axis)
        if len(set(values)) < len(values):
            raise ValueError(f"{table}.{key!r}: found a value twice, expected distinct values")

    def _check_axis_value(self, place: str, key: str, value: Scalar) -> None:
        section, name = key.split(".")
        table = getattr(self, section).model_dump(exclude_unset=True) | {name: value}
        try:
            type(getattr(self, section)).model_validate(table)
        except ValidationError as error:
            text = expectation(dict(error.errors()[0]))
            raise ValueError(f"{place}: {text}") from None

    @model_validator(mode="after")
    def _sections_fit_family(self) -> Config:
        if not self.network.fits_image:
            if "reconstruction" in self.landscape.metrics:
                raise ValueError(
                    "landscape.metrics: found 'reconstruction', but only members of the siren "
                    f"family fit an image, not {self.network.family!r}"
                )
            return self
        for problem in self._unfit_for_images():
            raise ValueError(problem)
        return self

    def _unfit_for_images(self) -> Iterator[str]:
        """What of the config makes no sense for members that fit one image each."""
        for name in ("train_examples", "test_examples"):
            if getattr(self.data, name) is None:
                yield (
                    f"data.{name}: missing; a siren zoo has a member for each training and each "
                    "test image, and is planned without reading them"
                )
        for name in ("fraction", "label_noise", "crop", "flip"):
            default = DataConfig.model_fields[name].default
            if getattr(self.data, name) != default or f"data.{name}" in self.grid.varying:
                yield f"data.{name}: found one, but a siren fits a single image as it is; remove it"
        if self.train.dropout or "train.dropout" in self.grid.varying:
            yield "train.dropout: found some, but a siren drops no units; remove it"
        if self.grid.random is not None:
            yield (
                "grid.random: found a random search, but the cells of a siren zoo are images; use "
                "grid.axes"
            )
        if self.train.optimizer != "adam" or "train.optimizer" in self.grid.varying:
            yield (
                f"train.optimizer: found {self.train.optimizer!r}, a siren needs 'adam': with "
                "another rule ω0 can't be absorbed into the weights"
            )
        wrong = [name for name in self.landscape.metrics if name not in FIT_GROUPS]
        if wrong:
            yield (
                f"landscape.metrics: found {wrong[0]!r}, which needs classes; a siren has "
                f"{', '.join(FIT_GROUPS)}"
            )

    @property
    def images(self) -> tuple[int, int]:
        """How many training and test images get members of their own; none for classifiers."""
        if not self.network.fits_image:
            return 0, 0
        return self.data.train_examples or 0, self.data.test_examples or 0

    def axis_values(self) -> dict[str, tuple[Scalar, ...]]:
        """Axis → its values, as hyper-parameters of the right type, in the order of the config."""
        return {key: _axis_values(key, axis) for key, axis in self.grid.axes.items()}

    def draw_values(self) -> dict[str, tuple[Scalar, ...] | None]:
        """Drawn hyper-parameter → all that can be drawn; ``None`` for a range without points."""
        draws = self.grid.random.draws if self.grid.random else {}
        return {key: _draw_values(key, draw) for key, draw in draws.items()}

    def at_size(self, size: str) -> Config:
        """The config at a named size: one number scales the whole zoo.

        The scale multiplies the points of every axis (not below 3; lists are thinned evenly, ends
        kept, and never grow), the seeds (not below 2) and, when it is below 1, the length of
        training, its snapshots and ``train_examples``. In a random search it multiplies the
        members in place of points and seeds. Scale 1 is the config as written. Of members that fit
        images only the numbers of images change, so that a member stays what it is.

        Raises:
            ConfigError: if the config names no such size.
        """
        if size not in self.sizes:
            raise ConfigError(
                f"config {self.name!r}: size: found {size!r}, allowed "
                f"{', '.join(self.sizes) or 'none (the config has no [sizes] table)'}"
            )
        scale = self.sizes[size]
        if self.network.fits_image:
            train, test = (_scale_count(count, scale) for count in self.images)
            return self._replace(data={"train_examples": train, "test_examples": test})
        return self._replace(
            grid=_scale_grid(self.grid, scale),
            train=_scale_training(self.train, min(scale, 1.0)),
            data={"train_examples": _scale_count(self.data.train_examples, min(scale, 1.0))},
        )

    def _replace(self, **sections: Mapping[str, Any]) -> Config:
        changed = {
            name: getattr(self, name).model_copy(update=dict(update))
            for name, update in sections.items()
        }
        return self.model_copy(update=changed)

    def with_values(self, values: Mapping[str, Scalar]) -> Config:
        """The config with hyper-parameters (dotted keys) replaced and checked.

        Raises:
            ConfigError: if the values contradict each other.
        """
        table = self.model_dump(by_alias=True, exclude_unset=True)
        for key, value in values.items():
            section, name = key.split(".")
            table.setdefault(section, {})[name] = value
        table["grid"] = {}
        return validate(table, f"config {self.name!r} at {dict(values)}")

    def values(self) -> dict[str, Scalar | None]:
        """Every hyper-parameter by its dotted key."""
        return {
            key: getattr(getattr(self, key.split(".")[0]), key.split(".")[1])
            for key in HYPER_PARAMETERS
        }


def _scale_count(count: int | None, scale: float) -> int | None:
    return None if count is None else max(1, math.ceil(count * scale))


def _scale_training(train: TrainConfig, scale: float) -> dict[str, Any]:
    return {
        "epochs": _scale_count(train.epochs, scale),
        "steps": _scale_count(train.steps, scale),
        "snapshots": tuple(sorted({math.ceil(s * scale) for s in train.snapshots})),
    }


def _scale_grid(grid: GridConfig, scale: float) -> dict[str, Any]:
    if grid.random is not None:
        cells = math.ceil(grid.random.members // grid.seeds * scale)
        return {"random": grid.random.model_copy(update={"members": cells * grid.seeds})}
    axes = {key: _scale_axis(axis, scale) for key, axis in grid.axes.items()}
    return {"axes": axes, "seeds": max(min(grid.seeds, 2), math.ceil(grid.seeds * scale))}


def _scale_axis(axis: Values | Range, scale: float) -> Values | Range:
    if isinstance(axis, Range):
        points = max(min(axis.points, 3), math.ceil(axis.points * scale))
        return axis.model_copy(update={"points": points})
    keep = min(len(axis), max(min(len(axis), 3), math.ceil(len(axis) * scale)))
    last = len(axis) - 1
    return tuple(axis[round(i * last / (keep - 1))] for i in range(keep)) if keep > 1 else axis


_NOT_AN_AXIS = {
    "data.source", "data.path", "data.sha256", "data.train_examples", "data.test_examples",
    "data.test_fraction", "data.probe_examples", "data.seed", "train.snapshots",
}  # fmt: skip
_SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig, "network": NetworkConfig, "train": TrainConfig,
}  # fmt: skip
_FIELDS = {f"{s}.{n}": f for s, model in _SECTIONS.items() for n, f in model.model_fields.items()}
HYPER_PARAMETERS: tuple[str, ...] = tuple(key for key in _FIELDS if key not in _NOT_AN_AXIS)
PER_MEMBER_PARAMETERS: tuple[str, ...] = tuple(
    key for key, field in _FIELDS.items() if field.json_schema_extra == PER_MEMBER
)

LATER_PARAMETERS: dict[str, float] = {"train.dropout": 0.0}
"""Hyper-parameters that tables of members lack where all have this value: those of zoos that were
begun before there was the hyper-parameter stay as they are."""


def _ends(key: str, axis: Range) -> tuple[Scalar, ...]:
    """A range is monotone: where its ends are allowed, so is all between them."""
    values = _axis_values(key, axis)
    return values[0], values[-1]


def _axis_values(key: str, axis: Values | Range) -> tuple[Scalar, ...]:
    """Values in the hyper-parameter's own type, so that identities do not depend on spelling."""
    raw = axis.values() if isinstance(axis, Range) else axis
    if _accepts(key, float):
        return tuple(float(v) if type(v) is int else v for v in raw)
    if isinstance(axis, Range) and _accepts(key, int):
        return tuple(dict.fromkeys(round(v) for v in raw if isinstance(v, float)))
    return tuple(raw)


def _draw_values(key: str, draw: Draw) -> tuple[Scalar, ...] | None:
    return None if draw.choices is None else _axis_values(key, draw.values or draw.range)


def _accepts(key: str, kind: type) -> bool:
    annotation = _FIELDS[key].annotation
    return annotation is kind or kind in get_args(annotation)


def validate(table: Mapping[str, Any], where: str) -> Config:
    """A config from plain data; see :func:`validated`."""
    return validated(Config, table, where)


Model = TypeVar("Model", bound=Section)


def validated(model: type[Model], table: Mapping[str, Any], where: str) -> Model:
    """Plain data as a table of any schema.

    Raises:
        ConfigError: one line per mistake, each beginning with ``where``.
    """
    try:
        return model.model_validate(table)
    except ValidationError as error:
        lines = [f"{where}: {sentence(dict(e), model)}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from None
