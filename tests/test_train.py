"""Training: update rules, schedules, isolation of members, resume, divergence, early stop."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from zoogen.config import Config, NetworkConfig, TrainConfig
from zoogen.data import Dataset, load
from zoogen.errors import ConfigError
from zoogen.grid import Member, expand
from zoogen.networks import FAMILIES, build_network, dropping
from zoogen.train import (
    TrainedBlock,
    block,
    continue_training,
    initial_weights,
    recipe_of,
    train_block,
    training_data,
)
from zoogen.train.block import member_input
from zoogen.train.program import MemberInput, MemberState, _end_epoch, _network, _optimizer
from zoogen.train.schedules import rate_factor, timeline


def config(train: dict | None = None, data: dict | None = None, **axes: list) -> Config:
    return Config.model_validate(
        {
            "name": "t",
            "data": {"train_examples": 300} | (data or {}),
            "network": {"width": 8, "depth": 1},
            "train": {"epochs": 3, "batch_size": 50, "learning_rate": 0.05, "snapshots": [1]}
            | (train or {}),
            "grid": {"seeds": 3, "axes": {k.replace("__", "."): v for k, v in axes.items()}},
        }
    )


def run(c: Config, members: Sequence[Member] | None = None, **kwargs: object) -> TrainedBlock:
    (cohort,) = expand(c).cohorts
    dataset = load(c.data)
    recipe = recipe_of(cohort.config, dataset)
    chosen = cohort.members if members is None else members
    return train_block(recipe, training_data(dataset, recipe), chosen, **kwargs)  # type: ignore[arg-type]


def members_of(c: Config) -> tuple[Member, ...]:
    return expand(c).cohorts[0].members


# ---------------------------------------------------------------------------------- update rules
RULES = {
    "sgd": ({"momentum": 0.9}, "SGD", {"momentum": 0.9}),
    "sgd plain": ({"momentum": 0.0}, "SGD", {}),
    "sgd decay": ({"momentum": 0.5, "weight_decay": 0.1}, "SGD",
                  {"momentum": 0.5, "weight_decay": 0.1}),
    "nesterov": ({"momentum": 0.9, "nesterov": True}, "SGD", {"momentum": 0.9, "nesterov": True}),
    "adam": ({"optimizer": "adam", "weight_decay": 0.1}, "Adam", {"weight_decay": 0.1}),
    "rmsprop": ({"optimizer": "rmsprop", "weight_decay": 0.1}, "RMSprop",
                {"alpha": 0.9, "eps": 1e-7, "weight_decay": 0.1}),
    "adamw": ({"optimizer": "adamw", "momentum": 0.8, "weight_decay": 0.1}, "AdamW",
              {"betas": (0.8, 0.999), "weight_decay": 0.1}),
}  # fmt: skip


@pytest.mark.parametrize(("ours", "name", "theirs"), RULES.values(), ids=RULES)
def test_update_rules_equal_pytorch(ours: dict, name: str, theirs: dict) -> None:
    torch = pytest.importorskip("torch")
    gradients = np.random.default_rng(0).normal(size=(6, 5)).astype(np.float32)
    values = {"learning_rate": 0.1, "momentum": 0.9, "weight_decay": 0.0} | ours
    member = MemberInput(
        jnp.zeros(2, jnp.uint32),
        {f"train.{k}": jnp.float32(v) for k, v in values.items() if isinstance(v, float)},
    )
    static = {k: v for k, v in ours.items() if not isinstance(v, float)}
    rule = _optimizer(TrainConfig(epochs=1, **static), member, 1.0)
    weights = {"w": jnp.ones(5)}
    state = rule.init(weights)
    twin = torch.ones(5, requires_grad=True)
    optimizer = getattr(torch.optim, name)([twin], lr=0.1, **theirs)
    for gradient in gradients:
        updates, state = rule.update({"w": jnp.asarray(gradient)}, state, weights)
        weights = {"w": weights["w"] + updates["w"]}
        twin.grad = torch.tensor(gradient)
        optimizer.step()
    np.testing.assert_allclose(weights["w"], twin.detach().numpy(), rtol=2e-5, atol=1e-6)


# ------------------------------------------------------------------------------------- schedules
def factors(c: TrainConfig, size: int = 100) -> np.ndarray:
    line = timeline(c, size)
    return np.array([rate_factor(c, line, jnp.int32(s)) for s in range(line.total_steps)])


def test_onecycle_equals_pytorch() -> None:
    torch = pytest.importorskip("torch")
    c = TrainConfig(steps=50, batch_size=10, schedule="onecycle")
    optimizer = torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=1.0)
    # PyTorch counts its phases from the first to the last step, one step less than we do.
    theirs = torch.optim.lr_scheduler.OneCycleLR(optimizer, 1.0, total_steps=51, pct_start=16 / 51)
    rates = []
    for _ in range(50):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        theirs.step()
    np.testing.assert_allclose(factors(c), rates, atol=2e-3)


@pytest.mark.parametrize(
    ("schedule", "anneal_at", "expected"),
    [
        ("constant", None, [1, 1, 1, 1, 1, 1, 1, 1]),
        ("step", None, [1, 1, 1, 1, 0.1, 0.1, 0.01, 0.01]),
        ("step", 0.25, [1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01]),
        ("cosine", 0.5, [1, 1, 1, 1, 1, 0.853553, 0.5, 0.146447]),
    ],
)
def test_schedules_have_the_documented_shape(
    schedule: str, anneal_at: float | None, expected: list[float]
) -> None:
    c = TrainConfig(steps=8, batch_size=10, schedule=schedule, anneal_at=anneal_at)
    np.testing.assert_allclose(factors(c), expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("train", "expected"),
    [
        ({"epochs": 4, "snapshots": [1, 2]}, {0: "init", 3: "epoch 1", 6: "epoch 2", 12: "end"}),
        ({"epochs": 4, "schedule": "step"}, {0: "init", 6: "anneal", 12: "end"}),
        ({"epochs": 4, "schedule": "cosine"}, {0: "init", 12: "end"}),
        ({"epochs": 1, "schedule": "onecycle"}, {0: "init", 1: "anneal", 3: "end"}),
        (
            {"steps": 3, "schedule": "onecycle", "anneal_at": 0.9},
            {0: "init", 2: "anneal", 3: "end"},
        ),
        ({"steps": 1, "schedule": "step"}, {0: "init", 1: "end"}),
        ({"steps": 10, "snapshots": [4]}, {0: "init", 4: "step 4", 10: "end"}),
        ({"steps": 10, "snapshots": [0, 10]}, {0: "init", 10: "end"}),
    ],
)
def test_snapshots_stand_at_init_before_annealing_and_end(train: dict, expected: dict) -> None:
    assert timeline(TrainConfig(batch_size=30, **train), 100).snapshots == expected


# --------------------------------------------------------------------------------------- members
def test_members_learn_and_curves_are_what_was_met() -> None:
    trained = run(config({"epochs": 40}))
    assert trained.weights.shape == (3, 3, 64 * 8 + 8 + 8 * 10 + 10)
    assert trained.train_loss.shape == (3, 40)
    assert (trained.train_loss[:, -1] < 0.5 * trained.train_loss[:, 0]).all()
    assert (trained.train_accuracy[:, -1] > 0.7).all()
    assert not np.array_equal(trained.weights[0], trained.weights[1])


def test_results_do_not_depend_on_neighbours() -> None:
    c = config(train__learning_rate=[0.01, 0.1, 0.5])
    together, members = run(c), members_of(c)
    for chosen in ([4], [8, 0, 3], [2, 3]):
        alone = run(c, [members[i] for i in chosen])
        np.testing.assert_array_equal(alone.weights, together.weights[chosen])
        np.testing.assert_array_equal(alone.train_loss, together.train_loss[chosen])


def test_divergence_is_flagged_and_contained() -> None:
    c = config(train__learning_rate=[0.1, 1e30])
    trained = run(c)
    assert (trained.diverged_epoch[:3] == -1).all()
    assert (trained.diverged_epoch[3:] == 0).all()
    assert np.isnan(trained.weights[3:, 1:]).all()
    assert np.isfinite(trained.weights[3:, 0]).all(), "initialisation was finite"
    assert np.isnan(trained.train_loss[3:, 1:]).all(), "no loss after divergence"
    healthy = run(c, members_of(c)[:3])
    np.testing.assert_array_equal(healthy.weights, trained.weights[:3])


def test_divergence_in_the_very_last_step_is_flagged() -> None:
    """The loss before the step is finite; what the step leaves is not."""
    once = {"epochs": None, "steps": 1, "snapshots": []}
    steep = {"network__init_scale": [1e4], "train__learning_rate": [1e-9, 1e38]}
    trained = run(config(once, **steep))
    assert trained.diverged_epoch.tolist() == [-1, -1, -1, 0, 0, 0]
    assert np.isnan(trained.weights[3:, -1]).all()


def test_without_a_target_nobody_stops_however_small_the_loss() -> None:
    c = config()
    recipe = recipe_of(expand(c).cohorts[0].config, load(c.data))
    perfect = MemberState(
        params={"w": jnp.ones(2)},
        optimizer=(),
        loss_sum=jnp.zeros(3),
        hits=jnp.zeros(3, jnp.int32),
        diverged_epoch=jnp.int32(-1),
        stopped_epoch=jnp.int32(-1),
    )
    assert _end_epoch(recipe, jnp.int32(0), jnp.bool_(True), perfect).stopped_epoch == -1


def test_a_smaller_block_gives_the_same_members() -> None:
    c = config()
    whole, members = run(c), members_of(c)
    part = run(c, members[:2], width=3)
    assert part.weights.shape[0] == 2
    np.testing.assert_array_equal(part.weights, whole.weights[:2])
    np.testing.assert_array_equal(part.train_loss, whole.train_loss[:2])


def test_a_reached_target_freezes_the_member() -> None:
    epochs = {"epochs": 30, "snapshots": [27]}
    members = members_of(config(epochs))  # a target makes others of them: train the same ones
    free = run(config(epochs), members)
    stopped = run(config(epochs | {"stop_at_train_loss": 1.2}), members)
    for m in range(3):
        expected = int(np.argmax(free.train_loss[m] <= 1.2))
        assert 0 < expected < 27, "the target is reached in this test"
        assert stopped.stopped_epoch[m] == expected
        np.testing.assert_array_equal(
            stopped.train_loss[m, : expected + 1], free.train_loss[m, : expected + 1]
        )
        assert np.isnan(stopped.train_loss[m, expected + 1 :]).all()
        np.testing.assert_array_equal(stopped.weights[m, -1], stopped.weights[m, 1])


def test_an_epoch_meets_every_image_once() -> None:
    """With rate 0 the mean batch loss of an epoch is the loss over the whole set, in any order."""
    c = config({"epochs": 2}, train__learning_rate=[0.0])
    trained = run(c)
    np.testing.assert_allclose(trained.train_loss[:, 0], trained.train_loss[:, 1], rtol=1e-5)
    np.testing.assert_array_equal(trained.weights[:, 0], trained.weights[:, -1])
    assert len(set(trained.train_loss[:, 0].tolist())) == 3, "seeds differ in initialisation"


def test_a_fraction_sees_the_first_images_only() -> None:
    c = config(data={"fraction": 0.5})
    dataset, (cohort,) = load(c.data), expand(c).cohorts
    recipe = recipe_of(cohort.config, dataset)
    assert recipe.training_size == 150
    spoiled = training_data(_spoil(dataset, after=150), recipe)
    clean = train_block(recipe, training_data(dataset, recipe), cohort.members)
    other = train_block(recipe, spoiled, cohort.members)
    np.testing.assert_array_equal(other.weights, clean.weights)


def _spoil(dataset: Dataset, after: int) -> Dataset:
    images = dataset.train.images.copy()
    images[after:] = 0
    return replace(dataset, train=replace(dataset.train, images=images))


def test_label_noise_makes_fitting_harder() -> None:
    trained = run(config({"epochs": 20}, data__label_noise=[0.0, 0.5]))
    assert trained.train_loss[3:, -1].min() > trained.train_loss[:3, -1].max()


# --------------------------------------------------------------------------------------- dropout
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("rate", [0.1, 0.5, 0.7])
def test_dropout_drops_its_share_and_keeps_the_mean(seed: int, rate: float) -> None:
    units, key = jnp.ones((40, 50, 10)), jax.random.key(seed)
    found = np.asarray(dropping(key, jnp.float32(rate))("conv0", units)).reshape(40, -1)
    share = (found == 0).mean()
    bound = 5 * np.sqrt(rate * (1 - rate) / found.size)
    assert abs(share - rate) < bound
    np.testing.assert_allclose(found[found != 0], 1 / (1 - rate), rtol=1e-6)
    assert abs(found.mean() - 1) < bound / (1 - rate)
    # Neighbours in memory, and places of two rows, hang together no more than chance has it.
    centred = (found == 0) - share
    for product in (centred[:, 1:] * centred[:, :-1], centred[1:] * centred[:-1]):
        assert abs(product.mean()) < 5 * rate * (1 - rate) / np.sqrt(product.size)


def test_masks_differ_by_key_and_layer_alone() -> None:
    units, rate = jnp.ones((64, 16)), jnp.float32(0.5)
    keys = [jax.random.fold_in(jax.random.key(0), step) for step in range(3)]
    masks = [np.asarray(dropping(k, rate)(name, units)) for k in keys for name in ("a", "b")]
    for i, one in enumerate(masks):
        for other in masks[:i]:
            assert 0.4 < (one == other).mean() < 0.6
    np.testing.assert_array_equal(masks[0], dropping(keys[0], rate)("a", units))
    np.testing.assert_array_equal(dropping(keys[0], jnp.float32(0))("a", units), units)


def test_a_network_in_training_drops_by_member_and_step() -> None:
    c = config(train__dropout=[0.0, 0.5])
    dataset = load(c.data)
    recipe = replace(recipe_of(c, dataset), dropout=True)
    given = member_input([*members_of(c)[:1], *members_of(c)[3:5]])
    params = recipe.net.init(jax.random.key(0), 1.0)
    images = jnp.asarray(dataset.train.images[:4], jnp.float32)

    def logits(member: int, step: int) -> np.ndarray:
        one = jax.tree.map(lambda leaf: leaf[member], given)
        return np.asarray(_network(recipe, one, jnp.int32(step)).train_forward(params, images)[0])

    whole = np.asarray(recipe.net.apply(params, images))
    np.testing.assert_array_equal(logits(0, 0), whole)
    np.testing.assert_array_equal(logits(1, 0), logits(1, 0))
    dropped = [logits(1, 0), logits(1, 1), logits(2, 0), whole]
    assert len({found.tobytes() for found in dropped}) == 4


@pytest.mark.parametrize("family", sorted(FAMILIES.keys() - {"siren"}))  # refuses dropout
def test_every_family_drops_units(family: str) -> None:
    network = build_network(NetworkConfig(family=family, width=8), (1, 28, 28), 3)  # type: ignore[arg-type]
    dropped: list[str] = []

    def drop(name: str, units: jax.Array) -> jax.Array:
        dropped.append(name)
        return 0 * units

    params = network.init(jax.random.key(0), 1.0)
    images = jnp.ones((2, 1, 28, 28))
    logits, hidden = network.forward(params, images, drop=drop)
    assert dropped
    assert set(dropped) <= set(hidden)
    assert np.abs(np.asarray(logits - network.forward(params, images)[0])).max() > 0


@pytest.mark.parametrize("network", [{"family": "mlp"}, {"family": "cnn", "padding": "same"}])
def test_a_rate_of_zero_is_no_dropout_to_the_bit(network: dict) -> None:
    """Members that drop nothing are the same beside members that do, hence in either program."""
    c = config({"epochs": 2}, train__dropout=[0.0, 0.5], network__width=[4])
    c = c.model_copy(update={"network": c.network.model_copy(update=network)})
    mixed = run(c)
    without = run(c, members_of(c)[:3])
    np.testing.assert_array_equal(mixed.weights[:3], without.weights)
    assert not np.array_equal(mixed.weights[3:, -1], mixed.weights[:3, -1])


def test_dropout_makes_fitting_harder() -> None:
    trained = run(config({"epochs": 20}, train__dropout=[0.0, 0.7]))
    assert trained.train_loss[:3, -1].max() < trained.train_loss[3:, -1].min()


def test_augmentation_changes_training_but_not_its_start() -> None:
    plain, augmented = run(config()), run(config(data={"crop": 1, "flip": True}))
    assert np.isfinite(augmented.weights).all()
    assert augmented.weights.shape == plain.weights.shape


def test_init_scale_scales_the_initial_weights() -> None:
    trained = run(config({"epochs": 1}, network__init_scale=[1.0, 3.0]))
    norms = np.linalg.norm(trained.weights[:, 0], axis=-1)
    assert norms[3:].mean() == pytest.approx(3 * norms[:3].mean(), rel=0.15)


def test_constant_step_mode_makes_that_many_steps() -> None:
    trained = run(config({"epochs": None, "steps": 8, "snapshots": [7]}))
    assert trained.train_loss.shape == (3, 2)  # 6 steps of the first epoch, 2 of the second
    assert np.isfinite(trained.train_loss).all()
    assert not np.array_equal(trained.weights[:, 1], trained.weights[:, 2])


def test_a_batch_larger_than_the_set_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"train\.batch_size: found 500, .* 300 training images"):
        run(config({"batch_size": 500}))


# -------------------------------------------------------------------------------- training on
OPTIMIZERS = ({"momentum": 0.9, "weight_decay": 0.01}, {"optimizer": "adam"}, {"nesterov": True})


def go_on(c: Config, weights: np.ndarray, mask: np.ndarray | None = None, **kwargs: object):
    """All members of a config, or the chosen ones, at the end of a stretch from given weights."""
    dataset, (cohort,) = load(c.data), expand(c).cohorts
    recipe = recipe_of(cohort.config, dataset)
    members = kwargs.pop("members", cohort.members)
    data = training_data(dataset, recipe)
    return continue_training(recipe, data, members, weights, mask, **kwargs)[:, -1]


def random_mask(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape) < 0.5


@pytest.mark.parametrize("train", OPTIMIZERS)
def test_training_on_from_the_start_is_training(train: dict) -> None:
    c = config({"schedule": "step"} | train, train__learning_rate=[0.01, 0.1])
    trained, members = run(c), members_of(c)
    recipe = recipe_of(expand(c).cohorts[0].config, load(c.data))
    first = initial_weights(recipe, members)
    np.testing.assert_array_equal(first, trained.weights[:, 0])
    reported: list[float] = []
    np.testing.assert_array_equal(
        go_on(c, first, on_members=reported.append), trained.weights[:, -1]
    )
    assert sum(reported) == pytest.approx(len(members))


def test_weights_on_the_way_are_those_of_the_snapshots() -> None:
    c = config({"schedule": "step"})
    trained, (cohort,) = run(c), expand(c).cohorts
    dataset = load(c.data)
    recipe = recipe_of(cohort.config, dataset)
    data, steps = training_data(dataset, recipe), list(recipe.timeline.snapshots)
    found = continue_training(recipe, data, cohort.members, trained.weights[:, 0], steps=steps)
    np.testing.assert_array_equal(found, trained.weights[:, 1:])


def test_no_steps_change_nothing() -> None:
    c = config(train__learning_rate=[0.1])
    weights = run(c).weights[:, 1]
    np.testing.assert_array_equal(go_on(c, weights, steps=(7, 7)), weights)
    mask = random_mask(weights.shape)
    np.testing.assert_array_equal(go_on(c, weights, mask, steps=(7, 7)), np.where(mask, weights, 0))


@pytest.mark.parametrize("train", OPTIMIZERS)
def test_what_the_mask_lacks_stays_zero_and_the_rest_learns(train: dict) -> None:
    c = config({"epochs": 8} | train)
    weights = run(c).weights[:, 0]
    mask = random_mask(weights.shape)
    after = go_on(c, weights, mask, steps=(5, 48))  # from the midst of an epoch
    assert (after[~mask] == 0).all()
    assert np.isfinite(after).all()
    assert (after[mask] != weights[mask]).mean() > 0.8  # blank pixels feed some weights nothing


def test_a_full_mask_is_none() -> None:
    c = config()
    weights = run(c).weights[:, 0]
    everything = np.ones(weights.shape, bool)
    np.testing.assert_allclose(go_on(c, weights, everything), go_on(c, weights), atol=1e-6)


def test_members_trained_on_do_not_depend_on_neighbours() -> None:
    c = config(train__learning_rate=[0.01, 0.5])
    weights, members = run(c).weights[:, -1], members_of(c)
    mask = random_mask(weights.shape)
    together = go_on(c, weights, mask, steps=(6, 18))
    for chosen in ([4], [5, 0, 3]):
        alone = go_on(c, weights[chosen], mask[chosen], steps=(6, 18),
                      members=[members[i] for i in chosen])  # fmt: skip
        np.testing.assert_array_equal(alone, together[chosen])


def test_members_that_diverge_further_on_are_nan() -> None:
    c = config({"stop_at_train_loss": 1e9}, train__learning_rate=[0.1, 1e30])
    weights = run(c).weights[:, 0].copy()
    weights[1] = np.nan
    after = go_on(c, weights, random_mask(weights.shape))
    assert np.isnan(after[[1, 3, 4, 5]]).all()
    assert np.isfinite(after[[0, 2]]).all()
    assert (after[[0, 2]] != weights[[0, 2]]).any(), "a loss target ends nothing"


# ---------------------------------------------------------------------------------------- resume
class Killed(Exception):
    pass


def test_spans_and_resume_leave_no_trace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    c = config({"epochs": 9, "schedule": "step", "snapshots": [2, 7], "dropout": 0.3})
    whole = run(c)
    monkeypatch.setattr(block, "SPAN_SECONDS", 1e-6)  # one epoch at a time
    monkeypatch.setattr(block, "CHECKPOINT_SECONDS", 0.0)
    made = 0.0

    def kill_later(members: float) -> None:
        nonlocal made
        made += members
        if made > 0.6 * 3:
            raise Killed

    with pytest.raises(Killed):
        run(c, resume_dir=tmp_path / "state", on_members=kill_later)
    reported: list[float] = []
    resumed = run(c, resume_dir=tmp_path / "state", on_members=reported.append)
    assert reported[0] > 0, "it went on from a checkpoint"
    assert sum(reported) == pytest.approx(3)
    for name in ("weights", "train_loss", "train_accuracy"):
        np.testing.assert_array_equal(getattr(resumed, name), getattr(whole, name))


def test_one_compilation_serves_all_spans_and_rates() -> None:
    compiled: list[str] = []
    c = config({"epochs": 7}, train__learning_rate=[0.03, 0.1])
    run(c)  # everything is compiled now
    jax.monitoring.register_event_duration_secs_listener(
        lambda event, seconds, **_: compiled.append(event) if "backend_compile" in event else None
    )
    run(c)
    jax.monitoring.clear_event_listeners()
    assert compiled == []
