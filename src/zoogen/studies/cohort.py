"""The members of a cohort as a study sees them: weights by snapshot, and one compiled program."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Any, NamedTuple

import jax.numpy as jnp
import numpy as np
import pandas as pd
from jaxtyping import Array, Float, Float32, Int, Shaped

from zoogen.config import DataConfig
from zoogen.data import Dataset, normalise
from zoogen.merging import recompute_statistics
from zoogen.networks import Network
from zoogen.networks.cost import working_bytes
from zoogen.population import MemberFunction, on_cpu, over_members, share

if TYPE_CHECKING:
    from zoogen.zoo import Zoo


class Probe(NamedTuple):
    """What all members are evaluated on.

    Attributes:
        images: raw, as the data set gives them.
        mean, std: per channel, of the training images.
    """

    images: Shaped[Any, "b c h w"]
    mean: Float[Any, " c"]
    std: Float[Any, " c"]


def probe_of(dataset: Dataset, config: DataConfig) -> tuple[Probe, Int[np.ndarray, " b"]]:
    """The test probe set of a data set, and its labels."""
    _, test = dataset.probes(config)
    return Probe(test.images, dataset.mean, dataset.std), np.asarray(test.labels)


@dataclass(frozen=True, eq=False)
class Subjects:
    """Members of one cohort that did not diverge.

    Attributes:
        network: their architecture.
        cells: cell of each member.
        snapshots: number of stored times; the first is the initialisation.
        weights: position on the snapshot axis → ``[m p]`` float32.
        probe: test images.
        labels: their classes.
        training: images of the training probe set, for statistics of networks that are combined.
    """

    network: Network
    cells: Shaped[np.ndarray, " m"]
    snapshots: int
    weights: Callable[[int], Float32[np.ndarray, "m p"]]
    probe: Probe
    labels: Int[np.ndarray, " b"]
    training: Probe

    def by_cell(self) -> Iterator[tuple[str, Int[np.ndarray, " n"]]]:
        """Cells with the places of their members, in the order of the members."""
        for cell in dict.fromkeys(self.cells.tolist()):
            yield cell, np.flatnonzero(self.cells == cell)

    def logits(self, values: Float[np.ndarray, "m p"]) -> Float32[np.ndarray, "m b k"]:
        """Logits of networks with these weights on the test probe set."""
        return np.asarray(_program(self.network)(np.asarray(values, np.float32), self._shared))

    def accuracy(self, values: Float[np.ndarray, "m p"]) -> Float[np.ndarray, " m"]:
        """Test accuracy of networks with these weights, 0 to 1; NaN where a logit is not finite."""
        return accuracy(self.logits(values), self.labels)

    def recomputed(self, values: Float[np.ndarray, "m p"]) -> Float[np.ndarray, "m p"]:
        """Weights that were combined, the running statistics of their batch norms taken anew."""
        if not self.network.spec.statistics:
            return values
        images = normalise(*(jnp.asarray(part) for part in self.training))
        return recompute_statistics(self.network, values, images)

    @cached_property
    def _shared(self) -> Probe:
        return share(self.probe)


def accuracy(
    scores: Float[np.ndarray, "*m b k"], labels: Int[np.ndarray, " b"]
) -> Float[np.ndarray, "*m"]:
    """Share of examples whose class has the highest score; NaN where a score is not finite.

    Example:
        >>> accuracy(np.eye(4), np.array([0, 1, 2, 0])).item()
        0.75
    """
    right = (scores.argmax(axis=-1) == labels).mean(axis=-1)
    return np.where(np.isfinite(scores).all(axis=(-2, -1)), right, np.nan)


def subjects(zoo: Zoo) -> Iterator[Subjects]:
    """The cohorts of a zoo that have members which did not diverge.

    Raises:
        DataUnavailableError: if the data set can't be had.
    """
    dataset, config = zoo.dataset, zoo.config.data
    probe, labels = probe_of(dataset, config)
    for name, kept in undiverged(zoo):
        seen, _ = dataset.probes(config, float(kept["data.fraction"].iloc[0]))
        training = probe._replace(images=seen.images)
        read = partial(zoo.reader.read, name, "weights", kept["row"].to_numpy())
        snapshots, cells = len(zoo.snapshots(name)), kept["cell"].to_numpy()
        yield Subjects(zoo.network(name), cells, snapshots, read, probe, labels, training)


def undiverged(zoo: Zoo) -> Iterator[tuple[str, pd.DataFrame]]:
    """Cohorts that have members which did not diverge, with the rows of these members."""
    for cohort, table in zoo.members.groupby("cohort", sort=False):
        kept = table[~table["diverged"]]
        if len(kept):
            yield str(cohort), kept


@lru_cache(maxsize=64)
def _program(network: Network) -> MemberFunction:
    needed = None if on_cpu() else working_bytes(network, 512)

    def logits(weights: Float[Array, " p"], probe: Probe) -> Float[Array, "b k"]:
        return network.apply(network.spec.unflatten(weights), normalise(*probe))

    return over_members(logits, member_bytes=needed)
