"""Open a zoo: members as a table, weights as arrays, a member as a network. Read-only and lazy."""

from __future__ import annotations

import json
import operator
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Int

from zoogen.config import LATER_PARAMETERS, Config, NetworkConfig, parse_config
from zoogen.data import Dataset, load, normalise
from zoogen.errors import ConfigError, CorruptZooError, DataUnavailableError, NotFoundError
from zoogen.grid import Plan, expand
from zoogen.networks import Network, build_network
from zoogen.networks.rendering import render
from zoogen.params import Params, ParamSpec
from zoogen.store import Metric, ZooReader

MEMBER_AXES = ("member", "snapshot")
PAIR_AXES = ("pair", "snapshot")


@dataclass(frozen=True)
class Weights:
    """Weights of several members at one snapshot.

    Attributes:
        values: ``[m, p]`` float32; members of different architectures are padded at the end
            with NaN up to the longest, so that forgetting the padding is noticed.
        ids: member ids, one per row.
        cohorts: cohort id of each row; rows of one cohort share a :class:`ParamSpec`.
        sizes: number of parameters of each row.
    """

    values: Float[np.ndarray, "m p"]
    ids: tuple[str, ...]
    cohorts: tuple[str, ...]
    sizes: Int[np.ndarray, " m"]

    def __repr__(self) -> str:
        rows, longest = self.values.shape
        return (
            f"<Weights: {rows:,} members of {len(set(self.cohorts))} cohorts, [{rows} {longest}]>"
        )

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype=dtype, copy=copy)

    def __len__(self) -> int:
        return len(self.ids)

    def by_cohort(self) -> Iterator[tuple[str, Weights]]:
        """The same, cohort by cohort, without padding."""
        labels = np.array(self.cohorts)
        for cohort in dict.fromkeys(self.cohorts):
            rows = np.flatnonzero(labels == cohort)
            width = int(self.sizes[rows[0]])
            ids = tuple(self.ids[row] for row in rows)
            yield (
                cohort,
                Weights(self.values[rows, :width], ids, (cohort,) * len(ids), self.sizes[rows]),
            )


@dataclass(frozen=True)
class ZooMember:
    """One trained network.

    Attributes:
        id: of the member.
        info: its row of :attr:`Zoo.members`.
        network: its architecture.
        vector: ``[p]``, its weights in the order of ``network.spec``.
        mean, std: per channel, of the training images.
        image_shape: channels, height and width of the images of the data set.
    """

    id: str
    info: pd.Series
    network: Network
    vector: Float[np.ndarray, " p"]
    mean: Float[np.ndarray, " c"]
    std: Float[np.ndarray, " c"]
    image_shape: tuple[int, int, int]

    def __repr__(self) -> str:
        phase = self.info.get("phase")
        return (
            f"<ZooMember {self.id}: {self.network.config.family} of {self.spec.size:,} parameters"
            f"{'' if phase is None else f', phase {phase}'}>"
        )

    @property
    def spec(self) -> ParamSpec:
        """Names, shapes and symmetries of the parameters."""
        return self.network.spec

    @property
    def params(self) -> Params:
        """Named tensors, in PyTorch layout."""
        return self.spec.unflatten(jnp.asarray(self.vector))

    def apply(self, images: Any) -> Float[Array, "b k"]:
        """Logits of raw images ``[b c h w]``, as the data set gives them (not normalised).

        Of a member that fits an image: brightness at places ``[b 2 1 1]``, row and column in
        [−1, 1].
        """
        raw, mean, std = map(jnp.asarray, (images, self.mean, self.std))
        return self.network.apply(self.params, normalise(raw, mean, std))

    def image(
        self, height: int | None = None, width: int | None = None
    ) -> Float[np.ndarray, "c h w"]:
        """The image that a member shows, 0 black and 1 white; at another size where one is given.

        Raises:
            ConfigError: if the member is a classifier.
        """
        if not self.network.config.fits_image:
            raise ConfigError(
                f"member {self.id}: found a classifier ({self.network.config.family}), only "
                "members of the siren family show an image"
            )
        _, rows, columns = self.image_shape
        weights = jnp.asarray(self.vector)[None]
        return render(self.network, weights, height or rows, width or columns)[0]


class Zoo:
    """A zoo on disk; see :func:`open_zoo`."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.reader = ZooReader(path)

    @property
    def name(self) -> str:
        return self.config.name

    @cached_property
    def config(self) -> Config:
        """The config that the zoo was generated from."""
        return parse_config(json.dumps(self.reader.manifest.config), str(self.path))

    @cached_property
    def plan(self) -> Plan:
        """The members that the zoo has when it is complete, those of added cells included."""
        rounds = self.reader.manifest.extensions
        further: dict[str, Any] = {name: added.plan.get("cells") for name, added in rounds.items()}
        odd = [name for name, cells in further.items() if not isinstance(cells, list)]
        if odd:
            raise CorruptZooError(
                f"{self.path}: extension {odd[0]}: expected a list of cells, found none; "
                "another program wrote it: read this zoo with that one"
            )
        return expand(self.config, further)

    @property
    def made_by(self) -> str:
        """The command that made the zoo and completes it."""
        derivation = self.facts.get("derivation") if self.reader.cohorts else None
        how = derivation["how"] if derivation else ""
        return {"sparsified": "zoogen sparsify", "generated": "zoogen sample"}.get(
            how, "zoogen generate"
        )

    @property
    def is_complete(self) -> bool:
        """Whether all planned members are trained, measured and labelled."""
        return not self.missing

    @property
    def missing(self) -> str:
        """What is missing to completeness, in words; empty for a complete zoo."""
        manifest, labels = self.reader.manifest, self.reader.labels()
        if len(self) != self.plan.n_members:
            return f"{self.plan.n_members - len(self)} of {self.plan.n_members} members"
        runs = [manifest.runs[number] for number in manifest.latest_runs()]
        cohorts = set(self.reader.cohorts)
        if not runs or not all(run.finished and cohorts <= set(run.cohorts) for run in runs):
            return "measurements of some cohorts"
        labelled = labels is not None and set(labels.members["id"]) == set(self.members.index)
        return "" if labelled else "phase labels"

    @cached_property
    def dataset(self) -> Dataset:
        """The data set that the members were trained on, loaded again.

        Raises:
            DataUnavailableError: if it can't be had here, or other images are found in its place.
        """
        dataset = load(self.config.data)
        expected = self.facts["dataset"]["sha256"]
        if dataset.sha256 != expected:
            raise DataUnavailableError(
                f"{self.path}: data set {self.config.data.source!r}: expected the content "
                f"{expected[:12]}… that the members were trained on, found {dataset.sha256[:12]}…; "
                "restore the original files"
            )
        return dataset

    @property
    def facts(self) -> dict[str, Any]:
        """What all cohorts have in common: ``dataset``, ``image_shape``, ``classes``, …"""
        if not self.reader.cohorts:
            raise NotFoundError(f"{self.path}: no cohort is begun yet; repeat `zoogen generate`")
        return self.reader.cohort(self.reader.cohorts[0]).info

    @cached_property
    def cohorts(self) -> list[str]:
        """Ids of the cohorts that have committed members."""
        return [cohort for cohort in self.reader.cohorts if self.reader.committed(cohort).size]

    def __len__(self) -> int:
        return len(self.members)

    def __repr__(self) -> str:
        return f"<Zoo {self.name!r}: {len(self)} members in {len(self.cohorts)} cohorts>"

    @cached_property
    def members(self) -> pd.DataFrame:
        """One row a committed member: hyper-parameters, metrics at the last snapshot, phase.

        The index is the member's id. ``cohort`` and ``row`` say where its arrays lie. A metric of
        pairs is the mean over the pairs that the member is in. ``phase`` and ``confidence`` hold
        at the end; ``phase_before_annealing`` and its confidence at the snapshot ``anneal``, where
        there is one.
        """
        tables = [self._member_table(cohort) for cohort in self.cohorts]
        if not tables:
            return pd.DataFrame(columns=["cohort", "row", "cell", "seed"]).rename_axis("id")
        table = pd.concat(tables).set_index("id")
        labels = self.reader.labels()
        if labels is None:
            return table
        columns = [name for name in labels.members if not name.startswith("reason")]
        return table.join(labels.members[columns].set_index("id"))

    @cached_property
    def cells(self) -> pd.DataFrame:
        """One row a cell: hyper-parameters, mean metrics, phase, its confidence and reason.

        Means go over the members of a cell, or over its pairs for metrics of pairs. Columns that
        end in ``_before_annealing`` hold at the snapshot ``anneal``, where there is one.
        """
        grouped = self.members.groupby("cell", sort=False)
        fixed = [key for key in self.members if "." in key or key == "cohort"]
        table = grouped[fixed].first()
        table.insert(1, "members", grouped.size())
        parts = [self._cell_means(cohort) for cohort in self.cohorts]
        table = table.join(pd.concat(parts)) if parts else table
        labels = self.reader.labels()
        return table if labels is None else table.join(labels.cells.set_index("cell"))

    def _cell_means(self, cohort: str) -> pd.DataFrame:
        cells = self.reader.members(cohort)["cell"]
        means = {}
        for name, metric in self._last_metrics(cohort).items():
            places, owners = self.owners(cohort, metric)
            last = pd.Series(metric.values[places, -1])
            means[name] = last.groupby(cells.loc[owners[:, 0]].to_numpy(), sort=False).mean()
        return pd.DataFrame(means)

    def owners(
        self, cohort: str, metric: Metric
    ) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, "n owner"]]:
        """Where a metric's first axis holds committed members (or pairs), and their rows."""
        committed = self.reader.committed(cohort)
        if metric.pairs is None:
            return committed, committed[:, None]
        places = np.flatnonzero(np.isin(metric.pairs, committed).all(axis=1))
        return places, metric.pairs[places]

    def _last_metrics(self, cohort: str) -> dict[str, Metric]:
        """The metrics of a cohort that are one number a member (or pair) and snapshot."""
        metrics = (
            (name, self.reader.read_metric(cohort, name))
            for name in self.reader.metric_names(cohort)
        )
        return {n: metric for n, metric in metrics if metric.dims in (MEMBER_AXES, PAIR_AXES)}

    def weights(self, snapshot: int | str = -1, where: str | None = None) -> Weights:
        """Weights of the members that a query selects.

        Args:
            snapshot: position on the snapshot axis, or a name such as ``anneal``.
            where: a pandas query over :attr:`members`; dotted columns stand in backticks.

        Raises:
            NotFoundError: if the query selects nothing, or there is no such snapshot.
            ConfigError: if the query is none.

        Example:
            >>> zoo.weights(where="phase == 'IV-B' and `network.width` == 16")  # doctest: +SKIP
        """
        chosen = self.select(where)
        self._require_same_time(chosen["cohort"].unique(), snapshot)
        blocks, order = [], []
        for cohort, rows in chosen.groupby("cohort", sort=False):
            position = self._snapshot_position(str(cohort), snapshot)
            values = self.reader.read(str(cohort), "weights", rows["row"].to_numpy(), position)
            blocks.append(values)
            order.append(chosen.index.get_indexer(rows.index))
        sizes = np.concatenate([np.full(len(b), b.shape[1]) for b in blocks])
        padded = np.full((len(sizes), sizes.max()), np.nan, np.float32)
        for rows, block in zip(order, blocks, strict=True):
            padded[rows, : block.shape[1]] = block
        sizes = sizes[np.argsort(np.concatenate(order))]
        return Weights(padded, tuple(chosen.index), tuple(chosen["cohort"]), sizes)

    def select(self, where: str | None = None) -> pd.DataFrame:
        """The rows of :attr:`members` that a pandas query selects.

        Raises:
            NotFoundError: if there are none.
            ConfigError: if the query can't be evaluated.
        """
        if where is None:
            chosen = self.members
        else:
            try:
                chosen = self.members.query(where)
            except Exception as error:  # pandas raises whatever the expression raises
                raise ConfigError(
                    f"{self.path}: where: {where!r} is no query over the members: {error}; "
                    f"columns: {', '.join(self.members)} (dotted ones in backticks)"
                ) from None
        if chosen.empty:
            raise NotFoundError(f"{self.path}: no member matches where={where!r}")
        return chosen

    def __getitem__(self, member: int | str) -> ZooMember:
        """A member by its position in :attr:`members` or by its id, at the last snapshot."""
        return self.member(member)

    def member(self, member: int | str, snapshot: int | str = -1) -> ZooMember:
        """A member by position or id, at a snapshot.

        Raises:
            NotFoundError: if there is no such member or snapshot.
        """
        info = self._member_row(member)
        cohort = str(info["cohort"])
        facts: dict[str, Any] = self.reader.cohort(cohort).info
        position = self._snapshot_position(cohort, snapshot)
        vector = self.reader.read(cohort, "weights", [int(info["row"])], position)[0]
        mean, std = (np.asarray(facts[key], np.float32) for key in ("mean", "std"))
        shape = facts["dataset"].get("image_shape", facts["image_shape"])
        network = self.network(cohort)
        return ZooMember(str(info.name), info, network, vector, mean, std, tuple(shape))

    def targets(self, where: str | None = None) -> Float[np.ndarray, "m c h w"]:
        """The images that members fit, as the data set has them: 0 black, 1 white.

        Args:
            where: a pandas query over :attr:`members`, as in :meth:`weights`, whose rows these are.

        Raises:
            ConfigError: if the members are classifiers, or the query is none.
            NotFoundError: if the query selects nothing.
            DataUnavailableError: if the data set can't be had.
        """
        chosen = self.select(where)
        if not self.config.network.fits_image:
            raise ConfigError(
                f"{self.path}: found classifiers, only members of the siren family fit an image"
            )
        dataset, places = self.dataset, chosen["image"].to_numpy(int)
        first_test = np.where(chosen["split"] == "test", len(dataset.train), 0)
        images = dataset.all_images[places + first_test]
        return images.astype(np.float32) / np.float32(dataset.white)

    def require_classifiers(self, what: str) -> None:
        """Refuse work that needs classifiers.

        Raises:
            ConfigError: if the members fit images.
        """
        if self.config.network.fits_image:
            raise ConfigError(
                f"{self.path}: {what} needs classifiers, found members that fit an image each "
                f"({self.config.network.family}); choose another zoo"
            )

    def network(self, cohort: str) -> Network:
        """The architecture that the members of a cohort share."""
        facts: dict[str, Any] = self.reader.cohort(cohort).info
        config = NetworkConfig.model_validate(facts["network"])
        return build_network(config, tuple(facts["image_shape"]), facts["classes"])

    def snapshots(self, cohort: str) -> pd.DataFrame:
        """The stored times of a cohort: ``name``, ``step`` and ``epoch`` of each snapshot."""
        return pd.DataFrame(self.reader.cohort(cohort).snapshots)

    def metric_names(self) -> list[str]:
        """Names of the metrics that every committed cohort has."""
        names = [set(self.reader.metric_names(cohort)) for cohort in self.cohorts]
        return sorted(set.intersection(*names)) if names else []

    def trajectory(self, name: str) -> pd.DataFrame:
        """A metric over training, in long form.

        Returns:
            Rows of ``cohort``, ``cell``, ``member`` (of pairs ``member`` and ``other``),
            ``snapshot``, ``step``, ``epoch``, ``value``; further axes (``layer``, ``t``) are
            columns, too.

        Raises:
            NotFoundError: if no cohort has the metric.
        """
        tables = [self._long(cohort, name) for cohort in self.cohorts]
        if not tables:
            raise NotFoundError(f"{self.path}: no cohort is committed yet")
        return pd.concat(tables, ignore_index=True)

    def _long(self, cohort: str, name: str) -> pd.DataFrame:
        metric = self.reader.read_metric(cohort, name)
        places, owners = self.owners(cohort, metric)
        values = metric.values[places]
        index = pd.MultiIndex.from_product(map(range, values.shape), names=("n", *metric.dims[1:]))
        long = pd.DataFrame({"value": values.reshape(-1)}, index=index).reset_index()
        rows, table = owners[long.pop("n")], self.reader.members(cohort)
        if metric.pairs is not None:
            long.insert(0, "other", table["id"].loc[rows[:, 1]].to_numpy())
        for column, source in (("member", "id"), ("cell", "cell")):
            long.insert(0, column, table[source].loc[rows[:, 0]].to_numpy())
        long.insert(0, "cohort", cohort)
        times = self.snapshots(cohort)
        for column in ("step", "epoch"):
            long[column] = times[column].to_numpy()[long["snapshot"]]
        long["snapshot"] = times["name"].to_numpy()[long["snapshot"]]
        info: dict[str, Any] = self.reader.manifest.runs[metric.run].cohorts[cohort].unit.info
        coords = info.get("coords", {})
        for axis in long.columns.intersection(list(coords)):
            long[axis] = np.array(coords[axis])[long[axis]]
        return long

    def _member_table(self, cohort: str) -> pd.DataFrame:
        table = self.reader.members(cohort)
        table.insert(1, "cohort", cohort)
        table.insert(2, "row", table.index)
        rows = table.index.to_numpy()
        diverged = self.reader.read(cohort, "diverged_epoch")
        extra: dict[str, Any] = {
            k: value for k, value in LATER_PARAMETERS.items() if k not in table
        }
        extra["diverged"] = diverged >= 0
        size = self.reader.cohort(cohort).members
        for name, metric in self._last_metrics(cohort).items():
            extra[name] = _last_per_member(metric, size)[rows]
        # At once: a hundred columns put in one after another would lie scattered in memory.
        return pd.concat([table, pd.DataFrame(extra, index=table.index)], axis=1)

    def _member_row(self, member: int | str) -> pd.Series:
        if isinstance(member, str):
            if member not in self.members.index:
                raise NotFoundError(f"{self.path}: no member with id {member!r}")
            return self.members.loc[member]
        member = operator.index(member)
        if not -len(self) <= member < len(self):
            raise NotFoundError(
                f"{self.path}: no member {member}; expected {-len(self)} to {len(self) - 1}"
            )
        return self.members.iloc[member]

    def _snapshot_position(self, cohort: str, snapshot: int | str) -> int:
        if not isinstance(snapshot, str):
            return operator.index(snapshot)
        times = self.snapshots(cohort)
        # One time can have several names: `anneal` is also an epoch and a step.
        names = zip(
            times["name"],
            (f"epoch {epoch:g}" for epoch in times["epoch"]),
            (f"step {step}" for step in times["step"]),
            strict=True,
        )
        for position, aliases in enumerate(names):
            if snapshot in aliases:
                return position
        raise NotFoundError(
            f"{self.path}: no snapshot {snapshot!r} in cohort {cohort!r}; there are: "
            f"{', '.join(times['name'])}"
        )

    def _require_same_time(self, cohorts: Iterable[str], snapshot: int | str) -> None:
        """An inner position must mean the same time everywhere; names and ends always do."""
        if isinstance(snapshot, str) or operator.index(snapshot) in (0, -1):
            return
        names = {tuple(self.snapshots(cohort)["name"]) for cohort in cohorts}
        if len(names) > 1:
            shared = sorted(set.intersection(*map(set, names)))
            raise ConfigError(
                f"{self.path}: snapshot {snapshot} is another time in other cohorts; give a name "
                f"that they share: {', '.join(shared)}"
            )


def _last_per_member(metric: Metric, members: int) -> Float[np.ndarray, " m"]:
    """A metric at the last snapshot, one value a member; means over a member's pairs."""
    last = metric.values[:, -1]
    if metric.pairs is None:
        return last
    pairs, values = metric.pairs.reshape(-1), np.repeat(last, 2)
    known = np.isfinite(values)
    counts = np.bincount(pairs[known], minlength=members)
    sums = np.bincount(pairs[known], values[known], minlength=members)
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan).astype(np.float32)


def open_zoo(path: str | Path) -> Zoo:
    """Open a zoo for reading; nothing is loaded before it is asked for.

    Raises:
        NotFoundError: if there is no zoo at the path.
        CorruptZooError: if its manifest is damaged.
        FormatVersionError: if a newer zoogen wrote it.

    Example:
        >>> zoo = open_zoo("zoos/digits_mlp.zarr")  # doctest: +SKIP
        >>> zoo[17].apply(zoo.dataset.test.images[:8]).shape  # doctest: +SKIP
        (8, 10)
    """
    return Zoo(path)
