"""Tuning: the options that a reader is tried with, as many for one reader as for another."""

from __future__ import annotations

import random
from collections.abc import Mapping
from itertools import product
from math import prod
from typing import Any

Space = Mapping[str, tuple[Any, ...]]

_LISTED = 10_000  # combinations up to which all are listed


def trials_of(name: str, space: Space, trials: int, seed: int) -> list[dict[str, Any]]:
    """Options to try: the defaults, then seeded random ones, none twice.

    The first trials of a longer list are those of a shorter one.

    Args:
        name: of the reader, on which the draws depend.
        space: option → values, the default first.
        trials: how many; fewer where a space has fewer combinations.
        seed: of the draws.

    Example:
        >>> trials_of("flat", {"rate": (0.1, 0.2), "depth": (1, 2, 3)}, 3, 0)
        [{'rate': 0.1, 'depth': 1}, {'rate': 0.2, 'depth': 2}, {'rate': 0.2, 'depth': 1}]
    """
    draw = random.Random(f"{seed}/{name}")
    found = [{option: values[0] for option, values in space.items()}]
    combinations = prod(len(values) for values in space.values())
    if combinations <= _LISTED:
        options = [dict(zip(space, chosen, strict=True)) for chosen in product(*space.values())]
        draw.shuffle(options)
        return [*found, *(o for o in options if o != found[0])][:trials]
    while len(found) < trials:
        drawn = {option: draw.choice(values) for option, values in space.items()}
        if drawn not in found:
            found.append(drawn)
    return found
