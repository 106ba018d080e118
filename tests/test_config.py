"""Configs: what is refused and how it is said, overrides, sizes, canonical form."""

from __future__ import annotations

import math
from itertools import pairwise, product
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoogen.config import (
    HYPER_PARAMETERS,
    Config,
    Range,
    canonical_json,
    config_hash,
    load_config,
    parse_config,
)
from zoogen.errors import ConfigError, NotFoundError
from zoogen.evaluate import load_run
from zoogen.generators import load_generator
from zoogen.phases import load_rule, rule_toml

BASE = """
name = "base"
[train]
epochs = 10
snapshots = [1, 5]
[grid]
seeds = 3
load = "network.width"
temperature = "train.learning_rate"
[grid.axes]
"network.width" = [2, 4, 8, 16, 32]
"train.learning_rate" = { from = 0.01, to = 1.0, points = 5, spacing = "log" }
[sizes]
tiny = 0.25
small = 1.0
full = 2.0
"""


@pytest.fixture
def base(tmp_path: Path) -> Path:
    path = tmp_path / "base.toml"
    path.write_text(BASE)
    return path


# override → every fragment that its one line must contain: key, found, allowed, nearest
REFUSED = {
    "trian.epochs=3": ["trian", "unknown key", "did you mean 'train'?", "allowed:"],
    "train.epoch=3": ["train.epoch", "did you mean 'epochs'?"],
    "train.epochs='3'": ["train.epochs", "found '3'", "integer"],
    "train.epochs=2.5": ["train.epochs", "found 2.5", "integer"],
    "train.learning_rate='fast'": ["train.learning_rate", "found 'fast'", "number"],
    "train.learning_rate=nan": ["train.learning_rate", "finite"],
    "network.width=-3": ["network.width", "found -3", "greater than or equal to 1"],
    "network.family='mpl'": ["network.family", "found 'mpl'", "'mlp'", "did you mean 'mlp'?"],
    "network.padding='same'": ["network", "padding", "'cnn'"],
    "network.norm='batch'": ["network", "norm", "'resnet'"],
    "data.source='minst'": ["data", "source", "found 'minst'", "'digits'"],
    "data.label_noise=1.5": ["data.label_noise", "found 1.5", "less than or equal to 1"],
    "train.steps=4": ["epochs/steps", "found both", "exactly one"],
    "train.snapshots=[99]": ["snapshots", "found 99", "0 to 10 epochs"],
    "train.dropout=1.0": ["train.dropout", "found 1.0", "0.99"],
    "train={epochs=1,optimizer='rmsprop',momentum=0.5}": ["momentum: rmsprop has none, found 0.5"],
    "train.nesterov=1": ["train.nesterov", "found 1", "boolean"],
    "train=3": ["train", "found 3"],
    "grid.seeds=0": ["grid.seeds", "found 0"],
    "grid.load='network.depth'": ["load", "found 'network.depth'", "network.width"],
    "grid.temperature='network.width'": ["temperature", "which is the load already"],
    "grid.axes.network.width=[]": ["network.width", "empty axis"],
    "grid.axes.network.width=[2, 2]": ["network.width", "twice"],
    "grid.axes.network.width=[-1]": ["network.width", "found -1"],
    "grid.axes.network.width=['a']": ["network.width", "found 'a'", "integer"],
    "grid.axes.network.width=[[1]]": ["network.width", "found [1]"],
    "grid.axes.network.width=3": ["network.width", "found 3", "list of values"],
    "grid.axes.network.widht=[1]": ["network.widht", "did you mean 'network.width'?"],
    "grid.axes.train.learning_rate={from=0,to=1,points=3,spacing='log'}": ["log axis needs > 0"],
    "grid.axes.train.learning_rate={from=1,points=3}": ["learning_rate", "to", "missing"],
    "sizes.tiny=0": ["sizes.tiny", "found 0"],
    "name='a b'": ["name", "found 'a b'"],
}


@pytest.mark.parametrize(("override", "fragments"), REFUSED.items(), ids=REFUSED)
def test_mistakes_are_told_in_one_line(base: Path, override: str, fragments: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(base, [override])
    message = str(caught.value)
    assert "\n" not in message
    assert str(base) in message
    for fragment in fragments:
        assert fragment in message


def test_several_mistakes_are_told_at_once(base: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(base, ["train.epochs='x'", "network.width=0"])
    assert len(str(caught.value).splitlines()) == 2


@pytest.mark.parametrize("override", ["epochs", "=3", "train..epochs=3", "name.x=3"])
def test_malformed_overrides_are_refused(base: Path, override: str) -> None:
    with pytest.raises(ConfigError, match=r"--set|unknown key"):
        load_config(base, [override])


@pytest.mark.parametrize(
    ("content", "error"), [(None, NotFoundError), ("x = [", ConfigError), ("x = 1", ConfigError)]
)
def test_unusable_files_are_refused(tmp_path: Path, content: str | None, error: type) -> None:
    path = tmp_path / "config.toml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(error, match=r"config\.toml"):
        load_config(path)


READ_BY = {
    "generate": load_config,
    "train-generator": load_generator,
    "train-model": load_run,
    "label": load_rule,
}
OF_KIND = {
    "generate": 'name = "a"\n[train]\nepochs = 1\n[grid]\nseeds = 2',
    "train-generator": 'name = "a"\ngenerator = "flow"\n[training]\nsteps = 1',
    "train-model": 'name = "a"\nreaders = ["mean"]\n[task]\ntarget = "phase"\n[training]',
    "label": rule_toml(load_rule("taxonomy")),
}


@pytest.mark.parametrize(("asked", "right"), list(product(READ_BY, OF_KIND)))
def test_a_config_of_another_kind_is_told_in_one_line(
    tmp_path: Path, asked: str, right: str
) -> None:
    path = tmp_path / "some.toml"
    path.write_text(OF_KIND[right])
    if asked == right:
        READ_BY[asked](path)
        return
    with pytest.raises(ConfigError) as caught:
        READ_BY[asked](path)
    message = str(caught.value)
    assert "\n" not in message
    assert f"{path} looks like a config of" in message
    assert f"run: zoogen {right} " in message


def test_one_wrong_key_does_not_make_another_kind(base: Path) -> None:
    with pytest.raises(ConfigError, match="generator: unknown key"):
        load_config(base, ["generator=flow"])
    base.write_text(f'generator = "flow"\n{BASE}')
    with pytest.raises(ConfigError, match="generator: unknown key"):
        load_config(base)


def test_overrides_take_toml_values_and_bare_words(base: Path) -> None:
    config = load_config(
        base, ["train.optimizer=adam", "train.learning_rate=1", "grid.axes.network.width=[3]"]
    )
    assert config.train.optimizer == "adam"
    assert config.train.learning_rate == 1.0
    assert config.axis_values()["network.width"] == (3,)


def test_every_hyper_parameter_can_be_an_axis(base: Path) -> None:
    defaults = load_config(base).values()
    for key in HYPER_PARAMETERS:
        if defaults[key] is None:  # without a default: any value that fits the family
            continue
        config = load_config(base, [f"grid.axes.{key}={_toml(defaults[key])}"])
        assert config.axis_values()[key] == (defaults[key],)


def _toml(value: object) -> str:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    return f"[{text}]"


@pytest.mark.parametrize(
    ("size", "widths", "rates", "seeds", "epochs"),
    [("tiny", 3, 3, 2, 3), ("small", 5, 5, 3, 10), ("full", 5, 10, 6, 10)],
)
def test_sizes_scale_the_whole_zoo(
    base: Path, size: str, widths: int, rates: int, seeds: int, epochs: int
) -> None:
    config = load_config(base, size=size)
    axes = config.axis_values()
    assert [len(axes["network.width"]), len(axes["train.learning_rate"])] == [widths, rates]
    assert (config.grid.seeds, config.train.epochs) == (seeds, epochs)
    assert axes["network.width"][0] == 2
    assert axes["network.width"][-1] == 32
    assert max(config.train.snapshots) <= epochs
    Config.model_validate(config.model_dump(by_alias=True))  # a scaled config is a valid one


def test_an_unknown_size_is_refused(base: Path) -> None:
    with pytest.raises(ConfigError, match="found 'huge', allowed tiny, small, full"):
        load_config(base, size="huge")


def test_canonical_json_round_trips_and_ignores_spelling(base: Path) -> None:
    config = load_config(base)
    assert parse_config(canonical_json(config)) == config
    spelled = load_config(base, ["train.momentum=0.90", "train.weight_decay=0"])
    assert canonical_json(spelled) == canonical_json(config)


def test_the_hash_follows_content_and_nothing_else(base: Path) -> None:
    reference = config_hash(load_config(base))
    same = ["description='other words'", "sizes.tiny=0.5", "data.path='elsewhere'"]
    other = ["seed=1", "train.epochs=11", "landscape.hessian_probes=8", "grid.seeds=2"]
    assert {config_hash(load_config(base, [o])) for o in same} == {reference}
    assert len({reference, *(config_hash(load_config(base, [o])) for o in other)}) == 5


@given(
    low=st.floats(1e-6, 1e3), factor=st.floats(1.1, 1e6), points=st.integers(2, 40),
    spacing=st.sampled_from(["log", "linear"]),
)  # fmt: skip
def test_ranges_rise_evenly_between_their_ends(
    low: float, factor: float, points: int, spacing: str
) -> None:
    axis = Range.model_validate(
        {"from": low, "to": low * factor, "points": points, "spacing": spacing}
    )
    values = axis.values()
    assert math.isclose(values[0], low, rel_tol=1e-5)
    assert math.isclose(values[-1], low * factor, rel_tol=1e-5)
    transform = math.log if spacing == "log" else float
    steps = [transform(b) - transform(a) for a, b in pairwise(values)]
    scale = max(abs(transform(v)) for v in values)
    assert max(steps) - min(steps) <= 3e-5 * max(scale, 1)


@pytest.mark.parametrize(
    ("override", "fragments"),
    [
        ("grid.axes.train.learning_rate=[true, 0.1]", ["learning_rate", "found True", "number"]),
        ("grid.axes.train.learning_rate=[nan, 0.1]", ["learning_rate", "found nan", "finite"]),
        ("grid.axes.train.learning_rate={from=1,to=1,points=3}", ["learning_rate", "twice"]),
        ("grid.axes.train.learning_rate={from=1,to=2,point=3}", ["did you mean 'points'?"]),
        ("grid.axes.train.learning_rate={from=1,to=2,points=1000000000}", ["points", "100000"]),
        (f"grid.axes.network.width=[{'9' * 400}]", ["network.width", "less than or equal to"]),
        ("landscape.metrics=['beauty']", ["landscape.metrics.0", "'beauty'", "'performance'"]),
        ("landscape.metrics=[]", ["landscape.metrics"]),
    ],
)
def test_subtle_mistakes_are_told_in_one_line(
    base: Path, override: str, fragments: list[str]
) -> None:
    test_mistakes_are_told_in_one_line(base, override, fragments)


SEARCH = "grid.random={members=4,draws={'train.learning_rate'={from=0.01,to=1,spacing='log'}}}"
REFUSED_SEARCHES = {
    "grid.random.members=0": ["grid.random.members", "found 0"],
    "grid.seeds=3": ["random.members: found 4", "multiple of grid.seeds = 3"],
    "grid.axes={'network.width'=[2]}": ["axes: found 'network.width' beside [grid.random]"],
    "grid.load='network.width'": ["load: found 'network.width'"],
    "grid.random.draw=3": ["grid.random.draw", "unknown key", "did you mean 'draws'?"],
    "grid.random.draws={}": ["grid.random.draws", "found none"],
    "grid.random.draws.train.learning_rate=3": ["learning_rate", "found 3", "a list of values"],
    "grid.random.draws.train.learning_rate=[]": ["learning_rate", "empty"],
    "grid.random.draws.train.learning_rate=[-1]": ["learning_rate", "found -1"],
    "grid.random.draws.train.learning_rate={from=0,to=1,spacing='log'}": ["log axis needs > 0"],
    "grid.random.draws.train.learning_rate={from=1}": ["learning_rate", "found one end"],
    "grid.random.draws.train.learning_rate={form=1,to=2}": ["did you mean 'from'?"],
    "grid.random.draws.train.learning_rate={from=1,to=2,values=[3]}": ["both of values and"],
    "grid.random.draws.train.learning_rat=[1]": ["did you mean 'train.learning_rate'?"],
    "grid.random.draws.network.width={from=2,to=8}": [
        "'network.width'", "range without points", "points = N",
    ],
    "grid.random.draws.network.width={values=[2],where={'network.depth'=[1]}}": [
        "'network.width'.where", "found 'network.depth'", "there is none",
    ],
    "grid.random.draws={'network.width'=[2],'train.momentum'={values=[0],"
    "where={'network.width'=[3]}}}": ["where.'network.width'", "found 3, allowed 2"],
}  # fmt: skip


@pytest.mark.parametrize(("override", "fragments"), REFUSED_SEARCHES.items(), ids=REFUSED_SEARCHES)
def test_mistakes_in_a_random_search_are_told_in_one_line(
    base: Path, override: str, fragments: list[str]
) -> None:
    table = base.read_text().split("[grid]")[0] + "[grid]\n"
    base.write_text(table)
    assert load_config(base, [SEARCH]).grid.random is not None
    with pytest.raises(ConfigError) as caught:
        load_config(base, [SEARCH, override])
    message = str(caught.value)
    assert "\n" not in message
    for fragment in fragments:
        assert fragment in message


@pytest.mark.parametrize(("scale", "members"), [(0.25, 26), (1.0, 100), (30, 3000)])
def test_sizes_scale_the_members_of_a_search(base: Path, scale: float, members: int) -> None:
    base.write_text(base.read_text().split("[grid]")[0])
    config = load_config(base, [SEARCH, "grid.random.members=100", "grid.seeds=2",
                                f"sizes.full={scale}"], "full")  # fmt: skip
    assert config.grid.random is not None
    assert (config.grid.random.members, config.grid.seeds) == (members, 2)
    assert parse_config(canonical_json(config)) == config


def test_keys_with_dots_can_be_overridden(base: Path) -> None:
    config = load_config(base, ["data.sha256.train-images.gz=ab", "grid.axes.train.epochs=[5, 8]"])
    assert config.data.sha256 == {"train-images.gz": "ab"}
    assert config.axis_values()["train.epochs"] == (5, 8)


def test_an_override_sets_one_key_only(base: Path) -> None:
    with pytest.raises(ConfigError, match=r"train\.epochs: found"):
        load_config(base, ["train.epochs=3\nfoo=4"])
