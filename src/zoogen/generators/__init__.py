"""Generators of weights: fitted on a part of a population, they make new members of it."""

from typing import TYPE_CHECKING

from zoogen.lazy import lazily

if TYPE_CHECKING:
    from zoogen.generators.compaction import Code, decode, encode, encode_by_task
    from zoogen.generators.conditions import Conditioning, conditioning_of, parse_wish
    from zoogen.generators.config import GeneratorConfig
    from zoogen.generators.generator import Effort, Fittable, Generator, Request, Source
    from zoogen.generators.options import generator_of, load_generator
    from zoogen.generators.parts import Parts, Shares, split_runs
    from zoogen.generators.population import Parted, Population, parted, population_of
    from zoogen.generators.run import Run, open_run
    from zoogen.generators.sampled import sample_zoo
    from zoogen.generators.table import GENERATORS
    from zoogen.generators.training import parts_of, population_digest, train_generator
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "GENERATORS",
    "Code",
    "Conditioning",
    "Effort",
    "Fittable",
    "Generator",
    "GeneratorConfig",
    "Parted",
    "Parts",
    "Population",
    "Request",
    "Run",
    "Shares",
    "Source",
    "conditioning_of",
    "decode",
    "encode",
    "encode_by_task",
    "generator_of",
    "load_generator",
    "open_run",
    "parse_wish",
    "parted",
    "parts_of",
    "population_digest",
    "population_of",
    "sample_zoo",
    "split_runs",
    "train_generator",
]
