"""Generators of weights: fitted on a part of a population, they make new members of it."""

from zoogen.generators.compaction import Code, decode, encode, encode_by_task
from zoogen.generators.conditions import Conditioning, conditioning_of, parse_wish
from zoogen.generators.config import GeneratorConfig
from zoogen.generators.generator import Effort, Fittable, Generator, Request, Source
from zoogen.generators.parts import Parts, Shares, split_runs
from zoogen.generators.population import Parted, Population, parted, population_of
from zoogen.generators.run import (
    Run,
    open_run,
    parts_of,
    population_digest,
    sample_zoo,
    train_generator,
)
from zoogen.generators.table import GENERATORS

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
