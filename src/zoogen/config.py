"""The config: a typed schema, read from TOML, changed by overrides, written as canonical JSON.

A config describes one zoo. Every hyper-parameter stands once in ``[data]``, ``[network]`` or
``[train]``; ``[grid]`` names those that vary. Fields marked ``PER_MEMBER`` are arrays over the
members of one compiled program; all others are *static*: each value is a program of its own.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import re
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from zoogen.errors import ConfigError, NotFoundError

PER_MEMBER: dict[str, Any] = {"per_member": True}

Scalar = bool | int | float | str
_Tuple = Field(strict=False)  # TOML arrays arrive as lists


class Section(BaseModel):
    """A table of the config: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """What members train on.

    Attributes:
        source: ``digits``, ``tfds:NAME``, ``idx`` (directory of IDX files) or ``npz`` (one file).
        path: directory or file of the ``idx`` and ``npz`` sources; prepared directory of TFDS.
        sha256: file name → expected sha256 of local files; absent files are not checked.
        train_examples: training images used (the first ones of a seeded order); all by default.
        test_examples: test images used; all by default.
        test_fraction: share held out when the source has no test split of its own.
        fraction: share of the training images that a member sees (a load axis).
        label_noise: share of training labels replaced by uniformly random ones (per member).
        crop: zero-padding in pixels of random crops; 0 switches crops off.
        flip: random horizontal flips.
        probe_examples: size of each of the two probe sets (training and test).
        seed: of the split, the order and the label noise; members of a zoo share it.
    """

    source: str = "digits"
    path: str | None = None
    sha256: dict[str, str] = Field(default_factory=dict)
    train_examples: int | None = Field(default=None, ge=1)
    test_examples: int | None = Field(default=None, ge=1)
    test_fraction: float = Field(default=0.25, gt=0, lt=1)
    fraction: float = Field(default=1.0, gt=0, le=1)
    label_noise: float = Field(default=0.0, ge=0, le=1, json_schema_extra=PER_MEMBER)
    crop: int = Field(default=0, ge=0, le=16)
    flip: bool = False
    probe_examples: int = Field(default=512, ge=2)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _known_source(self) -> DataConfig:
        if self.source not in {"digits", "idx", "npz"} and not re.fullmatch(
            r"tfds:[a-z0-9_]+(/[\w.]+)?", self.source
        ):
            raise ValueError(
                f"source: found {self.source!r}, allowed 'digits', 'idx', 'npz' or 'tfds:NAME'"
            )
        if self.source in {"idx", "npz"} and self.path is None:
            raise ValueError(f"path: missing, source {self.source!r} needs one")
        return self


Activation = Literal["relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid"]
Init = Literal[
    "he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal", "lecun_uniform",
    "normal", "orthogonal",
]  # fmt: skip


class NetworkConfig(Section):
    """The architecture of the members.

    Attributes:
        family: ``mlp``; ``cnn`` (the small CNN of Unterthiner et al., 2020); ``lenet`` (the
            LeNet-like CNN of Schürholt et al., 2022).
        width: units per hidden layer (mlp), channels per layer (cnn), channels of the first
            layer (lenet; 8 is the published net, the other layers keep their proportions).
        depth: hidden layers (mlp) or convolutions (cnn); lenet has a fixed depth.
        activation: between layers.
        padding: of the cnn's convolutions, ``valid`` (as published) or ``same``.
        init: distribution of the initial weights (``normal`` has standard deviation 0.05).
        init_scale: factor on the initial weights (per member); biases start at zero.
    """

    family: Literal["mlp", "cnn", "lenet"] = "mlp"
    width: int = Field(default=16, ge=1, le=8192)
    depth: int | None = Field(default=None, ge=1, le=64)
    activation: Activation = "relu"
    padding: Literal["valid", "same"] | None = None
    init: Init = "he_normal"
    init_scale: float = Field(default=1.0, gt=0, json_schema_extra=PER_MEMBER)

    @model_validator(mode="after")
    def _fields_fit_family(self) -> NetworkConfig:
        if self.family == "lenet" and self.depth is not None:
            raise ValueError("depth: found one, but the lenet family has a fixed depth; remove it")
        if self.family != "cnn" and self.padding is not None:
            raise ValueError(f"padding: found one, but only 'cnn' has it, not {self.family!r}")
        return self


class TrainConfig(Section):
    """How members are trained.

    Attributes:
        optimizer: update rule; weight decay is added to the gradient (sgd, adam) or decoupled
            (adamw) and acts on every parameter, as in PyTorch.
        learning_rate: peak of the schedule (per member).
        momentum: of sgd, and first-moment decay of adam and adamw when given (per member);
            0.9 by default.
        nesterov: Nesterov momentum (sgd).
        weight_decay: (per member).
        batch_size: images per step; the rest of an epoch that fills no batch is dropped.
        epochs: constant-epoch mode: passes over the member's training images.
        steps: constant-step mode: optimiser steps, whatever the batch size. Exactly one of
            ``epochs`` and ``steps`` is given.
        schedule: ``constant``; ``step`` (×0.1 at ``anneal_at`` and half-way from there to the
            end); ``cosine`` (peak until ``anneal_at``, then half a cosine to 0); ``onecycle``
            (cosine from peak/25 up to ``anneal_at``, then cosine down to peak/25/1e4).
        anneal_at: share of training after which the rate falls; by default 0.5 (step), 0
            (cosine) and 0.3 (onecycle).
        snapshots: when weights are stored, in epochs (constant-step mode: in steps);
            initialisation, the last step before annealing and the end are always stored.
        stop_at_train_loss: a member stops at the end of the first epoch whose mean training
            loss is at or below this target; its weights stay as they are from then on.
    """

    optimizer: Literal["sgd", "adam", "adamw"] = "sgd"
    learning_rate: float = Field(default=0.1, ge=0, json_schema_extra=PER_MEMBER)
    momentum: float = Field(default=0.9, ge=0, lt=1, json_schema_extra=PER_MEMBER)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0, json_schema_extra=PER_MEMBER)
    batch_size: int = Field(default=64, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    schedule: Literal["constant", "step", "cosine", "onecycle"] = "constant"
    anneal_at: float | None = Field(default=None, ge=0, lt=1)
    snapshots: Annotated[tuple[int, ...], _Tuple] = ()
    stop_at_train_loss: float | None = Field(default=None, gt=0)

    @model_validator(mode="after")
    def _consistent(self) -> TrainConfig:
        if (self.epochs is None) == (self.steps is None):
            found = "neither" if self.epochs is None else "both"
            raise ValueError(f"epochs/steps: found {found}, expected exactly one of them")
        if self.schedule == "constant" and self.anneal_at is not None:
            raise ValueError("anneal_at: found one, but a constant schedule never anneals")
        if self.nesterov and self.optimizer != "sgd":
            raise ValueError(f"nesterov: only sgd has it, found optimizer {self.optimizer!r}")
        total = self.epochs or self.steps or 0
        beyond = [s for s in self.snapshots if not 0 <= s <= total]
        if beyond:
            unit = "epochs" if self.epochs else "steps"
            raise ValueError(f"snapshots: found {beyond[0]}, allowed 0 to {total} {unit}")
        return self

    @property
    def anneal_fraction(self) -> float:
        """Share of training after which the learning rate falls (1 for a constant one)."""
        defaults = {"constant": 1.0, "step": 0.5, "cosine": 0.0, "onecycle": 0.3}
        return defaults[self.schedule] if self.anneal_at is None else self.anneal_at


class Range(Section):
    """An axis given by its ends: ``points`` values, evenly spaced on a ``log`` or linear scale."""

    from_: float = Field(alias="from")
    to: float
    points: int = Field(ge=1)
    spacing: Literal["log", "linear"] = "linear"

    @model_validator(mode="after")
    def _positive_log(self) -> Range:
        if self.spacing == "log" and min(self.from_, self.to) <= 0:
            raise ValueError(f"from/to: found {min(self.from_, self.to)}, a log axis needs > 0")
        return self

    def values(self) -> list[float]:
        """The points of the axis, rounded to six significant digits."""
        steps = [i / (self.points - 1) if self.points > 1 else 0.0 for i in range(self.points)]
        if self.spacing == "log":
            ratio = math.log(self.to / self.from_)
            raw = [self.from_ * math.exp(t * ratio) for t in steps]
        else:
            raw = [self.from_ + t * (self.to - self.from_) for t in steps]
        return [float(f"{v:.6g}") for v in raw]


Values = Annotated[tuple[Scalar, ...], _Tuple]


def _check_axis_shape(key: str, axis: Any) -> None:
    """Say in the config's own words what pydantic would say once per member of a union."""
    if isinstance(axis, list | tuple):
        odd = [value for value in axis if not isinstance(value, Scalar)]
        if not axis:
            raise ValueError(f"axes.{key!r}: found an empty axis, expected at least one value")
        if odd:
            raise ValueError(f"axes.{key!r}: found {odd[0]!r}, allowed numbers, strings, booleans")
        if len(set(axis)) < len(axis):
            raise ValueError(f"axes.{key!r}: found a value twice, expected distinct values")
    elif isinstance(axis, dict):
        try:
            Range.model_validate(axis)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"axes.{key!r}.{where}: {_expectation(dict(first))}") from None
    elif not isinstance(axis, Range):
        raise ValueError(
            f"axes.{key!r}: found {axis!r}, allowed a list of values or a table "
            "{ from, to, points, spacing }"
        )


class GridConfig(Section):
    """Which hyper-parameters vary. Axes cross; every cell of the grid gets ``seeds`` members.

    Attributes:
        seeds: members per cell.
        load: the axis that spans the phase diagram horizontally.
        temperature: the axis that spans it vertically.
        axes: dotted key (``network.width``) → list of values, or a :class:`Range`.
    """

    seeds: int = Field(default=3, ge=1)
    load: str | None = None
    temperature: str | None = None
    axes: dict[str, Values | Range] = Field(default_factory=dict)

    @model_validator(mode="before")
    @classmethod
    def _axes_are_lists_or_ranges(cls, table: Any) -> Any:
        axes = table.get("axes", {}) if isinstance(table, dict) else {}
        for key, axis in axes.items() if isinstance(axes, dict) else ():
            _check_axis_shape(key, axis)
        return table

    @model_validator(mode="after")
    def _load_and_temperature_are_axes(self) -> GridConfig:
        for role in ("load", "temperature"):
            key = getattr(self, role)
            if key is not None and key not in self.axes:
                raise ValueError(
                    f"{role}: found {key!r}, allowed the axes of the grid: "
                    f"{', '.join(self.axes) or 'none given'}{_nearest(key, self.axes)}"
                )
        if self.load is not None and self.load == self.temperature:
            raise ValueError(f"temperature: found {self.load!r}, which is the load already")
        return self


class LandscapeConfig(Section):
    """How members are measured.

    Attributes:
        metrics: groups of metrics to take; see :data:`zoogen.landscape.METRICS`.
        hessian_examples: images of the training probe set on which curvature is taken.
        hessian_probes: Hutchinson probes per snapshot.
        lanczos_steps: Krylov dimension for the top eigenvalue.
        curve_epochs: passes over the training images for each Bézier curve.
        curve_learning_rate: of the curve's control point (sgd, momentum 0.9).
        curve_weight_decay: of the curve's control point.
        curve_batch_size: images per step of the curve training.
        pairs: most seed pairs per cell; all pairs when absent.
        seed: of probes and curves.
    """

    metrics: Annotated[tuple[str, ...], _Tuple] = (
        "performance", "curvature", "connectivity", "similarity", "weights",
    )  # fmt: skip
    hessian_examples: int = Field(default=512, ge=1)
    hessian_probes: int = Field(default=32, ge=2)
    lanczos_steps: int = Field(default=20, ge=2)
    curve_epochs: int = Field(default=10, ge=1)
    curve_learning_rate: float = Field(default=0.1, gt=0)
    curve_weight_decay: float = Field(default=5e-4, ge=0)
    curve_batch_size: int = Field(default=64, ge=1)
    pairs: int | None = Field(default=None, ge=1)
    seed: int = Field(default=0, ge=0, lt=2**31)


class PhasesConfig(Section):
    """Which rule labels the cells: the name of a shipped one or a TOML file (`docs/phases.md`)."""

    rule: str = "taxonomy"


class Config(Section):
    """One zoo, complete and checked.

    Attributes:
        name: short name of the zoo, used in titles.
        description: what it is for.
        seed: root of all random keys of training.
        sizes: size name → scale (see :meth:`at_size`).
    """

    name: str = Field(pattern=r"^[A-Za-z0-9][\w.-]*$")
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
            if key not in HYPER_PARAMETERS:
                raise ValueError(
                    f"grid.axes: found {key!r}, allowed a hyper-parameter of [data], [network] or "
                    f"[train]{_nearest(key, HYPER_PARAMETERS)}"
                )
            for value in _axis_values(key, axis):
                self._check_axis_value(key, value)
        return self

    def _check_axis_value(self, key: str, value: Scalar) -> None:
        section, name = key.split(".")
        table = getattr(self, section).model_dump(exclude_unset=True) | {name: value}
        try:
            type(getattr(self, section)).model_validate(table)
        except ValidationError as error:
            text = _expectation(dict(error.errors()[0]))
            raise ValueError(f"grid.axes.{key!r}: {text}") from None

    def axis_values(self) -> dict[str, tuple[Scalar, ...]]:
        """Axis → its values, as hyper-parameters of the right type, in the order of the config."""
        return {key: _axis_values(key, axis) for key, axis in self.grid.axes.items()}

    def at_size(self, size: str) -> Config:
        """The config at a named size: one number scales the whole zoo.

        The scale multiplies the points of every axis (not below 3; lists are thinned evenly, ends
        kept, and never grow), the seeds (not below 2) and, when it is below 1, the length of
        training, its snapshots and ``train_examples``. Scale 1 is the config as written.

        Raises:
            ConfigError: if the config names no such size.
        """
        if size not in self.sizes:
            raise ConfigError(
                f"config {self.name!r}: size: found {size!r}, allowed "
                f"{', '.join(self.sizes) or 'none (the config has no [sizes] table)'}"
            )
        scale = self.sizes[size]
        axes = {key: _scale_axis(axis, scale) for key, axis in self.grid.axes.items()}
        seeds = max(min(self.grid.seeds, 2), math.ceil(self.grid.seeds * scale))
        return self._replace(
            grid={"axes": axes, "seeds": seeds},
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
        return _validate(table, f"config {self.name!r} at {dict(values)}")

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
    "train.epochs", "train.steps",
}  # fmt: skip
_SECTIONS: dict[str, type[Section]] = {
    "data": DataConfig, "network": NetworkConfig, "train": TrainConfig,
}  # fmt: skip
_FIELDS = {f"{s}.{n}": f for s, model in _SECTIONS.items() for n, f in model.model_fields.items()}
HYPER_PARAMETERS: tuple[str, ...] = tuple(key for key in _FIELDS if key not in _NOT_AN_AXIS)
PER_MEMBER_PARAMETERS: tuple[str, ...] = tuple(
    key for key, field in _FIELDS.items() if field.json_schema_extra == PER_MEMBER
)


def _axis_values(key: str, axis: Values | Range) -> tuple[Scalar, ...]:
    """Values in the hyper-parameter's own type, so that identities do not depend on spelling."""
    raw = axis.values() if isinstance(axis, Range) else axis
    if _accepts(key, float):
        return tuple(float(v) if isinstance(v, int) else v for v in raw)
    if isinstance(axis, Range) and _accepts(key, int):
        return tuple(dict.fromkeys(round(v) for v in raw if isinstance(v, float)))
    return tuple(raw)


def _accepts(key: str, kind: type) -> bool:
    annotation = _FIELDS[key].annotation
    return annotation is kind or kind in get_args(annotation)


def load_config(path: str | Path, overrides: Sequence[str] = (), size: str | None = None) -> Config:
    """Read a TOML config, apply overrides and a size, and check all of it.

    Args:
        path: the TOML file.
        overrides: ``section.key=value`` texts; the value is written as in TOML, quotes optional.
        size: name of an entry of ``[sizes]``; the config as written when absent.

    Raises:
        NotFoundError: if there is no such file.
        ConfigError: with one line per mistake: file, key, found, allowed.
    """
    table = _read_toml(Path(path))
    for override in overrides:
        _apply_override(table, override)
    config = _validate(table, str(path))
    return config if size is None else config.at_size(size)


def parse_config(text: str, name: str = "config") -> Config:
    """A config from canonical JSON, as a zoo stores it."""
    return _validate(json.loads(text), name)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise NotFoundError(f"{path}: no such config; expected a TOML file") from None
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: can't be read as a TOML file: {error}") from None
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{path}: not valid TOML: {error}") from None


def _apply_override(table: dict[str, Any], override: str) -> None:
    key, sign, value = override.partition("=")
    parts = _split_key(key.strip())
    if not sign or not all(parts):
        raise ConfigError(f"--set {override!r}: expected section.key=value")
    *sections, last = parts
    for section in sections:
        table = table.setdefault(section, {})
        if not isinstance(table, dict):
            raise ConfigError(f"--set {override!r}: {section!r} is a value, not a section")
    table[last] = _toml_value(value.strip())


def _split_key(key: str) -> list[str]:
    """``grid.axes.network.width`` is the axis ``network.width``; quotes work as in TOML."""
    prefix = "grid.axes."
    if key.startswith(prefix):
        return ["grid", "axes", key.removeprefix(prefix).strip("\"'")]
    return key.split(".")


def _toml_value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _validate(table: Mapping[str, Any], where: str) -> Config:
    try:
        return Config.model_validate(table)
    except ValidationError as error:
        lines = [f"{where}: {_sentence(dict(e))}" for e in error.errors()]
        raise ConfigError("\n".join(lines)) from None


def _sentence(error: Mapping[str, Any]) -> str:
    """One mistake: key, found, allowed, and the nearest key for a typo."""
    key = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        allowed = _keys_of(error["loc"][:-1])
        name = str(error["loc"][-1])
        return f"{key}: unknown key{_nearest(name, allowed)}; allowed: {', '.join(allowed)}"
    if error["type"] == "value_error":
        text = str(error["ctx"]["error"])
        return f"{key}.{text}" if key else text
    return f"{key}: {_expectation(error)}"


def _expectation(error: Mapping[str, Any]) -> str:
    if error["type"] == "missing":
        return "missing, and it has no default"
    if error["type"] == "value_error":
        return str(error["ctx"]["error"])
    wanted = error["msg"].removeprefix("Input should be ").removeprefix("Input should ")
    found = error["input"]
    hint = _nearest(found, re.findall(r"'([^']+)'", wanted)) if isinstance(found, str) else ""
    return f"found {found!r}, expected {wanted}{hint}"


def _keys_of(location: Sequence[Any]) -> list[str]:
    model: Any = Config
    for part in location:
        model = model.model_fields[str(part)].annotation
    return [field.alias or name for name, field in model.model_fields.items()]


def _nearest(word: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(choices), n=1, cutoff=0.6)
    return f" (did you mean {near[0]!r}?)" if near else ""


def canonical_json(config: Config) -> str:
    """The config as JSON with sorted keys and no spaces: equal configs give equal bytes."""
    return json.dumps(
        config.model_dump(mode="json", by_alias=True), sort_keys=True, separators=(",", ":")
    )


def config_hash(config: Config) -> str:
    """Hex sha256 of what decides the content of the zoo: not its sizes, words or local paths."""
    table = config.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for key in ("sizes", "description", "name"):
        table.pop(key, None)
    table["data"] = {k: v for k, v in table.get("data", {}).items() if k != "path"}
    text = json.dumps(table, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
