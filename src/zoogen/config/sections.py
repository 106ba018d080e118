"""The sections of a config that describe one experiment: data, network, training, measuring.

Fields marked ``PER_MEMBER`` are arrays over the members of one compiled program; all others are
*static*: each value is a program of its own.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, model_validator

PER_MEMBER: dict[str, Any] = {"per_member": True}
FromList = Field(strict=False)  # TOML arrays arrive as lists


class Section(BaseModel):
    """A table of the config: strict types, no unknown keys, immutable."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class DataConfig(Section):
    """What members train on.

    Attributes:
        source: ``digits``, ``tfds:NAME``, ``idx`` (directory of IDX files) or ``npz`` (one file).
        path: directory or file of the ``idx`` and ``npz`` sources, directory of TFDS; relative to
            the working directory.
        sha256: file name → expected sha256 of local files; files not named are not checked, a
            name that is no file of the set is an error.
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


Activation = Literal["relu", "leaky_relu", "tanh", "gelu", "silu", "sigmoid", "sin"]
Init = Literal[
    "he_normal", "he_uniform", "glorot_normal", "glorot_uniform", "lecun_normal", "lecun_uniform",
    "normal", "truncated_normal", "orthogonal", "siren",
]  # fmt: skip


class NetworkConfig(Section):
    """The architecture of the members.

    Attributes:
        family: ``mlp``; ``cnn`` (the small CNN of Unterthiner et al., 2020); ``lenet`` (the
            LeNet-like CNN of Schürholt et al., 2022); ``resnet`` (a residual CNN with norms);
            ``vit`` (a small vision transformer); ``siren`` (of Sitzmann et al., 2020): each member
            is one image as a function of the place in it.
        width: units per hidden layer (mlp, siren), channels per layer (cnn, resnet), channels of
            the first layer (lenet; 8 is the published net, the other layers keep their
            proportions), units of the stream (vit).
        depth: hidden layers (mlp, siren), convolutions (cnn) or blocks (resnet, vit); lenet has a
            fixed depth.
        heads: of the vit's attention layers, 2 by default; they divide the width.
        activation: between layers.
        norm: of the resnet, ``layer`` by default: over all channels and positions of an image; or
            ``batch``, whose running statistics are stored with the weights.
        padding: of the cnn's convolutions, ``valid`` (as published) or ``same``.
        init: distribution of the initial weights (``normal`` has standard deviation 0.05, and
            ``truncated_normal`` is the same, cut at twice that).
        init_scale: factor on the initial weights (per member); biases start at zero.
        omega: ω0 of a siren, 30 by default; absorbed into the weights.
    """

    family: Literal["mlp", "cnn", "lenet", "resnet", "vit", "siren"] = "mlp"
    width: int = Field(default=16, ge=1, le=8192)
    depth: int | None = Field(default=None, ge=1, le=64)
    heads: int | None = Field(default=None, ge=1, le=64)
    norm: Literal["layer", "batch"] | None = None
    activation: Activation = "relu"
    padding: Literal["valid", "same"] | None = None
    init: Init = "he_normal"
    init_scale: float = Field(default=1.0, gt=0, le=1e38, json_schema_extra=PER_MEMBER)
    omega: float | None = Field(default=None, gt=0, le=1e4)

    @model_validator(mode="after")
    def _fields_fit_family(self) -> NetworkConfig:
        if self.family == "lenet" and self.depth is not None:
            raise ValueError("depth: found one, but the lenet family has a fixed depth; remove it")
        if self.family != "cnn" and self.padding is not None:
            raise ValueError(f"padding: found one, but only 'cnn' has it, not {self.family!r}")
        if self.family != "vit" and self.heads is not None:
            raise ValueError(f"heads: found some, but only 'vit' has them, not {self.family!r}")
        if self.family != "resnet" and self.norm is not None:
            raise ValueError(
                f"norm: found one, but only 'resnet' has a choice, not {self.family!r}"
            )
        if self.family != "siren":
            if self.omega is not None:
                raise ValueError(f"omega: found one, but only 'siren' has it, not {self.family!r}")
            if self.init == "siren":
                raise ValueError(f"init: found 'siren', but the family is {self.family!r}")
            return self
        for name, needed in (("activation", "sin"), ("init", "siren")):
            if getattr(self, name) != needed:
                raise ValueError(
                    f"{name}: found {getattr(self, name)!r}, the siren family needs {needed!r}"
                )
        return self

    @property
    def fits_image(self) -> bool:
        """Whether a member is one image, and not a classifier of many."""
        return self.family == "siren"


MOMENTUM = 0.9


class TrainConfig(Section):
    """How members are trained.

    Attributes:
        optimizer: update rule; weight decay is added to the gradient (sgd, adam, rmsprop) or
            decoupled (adamw) and acts on every parameter, as in PyTorch. rmsprop divides by the
            root of a mean of squared gradients that decays by 0.9, as in Keras.
        learning_rate: peak of the schedule (per member).
        momentum: of sgd, and first-moment decay of adam and adamw when given (per member);
            0.9 by default. rmsprop has none.
        nesterov: Nesterov momentum (sgd).
        weight_decay: (per member).
        dropout: share of hidden units that are zero in a step, drawn anew for every image and step
            (per member); the others are scaled up. Measurements drop nothing.
        batch_size: images (siren: pixels) per step; the rest of an epoch that fills no batch is
            dropped.
        epochs: constant-epoch mode: passes over the member's training images (siren: pixels).
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

    optimizer: Literal["sgd", "adam", "adamw", "rmsprop"] = "sgd"
    learning_rate: float = Field(default=0.1, ge=0, le=1e38, json_schema_extra=PER_MEMBER)
    momentum: float = Field(default=MOMENTUM, ge=0, lt=1, json_schema_extra=PER_MEMBER)
    nesterov: bool = False
    weight_decay: float = Field(default=0.0, ge=0, le=1e38, json_schema_extra=PER_MEMBER)
    dropout: float = Field(default=0.0, ge=0, le=0.99, json_schema_extra=PER_MEMBER)
    batch_size: int = Field(default=64, ge=1)
    epochs: int | None = Field(default=None, ge=1)
    steps: int | None = Field(default=None, ge=1)
    schedule: Literal["constant", "step", "cosine", "onecycle"] = "constant"
    anneal_at: float | None = Field(default=None, ge=0, lt=1)
    snapshots: Annotated[tuple[int, ...], FromList] = ()
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
        if self.optimizer == "rmsprop" and self.momentum != MOMENTUM:
            raise ValueError(f"momentum: rmsprop has none, found {self.momentum:g}; leave it out")
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


MetricGroup = Literal[
    "performance", "curvature", "connectivity", "similarity", "weights",
    "alignment", "representations", "gradients", "sharpness", "capacity", "collapse",
    "activations", "complexity", "calibration", "reconstruction",
]  # fmt: skip
FIT_GROUPS: tuple[MetricGroup, ...] = ("reconstruction", "weights")
"""The groups that members which fit an image have."""
FIRST_GROUPS: tuple[MetricGroup, ...] = (
    "performance", "curvature", "connectivity", "similarity", "weights",
)  # fmt: skip


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
        fisher_examples: training probe images for the exact Fisher trace.
        gradient_batches: small batches that the gradient-noise scale compares.
        ascent_radius: step of the ascent sharpness.
        adaptive_radius: step of the adaptive sharpness, relative to the weights.
        lines: lines between probe images, and circles of random inputs, for complexity.
        line_points: points on each.
        seed: of probes and curves.
    """

    metrics: Annotated[tuple[MetricGroup, ...], FromList] = FIRST_GROUPS
    hessian_examples: int = Field(default=512, ge=1)
    hessian_probes: int = Field(default=32, ge=2)
    lanczos_steps: int = Field(default=20, ge=2)
    curve_epochs: int = Field(default=10, ge=1)
    curve_learning_rate: float = Field(default=0.1, gt=0)
    curve_weight_decay: float = Field(default=5e-4, ge=0)
    curve_batch_size: int = Field(default=64, ge=1)
    pairs: int | None = Field(default=None, ge=1)
    fisher_examples: int = Field(default=128, ge=1)
    gradient_batches: int = Field(default=32, ge=3)
    ascent_radius: float = Field(default=0.05, gt=0)
    adaptive_radius: float = Field(default=0.5, gt=0)
    lines: int = Field(default=8, ge=2)
    line_points: int = Field(default=32, ge=4)
    seed: int = Field(default=0, ge=0, lt=2**31)

    @model_validator(mode="after")
    def _some_metrics(self) -> LandscapeConfig:
        if not self.metrics:
            groups = ", ".join(get_args(MetricGroup))
            raise ValueError(f"metrics: found none, expected at least one of {groups}")
        return self


class PhasesConfig(Section):
    """Which rule labels the cells: the name of a shipped one or a TOML file (`docs/phases.md`)."""

    rule: str = "taxonomy"
