"""SIREN zoos: ω0 absorbed exactly, images that come back from weights, resume, refusals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from zoogen import factory
from zoogen.config import NetworkConfig, load_config
from zoogen.data import image_of, load, pixel_values, places
from zoogen.errors import ConfigError
from zoogen.grid import expand, split_of
from zoogen.networks import build_network
from zoogen.networks.rendering import render
from zoogen.networks.sine import cos, sin
from zoogen.symmetry import check_symmetry
from zoogen.train import initial_weights, recipe_of, train_block, training_data
from zoogen.zoo import Zoo, open_zoo

CONFIG = """
name = "images"
[data]
source = "digits"
train_examples = 6
test_examples = 2
[network]
family = "siren"
activation = "sin"
init = "siren"
width = 32
omega = 10.0
[train]
optimizer = "adam"
learning_rate = 1e-3
batch_size = 64
steps = 150
schedule = "cosine"
[grid]
seeds = 2
[landscape]
metrics = ["reconstruction", "weights"]
[sizes]
tiny = 0.5
full = 2.0
"""
PLACE = (2, 1, 1)
OMEGA = 10.0


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("config") / "images.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="module")
def zoo(config: Path, tmp_path_factory: pytest.TempPathFactory) -> Zoo:
    return factory.generate(config, tmp_path_factory.mktemp("zoo") / "images.zarr")


def network(**more: object):
    return build_network(
        NetworkConfig(family="siren", activation="sin", init="siren", **more), PLACE, 1
    )


# ------------------------------------------------------------------------------------- the network
def test_sine_is_exact_to_rounding_where_networks_use_it() -> None:
    x = np.linspace(-1000, 1000, 400_001).astype(np.float32)
    assert np.abs(np.asarray(sin(x)) - np.sin(x.astype(float))).max() < 3e-7
    assert np.abs(np.asarray(cos(x)) - np.cos(x.astype(float))).max() < 3e-7
    np.testing.assert_array_equal(sin(-x), -sin(x))  # the sign symmetry holds to the last bit
    for order, expected in enumerate((np.cos, lambda x: -np.sin(x), lambda x: -np.cos(x))):
        fn = sin
        for _ in range(order + 1):
            fn = jax.grad(fn)
        assert float(fn(2.0)) == pytest.approx(expected(2.0), abs=1e-6)


def published(params: dict, at: jax.Array, omega: float) -> jax.Array:
    """The function of Sitzmann et al.: ω0 stands before each hidden layer."""
    x = at.reshape(len(at), -1)
    for layer in ("hidden0", "hidden1"):
        x = jnp.sin(omega * (x @ params[f"{layer}.weight"].T + params[f"{layer}.bias"]))
    return x @ params["output.weight"].T + params["output.bias"]


def divided(params: dict, omega: float) -> dict:
    """The published parameters of absorbed ones."""
    return {name: p / omega if name.startswith("hidden") else p for name, p in params.items()}


@pytest.mark.parametrize("omega", [1.0, 30.0])
def test_absorbed_weights_are_the_published_function(omega: float) -> None:
    net = network(omega=omega)
    params = net.init(jax.random.key(0), 1.0)
    at = jnp.asarray(places(9, 5))
    expected = published(divided(params, omega), at, omega)
    np.testing.assert_allclose(net.apply(params, at), expected, atol=2e-5)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_initial_weights_are_uniform_within_the_published_bounds(seed: int) -> None:
    params = divided(network(width=256).init(jax.random.key(seed), 1.0), 30.0)
    bounds = {
        "hidden0.weight": 1 / 2, "hidden0.bias": 2**-0.5,
        "hidden1.weight": (6 / 256) ** 0.5 / 30, "hidden1.bias": 256**-0.5,
        "output.weight": (6 / 256) ** 0.5 / 30,
    }  # fmt: skip
    for name, bound in bounds.items():
        values = np.asarray(params[name]).ravel()
        assert np.abs(values).max() <= bound * (1 + 1e-6)
        # A uniform variable's mean square is a third; its relative standard error is 0.9/√n.
        assert np.mean(values**2) == pytest.approx(bound**2 / 3, rel=4.5 / values.size**0.5)


def test_symmetry_holds_and_second_layer_sign_is_part_of_it() -> None:
    net = network(width=8)
    check_symmetry(net)
    assert {group.scaling for group in net.spec.groups.values()} == {"sign"}


# --------------------------------------------------------------------------------------- training
def test_training_is_that_of_the_published_form(config: Path) -> None:
    """Steps of Adam on W and on ω0 W are the same training, but for rounding and Adam's ε."""
    settings = load_config(config, ["train.steps=12", "train.schedule=constant"])
    dataset = load(settings.data)
    recipe, member = recipe_of(settings, dataset), expand(settings).cohorts[0].members[3]
    start = initial_weights(recipe, [member])[0]
    found = train_block(recipe, training_data(dataset, recipe), [member]).weights[0, -1]

    params = divided(recipe.net.spec.unflatten(jnp.asarray(start)), OMEGA)
    at = jnp.asarray(places(8, 8))
    target = pixel_values(jnp.asarray(dataset.train.images[member.image]), 16.0)
    rule = optax.adam(1e-3)
    state = rule.init(params)

    @jax.jit
    def step(params, state):
        loss = lambda p: jnp.mean((published(p, at, OMEGA) - target) ** 2)  # noqa: E731
        updates, state = rule.update(jax.grad(loss)(params), state)
        return optax.apply_updates(params, updates), state

    for _ in range(12):
        params, state = step(params, state)
    own = divided(recipe.net.spec.unflatten(jnp.asarray(found)), OMEGA)
    moved = np.abs(found - start).max() / OMEGA
    for name, expected in params.items():
        np.testing.assert_allclose(own[name], expected, atol=0.02 * moved, err_msg=name)


def test_members_show_their_images(zoo: Zoo) -> None:
    assert len(zoo) == 16
    assert zoo.is_complete
    shown = np.stack([zoo[i].image() for i in range(len(zoo))])
    error = np.mean((shown - zoo.targets()) ** 2, axis=(1, 2, 3))
    np.testing.assert_allclose(zoo.members["mse"], error, rtol=1e-3)
    np.testing.assert_allclose(zoo.members["psnr"], -10 * np.log10(error), atol=0.01)
    assert zoo.members["psnr"].min() > 25
    last_batch = zoo.reader.read(zoo.cohorts[0], "train_loss")[:, -1]
    assert (last_batch < 4e-3).all()
    assert np.isnan(zoo.reader.read(zoo.cohorts[0], "train_accuracy")).all()


def test_table_says_which_image_a_member_fits(zoo: Zoo) -> None:
    table, dataset = zoo.members, zoo.dataset
    assert table["split"].tolist() == ["train"] * 12 + ["test"] * 4
    assert table["image"].tolist() == [i for i in (*range(6), 0, 1) for _ in range(2)]
    for split in ("train", "test"):
        rows = table[table["split"] == split]
        assert (rows["label"] == getattr(dataset, split).labels[rows["image"]]).all()
    assert table["cell"].nunique() == 8
    assert set(table["phase"]) == {"unlabelled"}
    one, other = (zoo[i].vector for i in (0, 1))  # two members of one image
    assert np.corrcoef(one, other)[0, 1] < 0.5


def test_rendering_is_the_function_at_the_places(zoo: Zoo) -> None:
    member = zoo[5]
    small = member.image()
    np.testing.assert_allclose(image_of(member.apply(places(8, 8)), 8, 8), small, atol=1e-5)
    # Every second of 15 rows and columns is one of 8.
    np.testing.assert_allclose(member.image(15, 15)[:, ::2, ::2], small, atol=1e-4)
    all_at_once = render(member.network, zoo.weights().values, 8, 8)
    np.testing.assert_array_equal(all_at_once[5], small)


@pytest.mark.parametrize("kind", ["digits", "colour"])
def test_pixels_are_an_image_taken_apart(kind: str) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 17, (3 if kind == "colour" else 1, 4, 5)).astype(np.uint8)
    values = pixel_values(jnp.asarray(image), 16.0)
    np.testing.assert_allclose(image_of(values, 4, 5), image / 16, rtol=1e-6)
    row, column = places(4, 5)[2 * 5 + 3, :, 0, 0]
    assert (row, column) == (pytest.approx(-1 + 2 * 2 / 3), pytest.approx(0.5))
    np.testing.assert_allclose(values[2 * 5 + 3], image[:, 2, 3] / 16)


# ---------------------------------------------------------------------------------------- the plan
def test_a_member_stays_what_it_is_in_a_zoo_of_more_images(config: Path) -> None:
    ids = {}
    for size in (None, "tiny", "full"):
        plan = expand(load_config(config, size=size))
        (cohort,) = plan.cohorts
        assert plan.n_members == len(cohort.members) == 2 * sum(plan.config.images)
        assert plan.config.train.steps == 150
        ids[size] = {(*split_of(plan.config, m.image), m.seed): m.id for m in cohort.members}
    assert ids["tiny"].items() < ids[None].items() < ids["full"].items()
    assert len(set(ids["full"].values())) == 32


def test_axes_cross_with_images(config: Path) -> None:
    plan = expand(load_config(config, ["grid.axes.train.learning_rate=[0.001, 0.002]",
                                       "grid.axes.network.width=[8, 16]"]))  # fmt: skip
    assert (plan.n_cohorts, plan.n_cells, plan.n_members) == (2, 32, 64)
    assert sum(len(cohort.members) for cohort in plan.cohorts) == 64
    assert len({m.id for cohort in plan.cohorts for m in cohort.members}) == 64


BAD = [
    (["data.train_examples=100000"], "data.train_examples"),
    (["train.batch_size=65"], "8×8 = 64 pixels"),
    (["train.optimizer=sgd"], "needs 'adam'"),
    (["data.label_noise=0.1"], "data.label_noise"),
    (["grid.axes.data.fraction=[0.5, 1.0]"], "data.fraction"),
    (["network.init=he_normal"], "needs 'siren'"),
    (["network.activation=relu"], "needs 'sin'"),
    (["network.family=mlp"], "omega"),
    (["landscape.metrics=['curvature']"], "needs classes"),
    (["grid.axes.network.family=['siren', 'mlp']"], "only 'siren' has it"),
]


@pytest.mark.parametrize(("overrides", "words"), BAD)
def test_what_makes_no_sense_is_refused_in_one_line(
    config: Path, tmp_path: Path, overrides: list[str], words: str
) -> None:
    with pytest.raises(ConfigError) as error:
        factory.generate(factory.plan(config, overrides), tmp_path / "bad.zarr")
    assert words in str(error.value)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "bad.zarr").exists()


def test_a_size_must_be_given_and_classifiers_have_no_reconstruction(
    config: Path, tiny_config: Path
) -> None:
    text = config.read_text().replace("train_examples = 6", "")
    bare = config.with_name("bare.toml")
    bare.write_text(text)
    with pytest.raises(ConfigError, match=r"data\.train_examples: missing"):
        load_config(bare)
    with pytest.raises(ConfigError, match="only members of the siren family"):
        load_config(tiny_config, ["landscape.metrics=['reconstruction']"])


def test_work_for_classifiers_is_refused(
    zoo: Zoo, tiny_zoo: Path, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    before = zoo.reader.manifest.content_hash()
    for command in (
        ("refine", zoo.path, "--budget", 3),
        ("measure", zoo.path, "--metrics", "curvature"),
        ("study", "prune", zoo.path),
        ("sparsify", zoo.path, "--out", tmp_path / "twin.zarr", "--sparsity", 0.5),
    ):
        code, _, complaint = run(*command)
        assert (code, complaint.count("\n")) == (2, 1), command
        assert "siren" in complaint
    assert open_zoo(zoo.path).reader.manifest.content_hash() == before
    with pytest.raises(ConfigError, match="only members of the siren family"):
        open_zoo(tiny_zoo)[0].image()
    with pytest.raises(ConfigError, match="only members of the siren family"):
        open_zoo(tiny_zoo).targets()


def test_commands_work_on_images(
    zoo: Zoo, tmp_path: Path, run: Callable[..., tuple[int, str, str]]
) -> None:
    for command in (("verify", zoo.path), ("info", zoo.path), ("label", zoo.path)):
        code, out, _ = run(*command)
        assert code == 0, command
    assert "16 members, an image each; no phases" in out
    pytest.importorskip("matplotlib")
    code, out, _ = run("report", zoo.path, "--out", tmp_path / "report")
    assert code == 0
    assert {Path(line).name for line in out.split()} == {
        "gallery.png", "gallery.svg", "datacard.md"
    }  # fmt: skip
    card = (tmp_path / "report" / "datacard.md").read_text()
    for words in ("ω0 = 10", "raw pixels ÷ 16", "## Recipe", "| train | ", "2 members"):
        assert words in card


# ----------------------------------------------------------------------------------------- resume
@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_bytes(config: Path, zoo: Zoo, tmp_path: Path) -> None:
    out = tmp_path / "killed.zarr"
    code = (
        "import sys; from zoogen import factory; from zoogen.train import block;"
        "block.SPAN_SECONDS, block.CHECKPOINT_SECONDS = 1e-6, 0.05;"
        "factory.generate(sys.argv[1], sys.argv[2])"
    )
    command = [sys.executable, "-c", code, str(config), str(out)]
    process = subprocess.Popen(command, env=dict(os.environ))
    deadline = time.monotonic() + 60
    while not any(out.glob("resume/*/*/*")) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL  # in the middle of training
    found = factory.generate(config, out)
    assert found.reader.manifest.content_hash() == zoo.reader.manifest.content_hash()
