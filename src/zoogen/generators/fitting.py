"""The loop that fits a model by steps of Adam: averaged, judged at looks, resumed when killed."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float
from optax import contrib

from zoogen.errors import ConfigError
from zoogen.generators.generator import Effort
from zoogen.train.resume import Checkpoint

Tree = Any

SPAN_BYTES = 2**27  # of what is drawn for one call of the program
CHECKPOINT_SECONDS = 60.0
WARM_UP = 0.05  # share of the steps
EMA = 0.999
JUDGED = 512  # most rows of a look


class Objective(NamedTuple):
    """What is minimised.

    Attributes:
        name: in the display of progress and in errors.
        numbers: drawn per row and step, about.
        init: ``key → params``.
        draw: ``(data, batch, steps, seed) → draws``: everything random in these steps, a tree of
            arrays ``[steps ...]``; a function of its arguments.
        loss: ``(params, data, draws of one step) → mean loss``.
        judged: draws as a look takes them.
        average: how much of the averaged parameters each step keeps at most.
        matrices: ``params → tree of booleans``: which are matrices that Muon moves; Adam moves all
            others, and all by default.
    """

    name: str
    numbers: int
    init: Callable[[Array], Tree]
    draw: Callable[[Tree, int, int, list[int]], Tree]
    loss: Callable[[Tree, Tree, Tree], Float[Array, ""]]
    judged: Callable[[Tree], Tree] = lambda draws: draws
    average: float = EMA
    matrices: Callable[[Tree], Tree] | None = None


class Fitted(NamedTuple):
    """A model after fitting.

    Attributes:
        params: averaged over steps, of the look with the least validation loss.
        losses: step, training loss since the last look, and validation loss at each look.
    """

    params: Tree
    losses: Float[np.ndarray, "looks 3"]


class _Progress(NamedTuple):
    """All that a resumed fit needs, the seconds that went into it among it; ``since`` is the sum of
    training losses since the last look, and their number."""

    params: Tree
    optimizer: Any
    average: Tree
    best: Tree
    best_loss: np.float64
    position: np.int64
    losses: np.ndarray
    since: np.ndarray
    seconds: np.float64


def fit(
    objective: Objective, train: Tree, validation: Tree, effort: Effort, stage: str | None = None
) -> Fitted:
    """Minimise an objective.

    Args:
        objective: to minimise.
        train: arrays of which the first has one row an example.
        validation: of the same kind; decides which look counts.
        effort: steps, batch size, learning rate, looks and seed.
        stage: name of one of several fits in a row; its last state is kept, so that a fit that is
            killed in a later one does not repeat it.

    Raises:
        ConfigError: if the loss is not finite.
    """
    batch = min(effort.batch_size, _rows(train))
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), _optimizer(objective, effort))
    advance, judge = _program(objective, optimizer), jax.jit(objective.loss)
    directory = effort.checkpoint and effort.checkpoint / (stage or "")
    checkpoint = Checkpoint(directory, CHECKPOINT_SECONDS)
    state = checkpoint.restore(_start(objective, optimizer, effort))
    effort.resumed(float(state.seconds))
    begin = time.perf_counter() - float(state.seconds)
    drawn = objective.draw(validation, min(_rows(validation), JUDGED), 1, [effort.seed, 1])
    check = jax.tree.map(lambda leaf: leaf[0], objective.judged(drawn))
    looks = _looks(effort)
    span = max(1, SPAN_BYTES // (4 * batch * objective.numbers))
    arrays = jax.tree.map(jnp.asarray, (train, validation))
    with effort.reporter(objective.name, effort.steps, "steps") as tell:
        tell(int(state.position))
        for number, stop in enumerate(looks):
            while state.position < stop:
                steps = min(span, stop - int(state.position))
                drawn = objective.draw(train, batch, steps, [effort.seed, 2, int(state.position)])
                carry = state.params, state.optimizer, state.average
                (params, moments, average), loss = advance(carry, arrays[0], drawn)
                state = state._replace(
                    params=params,
                    optimizer=moments,
                    average=average,
                    position=np.int64(state.position + steps),
                    since=state.since + np.array([float(loss), 1]),
                    seconds=np.float64(time.perf_counter() - begin),
                )
                try:
                    tell(steps)
                except BaseException:  # a signal: nothing that is done is lost
                    Checkpoint(directory, 0.0).save_if_due(state, int(state.position))
                    raise
            if state.since[1] and state.position == stop:
                found = float(judge(state.average, arrays[1], check))
                state = _looked(objective.name, state, number, found)
                last = stage is not None and stop == looks[-1]
                keeper = Checkpoint(directory, 0.0) if last else checkpoint
                keeper.save_if_due(state, int(state.position))
    taken = np.isfinite(state.losses[:, 0])  # a fit has no more looks than steps
    return Fitted(jax.tree.map(np.asarray, state.best), state.losses[taken])


def restored(init: Callable[[Array], Tree], leaves: list[Any]) -> Tree:
    """Parameters from the list of their leaves, in which a run keeps them."""
    structure = jax.tree.structure(jax.eval_shape(init, jax.random.key(0)))
    return jax.tree.unflatten(structure, leaves)


def _rows(data: Tree) -> int:
    return len(jax.tree.leaves(data)[0])


def _optimizer(objective: Objective, effort: Effort) -> optax.GradientTransformation:
    """Adam; or Muon, with steps as large as Adam's, for matrices.

    Reference:
        Kingma and Ba, Adam, 2015; Jordan et al., Muon, 2024; Liu et al., Muon is scalable for LLM
        training, 2025 (size of steps).
    """
    rate, matrices = _schedule(effort), objective.matrices
    if matrices is None:
        return optax.adam(rate)

    def dimensions(params: Tree) -> Tree:
        return jax.tree.map(
            lambda one: contrib.MuonDimensionNumbers() if one else None, matrices(params)
        )

    # Five rounds cost as much as the gradient; from this scaling three do as well.
    return contrib.muon(
        rate, ns_steps=3, preconditioning="schatten", consistent_rms=0.2, adam_learning_rate=rate,
        muon_weight_dimension_numbers=dimensions,
    )  # fmt: skip


def _schedule(effort: Effort) -> optax.Schedule:
    warm = max(1, round(WARM_UP * effort.steps))
    return optax.warmup_cosine_decay_schedule(
        0, effort.learning_rate, warm, max(effort.steps, warm + 1), effort.learning_rate / 100
    )


def _looks(effort: Effort) -> list[int]:
    return [max(1, round(effort.steps * (n + 1) / effort.looks)) for n in range(effort.looks)]


def _start(
    objective: Objective, optimizer: optax.GradientTransformation, effort: Effort
) -> _Progress:
    params = jax.jit(objective.init)(jax.random.key(effort.seed))
    losses = np.full((effort.looks, 3), np.nan)
    return _Progress(
        params=params,
        optimizer=optimizer.init(params),
        average=params,
        best=params,
        best_loss=np.float64(np.inf),
        position=np.int64(0),
        losses=losses,
        since=np.zeros(2),
        seconds=np.float64(0),
    )


def _program(
    objective: Objective, optimizer: optax.GradientTransformation
) -> Callable[[Any, Tree, Tree], tuple[Any, Array]]:
    """``(params, optimizer state, average), data, draws → the same after these steps, loss``."""

    def step(data: Tree, carry: Any, drawn: Tree) -> tuple[Any, Array]:
        params, state, average = carry
        loss, gradient = jax.value_and_grad(objective.loss)(params, data, drawn)
        update, state = optimizer.update(gradient, state, params)
        params = optax.apply_updates(params, update)
        (_, done), *_ = optax.tree.get_all_with_path(state, "count")
        keep = jnp.minimum(objective.average, done / (9 + done))  # a short fit has a short memory
        average = optax.incremental_update(params, average, 1 - keep)
        return (params, state, average), loss

    @jax.jit
    def advance(carry: Any, data: Tree, draws: Tree) -> tuple[Any, Array]:
        carry, losses = jax.lax.scan(partial(step, data), carry, draws)
        return carry, losses.mean()

    return advance


def _looked(name: str, state: _Progress, number: int, found: float) -> _Progress:
    loss = float(state.since[0] / state.since[1])
    if not np.isfinite([loss, found]).all():
        raise ConfigError(
            f"{name}: the training loss is {loss} and the validation loss {found} after "
            f"{state.position} steps; lower training.learning_rate"
        )
    losses = state.losses.copy()
    losses[number] = state.position, loss, found
    better = found < state.best_loss
    return state._replace(
        best=state.average if better else state.best,
        best_loss=np.float64(min(found, float(state.best_loss))),
        losses=losses,
        since=np.zeros(2),
    )
