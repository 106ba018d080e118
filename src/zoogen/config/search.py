"""The cells of a random search: the values of every draw, and which draws share a program."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from zoogen.config.axes import Scalar
from zoogen.config.draws import RandomConfig
from zoogen.config.schema import PER_MEMBER_PARAMETERS, Config
from zoogen.errors import ConfigError

PROGRAM_LIMIT = 100_000

Values = Mapping[str, Scalar]


@dataclass(frozen=True)
class Draws:
    """The cells of a random search, by number.

    Hyper-parameters that need a program of their own take turns, so that cohorts are of one size
    (and of one shape, which saves compilations); all others are drawn.

    Attributes:
        random: what is drawn.
        choices: hyper-parameter → all that can be drawn; ``None`` for a range without points.
        seeds: members per cell.
    """

    random: RandomConfig
    choices: Mapping[str, tuple[Scalar, ...] | None]
    seeds: int

    @classmethod
    def of(cls, config: Config) -> Draws | None:
        """The draws that a config describes, if it describes a random search.

        Raises:
            ConfigError: if their lists make too many programs.
        """
        random = config.grid.random
        if random is None:
            return None
        draws = cls(random, config.draw_values(), config.grid.seeds)
        if draws._turns > PROGRAM_LIMIT:
            raise ConfigError(
                f"config {config.name!r}: grid.random: {', '.join(draws._listed)} make "
                f"{draws._turns:,} programs, more than {PROGRAM_LIMIT:,}; take values off"
            )
        return draws

    @property
    def count(self) -> int:
        """Cells in all."""
        return self.random.members // self.seeds

    @cached_property
    def programs(self) -> tuple[Values, ...]:
        """Static hyper-parameters of one cohort after another, each of them once."""
        return tuple(dict(items) for items in self._places)

    def program(self, number: int) -> int:
        """The place in ``programs`` of the cohort that a draw belongs to."""
        return self._places[self._static(number)]

    def of_member(self, number: int) -> Values:
        """Hyper-parameters of a draw that are arrays over members."""
        values = self._values(number)
        return {key: v for key, v in values.items() if key in PER_MEMBER_PARAMETERS}

    @cached_property
    def _turns(self) -> int:
        return math.prod(len(choices) for choices in self._listed.values())

    @cached_property
    def _listed(self) -> dict[str, tuple[Scalar, ...]]:
        """The lists that take turns, in an order that the config's has no influence on."""
        lists = sorted((key, choices) for key, choices in self.choices.items() if choices)
        return {key: choices for key, choices in lists if key not in PER_MEMBER_PARAMETERS}

    @cached_property
    def _stride(self) -> int:
        """From one turn to the next: golden, so that even a few draws differ in every list."""
        begin = round(self._turns / 1.618)
        return next(s for s in range(begin, 2 * begin + 2) if math.gcd(s, self._turns) == 1)

    @cached_property
    def _places(self) -> dict[tuple[tuple[str, Scalar], ...], int]:
        """Programs → their place: turns differ in a hyper-parameter that its condition drops."""
        numbers = range(min(self._turns, self.count))
        return {static: i for i, static in enumerate(dict.fromkeys(map(self._static, numbers)))}

    def _static(self, number: int) -> tuple[tuple[str, Scalar], ...]:
        values = self._values(number).items()
        return tuple((key, value) for key, value in values if key not in PER_MEMBER_PARAMETERS)

    def _values(self, number: int) -> dict[str, Scalar]:
        """All hyper-parameters of a draw whose condition is met."""
        turn, values = number * self._stride % self._turns, dict[str, Scalar]()
        for key, choices in self._listed.items():
            turn, place = divmod(turn, len(choices))
            values[key] = choices[place]
        for key in self.choices.keys() - self._listed.keys():
            values[key] = self._drawn(key, self.random.share(number, key))
        return {key: values[key] for key in self.choices if self.random.meets(values, key)}

    def _drawn(self, key: str, share: float) -> Scalar:
        choices = self.choices[key]
        if choices is None:
            return self.random.draws[key].at(share)
        return choices[int(share * len(choices))]
