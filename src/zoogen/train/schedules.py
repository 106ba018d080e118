"""Learning-rate schedules as factors in [0, 1] of each member's peak rate, and snapshot times."""

from __future__ import annotations

from dataclasses import dataclass

import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from zoogen.config import TrainConfig

ONECYCLE_START = 1 / 25
ONECYCLE_END = 1 / 25 / 1e4
STEP_FACTOR = 0.1


@dataclass(frozen=True)
class Timeline:
    """The steps of one cohort's training.

    Attributes:
        steps_per_epoch: full batches in one pass over a member's training images.
        total_steps: optimiser steps in all.
        anneal_step: first step with a falling learning rate (``total_steps`` if it never falls).
        snapshots: step → name of the stored snapshots (``init``, ``anneal``, ``end``, else
            ``epoch N`` or ``step N``), in order of time.
    """

    steps_per_epoch: int
    total_steps: int
    anneal_step: int
    snapshots: dict[int, str]

    @property
    def n_epochs(self) -> int:
        """Epochs begun; the last one may be partial in constant-step mode."""
        return -(-self.total_steps // self.steps_per_epoch)


def timeline(config: TrainConfig, training_size: int) -> Timeline:
    """Steps, annealing and snapshots of a cohort.

    Args:
        config: how the members are trained.
        training_size: images that each member sees; at least ``batch_size``.
    """
    per_epoch = training_size // config.batch_size
    total = config.steps or (config.epochs or 0) * per_epoch
    anneal = _anneal_step(config, total)
    unit, stride = ("epoch", per_epoch) if config.epochs else ("step", 1)
    named = {time * stride: f"{unit} {time}" for time in config.snapshots}
    if 0 < anneal < total:
        named[anneal] = "anneal"
    named |= {0: "init", total: "end"}
    return Timeline(per_epoch, total, anneal, dict(sorted(named.items())))


def _anneal_step(config: TrainConfig, total: int) -> int:
    """The first step with a falling rate; rounding takes neither the rise nor the fall away."""
    step = round(config.anneal_fraction * total)
    if config.schedule in {"step", "onecycle"}:
        return min(max(step, 1), max(total - 1, 1))
    return step


def rate_factor(config: TrainConfig, line: Timeline, step: Int[Array, ""]) -> Float[Array, ""]:
    """The schedule at a step, as a factor on the peak learning rate."""
    if config.schedule == "constant":
        return jnp.float32(1.0)
    schedule = _SCHEDULES[config.schedule](line.anneal_step, line.total_steps)
    return jnp.asarray(schedule(step), jnp.float32)


def _step(anneal: int, total: int) -> optax.Schedule:
    second = anneal + (total - anneal) // 2
    return optax.piecewise_constant_schedule(1.0, {anneal: STEP_FACTOR, second: STEP_FACTOR})


def _cosine(anneal: int, total: int) -> optax.Schedule:
    decay = optax.cosine_decay_schedule(1.0, max(total - anneal, 1))
    return optax.join_schedules([optax.constant_schedule(1.0), decay], [anneal])


def _onecycle(anneal: int, total: int) -> optax.Schedule:
    return optax.cosine_onecycle_schedule(
        total, 1.0, anneal / total, 1 / ONECYCLE_START, ONECYCLE_START / ONECYCLE_END
    )


_SCHEDULES = {"step": _step, "cosine": _cosine, "onecycle": _onecycle}
