"""What a plan will cost: parameters, bytes and time, before any work is done."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax

from zoogen.config import Config
from zoogen.data import Dataset
from zoogen.grid import Plan
from zoogen.networks.cost import forward_flops
from zoogen.population import on_cpu
from zoogen.train import Recipe, recipe_of

SAMPLED_COHORTS = 64
"""At most so many cohorts are looked at; the rest are taken to be like them."""

BACKWARD = 3.0
"""A step costs about three forward passes."""

# Rough, from benchmarks/train_throughput.py on one CPU core: seconds of fixed cost per step and
# member, and floating-point operations per second. An accelerator takes many members at once.
_CPU = (15e-6, 45e9)
_ACCELERATOR = (2e-6, 5e12)
_COMPILE_SECONDS = 8.0


@dataclass(frozen=True)
class CohortEstimate:
    """One cohort's share.

    Attributes:
        cohort: its id.
        values: its hyper-parameters along the static axes.
        members: how many.
        parameters: per member.
        snapshots: per member.
        steps: optimiser steps per member.
        bytes: of weights.
        seconds: of training and measuring on this machine, roughly.
    """

    cohort: str
    values: dict[str, Any]
    members: int
    parameters: int
    snapshots: int
    steps: int
    bytes: int
    seconds: float


@dataclass(frozen=True)
class Estimate:
    """The cost of a plan; totals of a sampled plan are scaled to all of its cohorts."""

    plan: Plan
    cohorts: tuple[CohortEstimate, ...]

    @property
    def sampled(self) -> bool:
        return len(self.cohorts) < self.plan.n_cohorts

    @property
    def bytes(self) -> int:
        return round(self._scale * sum(c.bytes for c in self.cohorts))

    @property
    def seconds(self) -> float:
        return self._scale * sum(c.seconds for c in self.cohorts)

    @property
    def _scale(self) -> float:
        return self.plan.n_cohorts / len(self.cohorts)


def estimate(plan: Plan, dataset: Dataset) -> Estimate:
    """Count parameters and bytes of a plan, and guess its time.

    Raises:
        ConfigError: if a cohort can't be trained on this data set (images too small, batch too
            large); the message names the hyper-parameter.
    """
    members = plan.n_members // plan.n_cohorts
    stride = -(-plan.n_cohorts // SAMPLED_COHORTS)
    configs = map(plan.static_config, range(0, plan.n_cohorts, stride))
    rows = (_estimate_cohort(plan, config, dataset, members) for config in configs)
    return Estimate(plan, tuple(rows))


def _estimate_cohort(plan: Plan, config: Config, dataset: Dataset, members: int) -> CohortEstimate:
    recipe = recipe_of(config, dataset)
    line, parameters = recipe.timeline, recipe.net.spec.size
    return CohortEstimate(
        cohort=plan.cohort_id(config),
        values={key: config.values()[key] for key in plan.static_keys},
        members=members,
        parameters=parameters,
        snapshots=len(line.snapshots),
        steps=line.total_steps,
        bytes=4 * members * len(line.snapshots) * parameters,
        seconds=_COMPILE_SECONDS + members * _member_seconds(config, recipe),
    )


def _member_seconds(config: Config, recipe: Recipe) -> float:
    """Training, curves and Hessian-vector products of one member, in units of a step."""
    fixed, rate = _CPU if on_cpu() else _ACCELERATOR
    image = BACKWARD * forward_flops(recipe.net, recipe.train.batch_size)
    step = fixed + recipe.train.batch_size * image / rate
    landscape, snapshots = config.landscape, len(recipe.timeline.snapshots)
    seconds = recipe.timeline.total_steps * step
    if "connectivity" in landscape.metrics:
        pairs = (config.grid.seeds - 1) / 2  # per member
        curve_steps = landscape.curve_epochs * recipe.training_size / landscape.curve_batch_size
        seconds += snapshots * pairs * curve_steps * step
    if "curvature" in landscape.metrics:
        products = landscape.hessian_probes + landscape.lanczos_steps
        seconds += snapshots * products * 2 * landscape.hessian_examples * image / rate
    return seconds / jax.local_device_count()
