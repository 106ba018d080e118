"""What a report says about a zoo, as plain tables and texts, read from what the zoo stores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from jaxtyping import Float

from zoogen.config import Config
from zoogen.errors import DataUnavailableError, NotFoundError
from zoogen.grid import round_of
from zoogen.landscape import METRICS
from zoogen.networks.siren import DEFAULT_OMEGA
from zoogen.report.axes import Axis, describe_axis

if TYPE_CHECKING:
    from zoogen.zoo import Zoo

PHASE_NAMES = {
    "I": "under-fitted and under-sized",
    "II": "under-fitted",
    "III": "under-sized",
    "IV-A": "over-fitted",
    "IV-B": "generalising",
    "boundary": "split vote",
    "failed": "diverged or at chance",
    "unlabelled": "measurement missing",
}


@dataclass(frozen=True, eq=False)
class Gallery:
    """Members that fit images, from the worst to the best.

    Attributes:
        originals: ``[n c h w]``, 0 black and 1 white.
        shown: the same images as the members show them.
        between: the same at ``BETWEEN`` times the size: what the members are between pixels.
        psnr: of each, in dB.
    """

    originals: Float[np.ndarray, "n c h w"]
    shown: Float[np.ndarray, "n c h w"]
    between: Float[np.ndarray, "n c H W"]
    psnr: Float[np.ndarray, " n"]


SHOWN = 24
"""Members in a gallery."""
BETWEEN = 4


@dataclass(frozen=True, eq=False)
class ReportData:
    """Everything a report says.

    Attributes:
        name: of the zoo.
        description: what it is for; may be empty.
        location: path of the zoo, for the lines that open it.
        dataset: name and size of the data set.
        licence: of the data set, with the work to cite.
        network: architecture in words.
        training: how members were trained, in words.
        snapshot: which snapshot the numbers belong to, in words.
        cells: one row a cell: hyper-parameters (dotted keys), mean metrics, ``phase``,
            ``confidence``, and ``added`` where cells were added by refinement.
        members: one row a member: ``cell``, hyper-parameters, metrics, ``phase``, ``diverged``.
        load: horizontal axis of the diagrams; without it none is drawn.
        temperature: vertical axis.
        facets: further axes that vary; there is one diagram per combination of their values.
        rule: the rule that gave the phases, from :func:`rule_lines`.
        limits: known limits, one sentence each.
        provenance: label → text (versions, hashes, device, time).
        thresholds: name of a threshold of the rule → its value.
        recipe: how the members of a zoo of images came about, one sentence each; empty for
            classifiers.
        gallery: some members of such a zoo as images; ``None`` without them.
        trajectories: metric → long table over training: ``cell``, ``member`` (an index of
            ``members``; of pairs ``other``, too), ``snapshot``, ``epoch``, ``value``.
    """

    name: str
    description: str
    location: str
    dataset: str
    licence: str
    network: str
    training: str
    snapshot: str
    cells: pd.DataFrame
    members: pd.DataFrame
    load: Axis | None
    temperature: Axis | None
    facets: tuple[Axis, ...]
    rule: tuple[str, ...]
    limits: tuple[str, ...]
    provenance: Mapping[str, str]
    thresholds: Mapping[str, float]
    trajectories: Mapping[str, pd.DataFrame]
    recipe: tuple[str, ...] = ()
    gallery: Gallery | None = None

    @property
    def axes(self) -> list[Axis]:
        """All axes that vary."""
        return [axis for axis in (self.load, self.temperature, *self.facets) if axis is not None]


def data_of(zoo: Zoo) -> ReportData:
    """What a report says about a zoo; the data set itself is not needed.

    Raises:
        NotFoundError: if the zoo has no labels yet.
    """
    config, labels = zoo.config, zoo.reader.labels()
    if labels is None:
        raise NotFoundError(f"{zoo.path}: no phase labels yet; run `zoogen label {zoo.path}`")
    dataset, fits = zoo.facts["dataset"], config.network.fits_image
    varies = "network.family" in config.grid.varying
    axis = partial(describe_axis, family="" if varies else config.network.family)
    load, temperature = config.grid.load, config.grid.temperature
    missing = zoo.plan.n_members - len(zoo.members)
    return ReportData(
        name=zoo.name + (f" (INCOMPLETE: {missing} members missing)" if missing else ""),
        description=config.description,
        location=str(zoo.path),
        dataset=_dataset_text(zoo.facts),
        licence=f"{dataset['licence']}. {dataset['citation']}",
        network=_network_text(config),
        training=_training_text(config),
        snapshot=_last_snapshot(zoo),
        cells=_with_all_phases(zoo.cells).assign(added=zoo.cells["cohort"].map(round_of) != ""),
        members=_with_all_phases(zoo.members),
        load=axis(load, "load") if load else None,
        temperature=axis(temperature, "temperature") if temperature else None,
        facets=tuple(axis(k, "facet") for k in config.grid.varying if k not in (load, temperature)),
        rule=rule_lines(labels.info),
        limits=_limits_of_fits() if fits else _limits(config, dataset["chance_accuracy"]),
        provenance=_provenance(zoo),
        thresholds={name: cut["value"] for name, cut in labels.info["thresholds"].items()},
        trajectories={
            name: _trajectory(zoo, name)
            for name in zoo.metric_names()
            if followed(name) and not fits
        },
        recipe=_recipe(zoo) if fits else (),
        gallery=_gallery(zoo) if fits else None,
    )


def _recipe(zoo: Zoo) -> tuple[str, ...]:
    """How the members came about: what two zoos of images can silently differ in."""
    config, white = zoo.config, zoo.facts["dataset"]["white"]
    _, height, width = zoo.facts["dataset"]["image_shape"]
    network, train = config.network, config.train
    omega = DEFAULT_OMEGA if network.omega is None else network.omega
    return (
        "A member is the function sin(W1 x + b1), sin(W2 … + b2), …, W x + b of a place x = (row, "
        "column), stored exactly so: ω0 is absorbed into the weights and biases of hidden layers.",
        f"Places: the first and the last row and column of the {height}×{width} image are at −1 "
        f"and 1, the others evenly between. Values: raw pixels ÷ {white:g}, so that black is 0 and "
        "white 1; nothing is added to the output, before or after.",
        f"Initial weights of Sitzmann et al. (2020) with ω0 = {omega:g}, independent for each "
        f"member: uniform within ± ω0/n in the first layer, ± √(6/n) in the next ones, "
        "± √(6/n)/ω0 in the output layer, where n counts a layer's inputs; biases within ± ω0/√n, "
        "in the output layer ± 1/√n.",
        f"Training: mean squared error on {train.batch_size} pixels a step, drawn without "
        f"replacement within a pass; {_training_text(config)}; steps of hidden layers are ω0 times "
        "as long, which equals training the published form.",
        "`split` and `image` name the image in the data set's order as loaded; `label` is its "
        f"class. Each image has {_members_text(config.grid.seeds)}.",
    )


def _members_text(seeds: int) -> str:
    return "one member" if seeds == 1 else f"{seeds} members, which differ in seed"


def _gallery(zoo: Zoo) -> Gallery | None:
    """Members at even ranks of their PSNR; nothing where the data set can't be had."""
    known = zoo.members["psnr"].dropna() if "psnr" in zoo.members else pd.Series(dtype=float)
    if known.empty:
        return None
    ranks = np.linspace(0, len(known) - 1, min(SHOWN, len(known))).round().astype(int)
    chosen = known.sort_values(kind="stable").iloc[ranks]
    try:
        originals = zoo.targets()[zoo.members.index.get_indexer(chosen.index)]
    except DataUnavailableError:
        return None
    members = [zoo[str(name)] for name in chosen.index]
    _, height, width = originals.shape[1:]
    shown, between = (
        np.stack([member.image(height * by, width * by) for member in members])
        for by in (1, BETWEEN)
    )
    return Gallery(originals, shown, between, chosen.to_numpy(np.float32))


def _limits_of_fits() -> tuple[str, ...]:
    return (
        "PSNR is taken at the pixels that members were fitted to; between them an image is "
        "whatever its weights make of it.",
        "Members have no phase: rules are for classifiers.",
    )


_AXES = (("member", "snapshot"), ("pair", "snapshot"))
_AVERAGED = ("layer", "hidden")  # further axes, over which a mean still says something


def followed(name: str) -> bool:
    """Whether a metric is one number a member (or pair) and time, or a mean over layers of such.

    Example:
        >>> followed("layer_rotation"), followed("hessian_trace_stderr"), followed("margin")
        (True, False, False)
    """
    metric = METRICS.get(name)
    if metric is None or metric.is_error:
        return False
    return metric.axes[:2] in _AXES and set(metric.axes[2:]) <= set(_AVERAGED)


def _trajectory(zoo: Zoo, name: str) -> pd.DataFrame:
    """A metric over training at the snapshots that all cohorts have; the mean over layers."""
    table = zoo.trajectory(name)
    cohorts = table.groupby("snapshot")["cohort"].nunique()
    shared = table[table["snapshot"].map(cohorts) == table["cohort"].nunique()]
    keys = ["cell", "member", "other", "snapshot", "epoch"]
    keys = [key for key in keys if key in shared]
    if not shared.columns.intersection(_AVERAGED).size:
        return shared[[*keys, "value"]]
    return shared.groupby(keys, sort=False, as_index=False)["value"].mean()


def _with_all_phases(table: pd.DataFrame) -> pd.DataFrame:
    """The table with the phase ``unlabelled`` for what came after the zoo was labelled."""
    return table.assign(phase=table["phase"].fillna("unlabelled"))


def _dataset_text(facts: Mapping[str, Any]) -> str:
    dataset = facts["dataset"]
    _, height, width = dataset.get("image_shape", facts["image_shape"])
    counts = f"{dataset['train_images']:,} + {dataset['test_images']:,}"
    return f"{dataset['name']} ({counts} images, {height}×{width})"


def _network_text(config: Config) -> str:
    """The architecture in words, without what varies over the grid."""
    varying, network = config.grid.varying, config.network
    names = {
        "mlp": "MLP",
        "cnn": "CNN",
        "lenet": "LeNet-like CNN",
        "resnet": "residual CNN",
        "vit": "vision transformer",
        "siren": "SIREN",
    }
    family = "networks" if "network.family" in varying else names[network.family]
    shown = {"width": f"width {network.width}", "activation": network.activation}
    if network.depth is not None:
        shown = {"depth": f"depth {network.depth}"} | shown
    parts = [text for key, text in shown.items() if f"network.{key}" not in varying]
    return f"{family} ({', '.join(parts)})" if parts else family


def _training_text(config: Config) -> str:
    """Optimiser, schedule and length of training in words, without what varies over the grid."""
    train = config.train
    length = "epochs" if train.epochs else "steps"
    shown = {
        "optimizer": train.optimizer, "learning_rate": f"learning rate {train.learning_rate:g}",
        "momentum": f"momentum {train.momentum:g}", "batch_size": f"batch size {train.batch_size}",
        "weight_decay": f"weight decay {train.weight_decay:g}",
        "schedule": f"{train.schedule} schedule", length: f"{getattr(train, length)} {length}",
    }  # fmt: skip
    return ", ".join(
        text for key, text in shown.items() if f"train.{key}" not in config.grid.varying
    )


def _last_snapshot(zoo: Zoo) -> str:
    """The last snapshot in words; its time only where all cohorts share it."""
    last = [zoo.snapshots(cohort).iloc[-1] for cohort in zoo.reader.cohorts]
    epochs = {f"{row['epoch']:.3g}" for row in last}
    return "end of training" + (f" (epoch {epochs.pop()})" if len(epochs) == 1 else "")


def rule_lines(labelling: Mapping[str, Any]) -> tuple[str, ...]:
    """The rule and its thresholds in words, one line each.

    Args:
        labelling: :meth:`zoogen.phases.Labels.provenance`.
    """
    lines = [f"Rule {labelling['rule']}, version {labelling['version']}:"]
    for name, cut in labelling["thresholds"].items():
        how = _METHODS.get(cut["method"], cut["method"])
        if cut["low"] != cut["high"]:
            how += f"; 5–95 %: {cut['low']:.3g} to {cut['high']:.3g}"
        number = f"{cut['value']:.3g}".replace("-", "−")
        lines.append(f"{_MEANINGS[name].format(number)} ({how})")
    return tuple(lines)


_MEANINGS = {
    "train_error": "under-fitted: train error above {} %",
    "mode_connectivity": "under-sized: mode connectivity below {} points",
    "mode_connectivity_underfitted": "under-sized (I): mode connectivity below {} points",
    "mode_connectivity_fitted": "under-sized (III): mode connectivity below {} points",
    "cka": "generalising: CKA of at least {}",
}
_METHODS = {
    "otsu": "estimated on this zoo", "bootstrap": "from its error on this zoo",
    "fallback": "fixed, as no estimate was possible"
}  # fmt: skip


def _limits(config: Config, chance: float) -> tuple[str, ...]:
    """What the numbers can't show."""
    landscape, probe = config.landscape, config.data.probe_examples
    return (
        f"Losses, accuracies, CKA and connectivity are taken on fixed probe sets of at most "
        f"{probe} training and {probe} test images.",
        f"Curvature: at most {landscape.hessian_examples} training images, "
        f"{landscape.hessian_probes} random probes per trace (its standard error is stored beside "
        f"it), {landscape.lanczos_steps} Lanczos steps per eigenvalue.",
        f"Mode connectivity: one curve per pair, trained for {landscape.curve_epochs} epochs; a "
        f"longer search may find a lower path, so that barriers are upper bounds.",
        f"Chance, near which a member counts as failed, is {chance:.1%}: the share of the most "
        f"common class in the training images, label noise not counted.",
        f"Confidence comes from resampling {config.grid.seeds} seeds per cell; with few seeds it "
        f"is coarse and too high. It holds no error of the train error and CKA within a member.",
        "Phases depend on the rule and its thresholds above.",
    )


def _provenance(zoo: Zoo) -> dict[str, str]:
    manifest = zoo.reader.manifest
    facts = {
        "created": manifest.created,
        "format version": str(manifest.format_version),
        "config hash": manifest.config_hash,
        "content hash": manifest.content_hash(),
        "data set": zoo.facts["dataset"]["source"],
        "data set sha256": zoo.facts["dataset"]["sha256"],
    }
    return facts | _flat(manifest.sessions[-1].provenance)


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    facts: dict[str, str] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping):
            facts |= _flat(value, f"{prefix}{key}.")
        else:
            facts[prefix + key] = str(value)
    return facts
