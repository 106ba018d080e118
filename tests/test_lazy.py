"""Lazy: public names come when they are asked for, help and mistakes without JAX."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

import pytest

LAZY = ("evaluate", "generators", "landscape", "phases", "store", "studies")
HEAVY = ("jax", "matplotlib", "optax", "orbax", "pandas", "pyarrow", "sklearn", "tensorstore")


@pytest.mark.parametrize("package", ["zoogen", *(f"zoogen.{name}" for name in LAZY)])
def test_every_public_name_is_there_and_no_other(package: str) -> None:
    module = import_module(package)
    assert all(getattr(module, name) is not None for name in module.__all__)
    assert set(module.__all__) - {"__version__"} == set(dir(module))
    with pytest.raises(AttributeError, match=rf"{package}.* has no attribute 'nonsense'"):
        _ = module.nonsense


@pytest.mark.parametrize("package", LAZY)
def test_no_public_name_is_that_of_a_module(package: str) -> None:
    """Importing the module would put it in the name's place."""
    module = import_module(f"zoogen.{package}")
    assert not {found.name for found in iter_modules(module.__path__)} & set(module.__all__)


SCRIPT = """
import json, sys
from zoogen.cli import main
for arguments in json.loads(sys.argv[1]):
    try:
        main(arguments)
    except SystemExit as end:
        heavy = sorted(set(json.loads(sys.argv[2])) & set(sys.modules))
        print(json.dumps([arguments, end.code, heavy]), file=sys.stderr)
"""


def test_help_and_mistakes_import_nothing_that_takes_seconds(
    tiny_config: Path, tiny_zoo: Path, tmp_path: Path
) -> None:
    wrong = tmp_path / "wrong.toml"
    wrong.write_text('name = "a"\ngenerator = "flow"\n[options]\nchanels = 3')
    zoo, out = ["--zoo", str(tiny_zoo)], ["--out", str(tmp_path / "out")]
    asked = {
        "help": [["--help"], ["study", "--help"], ["train-model", "--help"], ["sample", "--help"]],
        "mistakes": [
            ["plan", "none.toml"],
            ["generate", str(tiny_config), *out, "--set", "train.epoch=3"],
            ["generate", str(tiny_config), *out, "--size", "huge"],
            ["generate", str(tiny_config), *out, "--require-coverage", "V"],
            ["info", "none.zarr"],
            ["verify", "none.zarr"],
            ["measure", str(tiny_zoo), "--metrics", "beauty"],
            ["label", str(tiny_zoo), "--rule", "none"],
            ["study", "none", str(tiny_zoo)],
            ["train-generator", "none.toml", *zoo, *out],
            ["train-generator", str(wrong), *zoo, *out],
            ["train-model", str(wrong), *zoo],
            ["sample", "none", *out],
            ["evaluate-generator", "none", *zoo],
        ],
    }
    commands = [command for kind in asked.values() for command in kind]
    told = [sys.executable, "-c", SCRIPT, json.dumps(commands), json.dumps(HEAVY)]
    lines = subprocess.run(told, capture_output=True, text=True, check=True).stderr.splitlines()
    ends = [json.loads(line) for line in lines if line.startswith("[")]
    assert [command for command, *_ in ends] == commands
    for command, code, heavy in ends:
        assert (code == 0) == (command in asked["help"]), command
        assert heavy == [], command
    assert not (tmp_path / "out").exists()
