"""Generate zoos while being killed: prints what was found after every SIGKILL as JSON.

Usage: python kill_worker.py CONFIG DIRECTORY KILLS. All work is done in forked children, so that
each starts with everything imported but neither JAX nor tensorstore running.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zoogen import factory, present, store
from zoogen.train import block
from zoogen.zoo import open_zoo


def attempt(config: Path, zoo: Path, delay: float) -> bool:
    """Run `generate` in a child and kill it after a delay; whether it finished before."""
    child = os.fork()
    if child == 0:
        block.SPAN_SECONDS, block.CHECKPOINT_SECONDS = 1e-6, 0.2
        factory.generate(config, zoo)
        os._exit(0)
    deadline = time.monotonic() + delay
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if status:
                raise RuntimeError(f"generate failed with status {status}")
            return True
        time.sleep(0.01)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return False


def in_child(look: Callable[[], Any]) -> Any:
    """What a function finds, called in a child; plain JSON."""
    end, begin = os.pipe()
    child = os.fork()
    if child == 0:
        with os.fdopen(begin, "w") as pipe:
            json.dump(look(), pipe)
            pipe.flush()
            os._exit(0)
    os.close(begin)
    with os.fdopen(end) as pipe:
        found = pipe.read()
    os.waitpid(child, 0)
    return json.loads(found)


def inspect(zoo: Path) -> dict[str, list[str]]:
    """What is wrong with a zoo that a kill left behind."""
    if not (zoo / "manifest.json").exists():
        return {"unreadable": [], "damaged": []}  # killed before the first commit
    try:
        present.info_text(open_zoo(zoo))
        damaged = [str(p) for p in store.verify(zoo) if p.kind == "damaged"]
    except Exception as error:
        return {"unreadable": [repr(error)], "damaged": []}
    return {"unreadable": [], "damaged": damaged}


def main(config: Path, directory: Path, kills: int) -> None:
    rng = random.Random(0)
    found: dict[str, Any] = {"kills": 0, "unreadable": [], "damaged": [], "hashes": []}
    zoo, number = directory / "0.zarr", 0
    while found["kills"] < kills:
        if attempt(config, zoo, rng.uniform(0.5, 8.0)):
            found["hashes"].append(in_child(lambda z=zoo: content_hash(z)))
            number += 1
            zoo = directory / f"{number}.zarr"
            continue
        found["kills"] += 1
        for kind, problems in in_child(lambda z=zoo: inspect(z)).items():
            found[kind] += problems
    attempt(config, zoo, 600.0)
    found["hashes"].append(in_child(lambda: content_hash(zoo)))
    print(json.dumps(found))


def content_hash(zoo: Path) -> str:
    return open_zoo(zoo).reader.manifest.content_hash()


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]))
