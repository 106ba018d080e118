"""The command line: what it prints, and how it ends when users err or interrupt."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from zoogen import store
from zoogen.landscape import METRICS
from zoogen.testing import truncate
from zoogen.zoo import open_zoo

Run = Callable[..., tuple[int, str, str]]


COMMANDS = (
    "plan", "generate", "measure", "label", "info", "verify", "report", "train-model",
    "leaderboard",
)  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help_and_json(run: Run, command: str) -> None:
    code, out, _ = run(command, "--help")
    assert code == 0
    assert "--json" in out
    if command in {"plan", "generate"}:
        assert "--set" in out
        assert "--size" in out


def test_plan_counts_without_working(run: Run, tiny_config: Path) -> None:
    code, out, _ = run("plan", tiny_config)
    assert code == 0
    assert "2 cohorts, 4 cells × 2 seeds = 8 members" in out
    code, out, _ = run("plan", tiny_config, "--json")
    plan = json.loads(out)
    assert [row["parameters"] for row in plan["per_cohort"]] == [
        64 * w + w + 10 * w + 10 for w in (4, 8)
    ]
    assert plan["bytes"] == 4 * 4 * 4 * sum(row["parameters"] for row in plan["per_cohort"])
    assert plan["seconds"] > 0


def test_a_huge_grid_is_planned_with_a_warning_and_not_generated(
    run: Run, tiny_config: Path, tmp_path: Path
) -> None:
    huge = ("--set", "grid.seeds=1000000000")
    code, out, _ = run("plan", tiny_config, *huge)
    assert code == 0
    assert "4,000,000,000 members" in out
    assert "WARNING" in out
    code, _, err = run("generate", tiny_config, "--out", tmp_path / "z.zarr", *huge)
    assert code == 2
    assert "4,000,000,000 members" in err
    assert not (tmp_path / "z.zarr").exists()


def test_info_label_verify_tell_the_same_story(run: Run, copied_zoo: Path) -> None:
    zoo = open_zoo(copied_zoo)
    code, out, _ = run("info", copied_zoo)
    assert code == 0
    assert "8 of 8 members in 2 cohorts, complete" in out
    facts = json.loads(run("info", copied_zoo, "--json")[1])
    assert facts["content_hash"] == zoo.reader.manifest.content_hash()
    assert facts["ranges"]["test_accuracy"][2] == pytest.approx(zoo.members["test_accuracy"].max())
    assert sum(facts["coverage"]["members"].values()) == 8
    assert facts["coverage"] == json.loads(run("label", copied_zoo, "--json")[1])["coverage"]
    code, out, _ = run("verify", copied_zoo)
    assert (code, "intact" in out) == (0, True)


def test_verify_and_repair_exit_codes(run: Run, copied_zoo: Path) -> None:
    shard = max(
        (p for p in copied_zoo.rglob("c/**/*") if p.is_file()), key=lambda p: p.stat().st_size
    )
    truncate(shard, 10)
    code, out, _ = run("verify", copied_zoo)
    assert code == 3
    assert str(shard.relative_to(copied_zoo)) in out
    code, out, _ = run("verify", copied_zoo, "--repair")
    assert code == 0
    assert "zoogen generate" in out
    code, out, _ = run("info", copied_zoo)
    assert "INCOMPLETE" in out


def test_the_page_of_metrics_is_made_from_the_table(run: Run) -> None:
    page = Path(__file__).parent.parent / "docs" / "metrics.md"
    assert run("metrics", "--markdown")[1] == page.read_text(), "run `zoogen metrics --markdown`"
    assert {m["name"] for m in json.loads(run("metrics", "--json")[1])} == set(METRICS)
    assert "hessian_trace" in run("metrics")[1]


def test_measure_adds_a_run(run: Run, copied_zoo: Path) -> None:
    code, _, err = run("measure", copied_zoo, "--metrics", "weights")
    assert code == 0
    assert "measure: 8/8 members" in err
    assert len(open_zoo(copied_zoo).reader.manifest.runs) == 2


def test_report_draws_and_names_its_files(run: Run, tiny_zoo: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    code, out, _ = run("report", tiny_zoo, "--out", tmp_path / "report")
    assert code == 0
    files = [Path(line) for line in out.splitlines()]
    assert {f.suffix for f in files} == {".png", ".svg", ".md"}
    assert all(f.stat().st_size > 500 for f in files)


COMPARISON = """
name = "toy"
readers = ["pca-ridge"]
[task]
target = "test_accuracy"
snapshots = "all"
padding = true
[split]
by = "seed"
test = 0.3
validation = 0.3
[tuning]
trials = 1
"""


@pytest.fixture
def comparison(tmp_path: Path) -> Path:
    """A comparison of closed readers on the tiny zoo."""
    path = tmp_path / "toy.toml"
    path.write_text(COMPARISON)
    return path


def test_models_are_trained_and_compared(
    run: Run, comparison: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "toy"
    command = ["train-model", comparison, "--zoo", tiny_zoo, "--out", out, "--set", "seeds=2"]
    code, text, err = run(*command)
    assert code == 0, err
    assert "train-model: 6/6 fits" in err
    assert "| hyper-parameters (ceiling" in text
    rows = {path: path.read_bytes() for path in (out / "rows").iterdir()}
    code, again, err = run(*command)  # nothing is left to do
    assert (code, again, err) == (0, text, "")
    assert {path: path.read_bytes() for path in (out / "rows").iterdir()} == rows
    assert run("leaderboard", out)[1] == text
    board = json.loads(run("leaderboard", out, "--json")[1])["boards"][0]
    assert {r["reader"] for r in board["readers"]} == {"mean", "hyper-parameters", "pca-ridge"}
    assert board["task"]["sides"].keys() == {"train", "validation", "test"}


# ---------------------------------------------------------------------------------- users' mistakes
def mistakes(config: Path, zoo: Path, tmp: Path) -> dict[str, tuple[list[object], int, str]]:
    file = tmp / "file"
    file.write_text("not a zoo")
    other = tmp / "other"
    other.mkdir()
    (other / "thesis.tex").write_text("precious")
    runs = [tmp / "generator", tmp / "readers"]
    for run, facts in zip(runs, ({"format": 3, "run": {}}, {"format": 1, "task": {}}), strict=True):
        run.mkdir()
        (run / "run.json").write_text(json.dumps(facts))
    out = ["generate", config, "--out"]
    idx = ["--set", "data.source=idx", "--set", f"data.path={tmp}/nowhere"]
    npz = ["--set", "data.source=npz", "--set", f"data.path={file}"]
    tfds = ["--set", "data.source=tfds:fashion_mnst"]
    return {
        "no config": (["plan", tmp / "none.toml"], 3, "no such config"),
        "no command": (["fly"], 2, "fly"),
        "no such option": (["info", zoo, "--fast"], 2, "--fast"),
        "missing option": (["generate", config], 2, "--out"),
        "misspelt key": (["plan", config, "--set", "train.epoch=3"], 2, "did you mean 'epochs'?"),
        "wrong type": (["plan", config, "--set", "train.epochs='x'"], 2, "found 'x'"),
        "no such size": (["plan", config, "--size", "huge"], 2, "found 'huge', allowed tiny"),
        "batch too large": (["plan", config, "--set", "train.batch_size=999"], 2, "batch_size"),
        "image too small": (["plan", config, "--set", "network.family=lenet", "--set",
                             "network={family='lenet'}"], 2, "lenet"),
        "no data": (["plan", config, *idx], 3, "nowhere"),
        "no npz": ([*out, tmp / "n.zarr", *npz], 3, str(file)),
        "misspelt data set": (["plan", config, *tfds], 3, "fashion_mnist"),
        "no zoo": (["info", tmp / "none.zarr"], 3, "none.zarr"),
        "a file is no zoo": (["info", file], 3, str(file)),
        "a directory is no zoo": (["info", other], 3, str(other)),
        "out is a file": ([*out, file], 3, str(file)),
        "out is precious": ([*out, other], 3, "thesis.tex"),
        "out is another zoo": ([*out, zoo, "--set", "seed=5"], 3, "choose another path"),
        "out is unwritable": ([*out, "/proc/zoo.zarr"], 3, "/proc/zoo.zarr"),
        "no such metric": (["measure", zoo, "--metrics", "beauty"], 2, "found 'beauty'"),
        "no such rule": (["label", zoo, "--rule", "taxonomie"], 3, "taxonomy"),
        "no comparison": (["train-model", tmp / "none.toml", "--zoo", zoo], 3, "no such config"),
        "a zoo's config": (["train-model", config, "--zoo", zoo], 2, "zoogen generate"),
        "a run of a generator": (["leaderboard", runs[0]], 3, "is not that of a run"),
        "a run of readers": (["sample", runs[1], "--out", tmp / "s"], 3, "zoogen leaderboard"),
        "no run": (["leaderboard", other], 3, "no run of `zoogen train-model`"),
    }  # fmt: skip


def test_mistakes_give_one_line_and_the_right_code(
    run: Run, tiny_config: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    for name, (arguments, expected, fragment) in mistakes(tiny_config, tiny_zoo, tmp_path).items():
        code, _, err = run(*arguments)
        assert code == expected, (name, err)
        assert fragment in err, (name, err)
        assert "Traceback" not in err, name
        if expected == 3:
            assert len(err.strip().splitlines()) <= 8, (name, err)
    assert (tmp_path / "other" / "thesis.tex").read_text() == "precious"


def test_a_newer_format_is_refused(run: Run, copied_zoo: Path) -> None:
    manifest = copied_zoo / "manifest.json"
    changed = json.loads(manifest.read_text())
    changed["format_version"] = 99
    manifest.write_text(json.dumps(changed))
    code, _, err = run("info", copied_zoo)
    assert code == 3
    assert "99" in err
    assert "upgrade" in err


def test_a_second_writer_is_told_of_the_first(
    run: Run, tiny_config: Path, copied_zoo: Path
) -> None:
    with store.ZooWriter.open(copied_zoo, {}):
        code, _, err = run("generate", tiny_config, "--out", copied_zoo)
    assert code == 3
    assert str(os.getpid()) in err


# -------------------------------------------------------------------------------------- interrupts
@pytest.mark.slow
@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_interrupts_keep_what_is_committed(
    run: Run, tiny_config: Path, tiny_zoo: Path, tmp_path: Path, number: int, expected: int
) -> None:
    zoo = tmp_path / "z.zarr"
    command = [sys.executable, "-m", "zoogen", "generate", str(tiny_config), "--out", str(zoo)]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    committed = list(zoo.glob("training/*/weights/c"))
    deadline = time.monotonic() + 120
    while not committed and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
        committed = list(zoo.glob("training/*/weights/c"))
    process.send_signal(number)
    _, err = process.communicate(timeout=120)
    assert process.returncode == expected, err
    assert "the same command resumes" in err
    assert "Traceback" not in err
    assert not [p for p in store.verify(zoo) if p.kind == "damaged"]
    assert run("generate", tiny_config, "--out", zoo)[0] == 0
    hashes = {open_zoo(z).reader.manifest.content_hash() for z in (zoo, tiny_zoo)}
    assert len(hashes) == 1


@pytest.mark.slow
def test_an_interrupted_comparison_keeps_finished_rows(
    comparison: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    out = tmp_path / "toy"
    command = [sys.executable, "-m", "zoogen", "train-model", str(comparison), "--out", str(out)]
    long = ["readers=['flat-mlp']", "training.steps=10000000", "training.looks=100000"]
    command += ["--zoo", str(tiny_zoo), *(word for text in long for word in ("--set", text))]
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
    deadline = time.monotonic() + 240
    while not (out / "rows" / "hyper-parameters-trial0-seed2.json").exists():
        time.sleep(0.05)
        assert time.monotonic() < deadline
        assert process.poll() is None
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "the same command resumes" in err
    assert "Traceback" not in err
    assert len(list((out / "rows").glob("*.json"))) == 6
