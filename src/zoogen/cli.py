"""The command line: parse, call, print. A user's mistake is one line, never a traceback."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from zoogen.errors import ZoogenError
from zoogen.interrupts import Interrupted, Interrupts
from zoogen.progress import Reporter, bar, console_reporter, silent
from zoogen.version import __version__

app = typer.Typer(
    name="zoogen",
    help="A factory for populations of trained neural networks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

_interrupts = Interrupts()


def _reporter() -> Reporter:
    return _interrupts.watched(console_reporter())


# Commands read and check what they are told before they import JAX and what stands on it, which
# takes seconds.
def _checked_zoo(path: Path | None) -> Path | None:
    from zoogen.store.manifest import load

    if path is not None:
        load(path.resolve())
    return path


def _checked_rule(name: str | None) -> str | None:
    from zoogen.phases import load_rule

    if name is not None:
        load_rule(name)
    return name


ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file of the zoo.")]
ZooPath = Annotated[
    Path, typer.Argument(metavar="ZOO", help="Directory of the zoo.", callback=_checked_zoo)
]
OfZoo = Annotated[
    Path,
    typer.Option("--zoo", metavar="ZOO", help="Directory of the zoo.", callback=_checked_zoo),
]
Overrides = Annotated[
    list[str],
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change a value of the config."),
]
OfSampling = Annotated[
    list[str],
    typer.Option("--set", metavar="OPTION=VALUE", help="Of sampling, as method=sde; repeatable."),
]
Size = Annotated[
    str | None,
    typer.Option("--size", help="tiny, small or full: an entry of the config's [sizes]."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON for machines.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def plan(
    config: ConfigPath, set_: Overrides = [], size: Size = None, as_json: AsJson = False
) -> None:
    """Show cohorts, members, parameters, bytes and rough time; does no work."""
    from zoogen.config import load_config

    told = load_config(config, set_, size)
    from zoogen import factory, present
    from zoogen.data import load
    from zoogen.estimate import estimate
    from zoogen.population import use_all_cores

    use_all_cores()
    planned = factory.plan(told)
    cost = estimate(planned, load(planned.config.data))
    _print(present.plan_json(cost) if as_json else present.plan_text(cost), as_json)


@app.command()
def generate(
    config: ConfigPath,
    out: Annotated[Path, typer.Option("--out", metavar="ZOO", help="Directory of the zoo.")],
    set_: Overrides = [],
    size: Size = None,
    require_coverage: Annotated[
        str | None,
        typer.Option(metavar="PHASES", help="Fail (3) if one of I,II,III,IV-A,IV-B has no cell."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Train, measure, label and store; the same command resumes a run that was killed."""
    from zoogen.config import load_config

    told = load_config(config, set_, size)
    from zoogen.phases import phase_names

    required = () if require_coverage is None else phase_names(require_coverage)
    from zoogen import factory, labelling, present

    zoo = factory.generate(told, out, _reporter())
    _print(present.info_json(zoo) if as_json else present.coverage_text(zoo), as_json)
    labelling.require_coverage(zoo, required)


@app.command()
def measure(
    zoo: ZooPath,
    metrics: Annotated[
        str | None,
        typer.Option(help="Groups of metrics, comma-separated; those of the config by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Add or recompute landscape metrics of a stored zoo."""
    from zoogen.landscape.metrics import checked_groups

    names = None if metrics is None else [name.strip() for name in metrics.split(",")]
    groups = None if names is None else checked_groups(names)
    from zoogen import factory, present

    measured = factory.measure(zoo, groups, _reporter())
    _print(present.info_json(measured) if as_json else present.info_text(measured), as_json)


@app.command()
def metrics(
    markdown: Annotated[
        bool, typer.Option("--markdown", help="Print the page docs/metrics.md.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """List the metrics that zoogen takes, by group: definition, unit, range, reference."""
    from zoogen import present

    text = present.metrics_markdown() if markdown else present.metrics_text()
    _print(present.metrics_json() if as_json else text, as_json)


@app.command()
def label(
    zoo: ZooPath,
    rule: Annotated[
        str | None,
        typer.Option(
            help="Name or TOML file of a rule; the config's by default.", callback=_checked_rule
        ),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Derive phases from the stored metrics and print the coverage table."""
    from zoogen import factory, present

    labelled = factory.label(zoo, rule)
    _print(present.coverage_json(labelled) if as_json else present.coverage_text(labelled), as_json)


@app.command()
def refine(
    zoo: ZooPath,
    budget: Annotated[int, typer.Option(metavar="N", help="Most cells to add.")],
    rule: Annotated[
        str | None,
        typer.Option(
            help="TOML file of the labels' rule, if zoogen does not ship it.",
            callback=_checked_rule,
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the cells and do no work.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Add cells where phases change or are uncertain; train, measure and label them."""
    from zoogen import factory, present
    from zoogen.zoo import open_zoo

    if dry_run:
        found = factory.proposals(zoo, budget, rule)
        text = present.proposals_json(found) if as_json else present.proposals_text(found)
        _print(text, as_json)
        return
    before = open_zoo(zoo)
    refined = factory.refine(zoo, budget, rule, _reporter())
    text = present.refined_text(refined, before)
    _print(present.info_json(refined) if as_json else text, as_json)


@app.command()
def info(zoo: ZooPath, as_json: AsJson = False) -> None:
    """One screen: what it is, sizes, ranges of accuracy, phases, completeness."""
    from zoogen import present
    from zoogen.zoo import open_zoo

    opened = open_zoo(zoo)
    _print(present.info_json(opened) if as_json else present.info_text(opened), as_json)


@app.command()
def verify(
    zoo: Annotated[Path, typer.Argument(metavar="ZOO", help="Directory of the zoo.")],
    repair: Annotated[
        bool, typer.Option("--repair", help="Drop damaged parts, so that generate makes them anew.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Check every byte against the manifest."""
    from zoogen import present, store

    actions = store.repair(zoo) if repair else []
    problems = store.verify(zoo)
    _print(
        present.verify_json(actions, problems)
        if as_json
        else present.verify_text(zoo, actions, problems),
        as_json,
    )
    if present.is_damaged(problems):
        raise typer.Exit(3)


@app.command()
def report(
    zoo: ZooPath,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to; ZOO_report by default.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Draw phase diagrams, cuts and trajectories (PNG, SVG); write the datacard (Markdown)."""
    from zoogen.report import write_report
    from zoogen.zoo import open_zoo

    directory = out or zoo.with_name(f"{zoo.stem}_report")
    files = [str(path) for path in write_report(open_zoo(zoo), directory)]
    _print({"files": files} if as_json else "\n".join(files), as_json)


class _ListsStudies(TyperCommand):
    """A command whose help ends with the table of studies, read when it is asked for."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from zoogen.studies import STUDIES

        with formatter.section("Studies"):
            formatter.write_dl([(name, kind.definition) for name, kind in STUDIES.items()])


@app.command(cls=_ListsStudies)
def study(
    name: Annotated[str, typer.Argument(metavar="NAME", help="One of the studies below.")],
    zoo: ZooPath,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to; ZOO_studies by default.")
    ] = None,
    set_: Annotated[
        list[str],
        typer.Option(
            "--set",
            metavar="SECTION.KEY=VALUE",
            help="fine-tune: the data set, and changes to the training, as in a config.",
        ),
    ] = [],
    as_json: AsJson = False,
) -> None:
    """Average, ensemble, prune or fine-tune the members; write a table (CSV) and diagrams."""
    from zoogen import studies

    studies.kind_of(name)
    from zoogen import present
    from zoogen.population import use_all_cores
    from zoogen.zoo import open_zoo

    directory = _writable(out or zoo.with_name(f"{zoo.stem}_studies"))
    use_all_cores()
    reporter = _interrupts.watched(bar if sys.stderr.isatty() else silent)
    found = studies.run_study(name, open_zoo(zoo), set_, reporter)
    files = studies.write_study(found, directory)
    _print(
        present.study_json(found, files) if as_json else present.study_text(found, files), as_json
    )


@app.command()
def sparsify(
    zoo: ZooPath,
    out: Annotated[Path, typer.Option("--out", metavar="TWIN", help="Directory of the twin.")],
    sparsity: Annotated[
        float, typer.Option(help="Share of the weights that become zero, between 0 and 1.")
    ],
    gradual: Annotated[bool, typer.Option("--gradual", help="Prune in rounds.")] = False,
    epochs: Annotated[
        int | None,
        typer.Option(min=1, help="Epochs of retraining; half of the training by default."),
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write a zoo of the same members dense, pruned and retrained; the same command resumes."""
    from zoogen import factory, present, studies
    from zoogen.population import use_all_cores
    from zoogen.zoo import open_zoo

    use_all_cores()
    pruning = studies.Pruning(sparsity, studies.ROUNDS if gradual else 1, epochs)
    studies.sparsify(open_zoo(zoo), out, pruning, _reporter())
    twin = factory.complete(out, _reporter())
    _print(present.info_json(twin) if as_json else present.info_text(twin), as_json)


@app.command("train-generator")
def train_generator(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file of the generator.")],
    zoo: OfZoo,
    out: Annotated[Path, typer.Option("--out", metavar="RUN", help="Directory of the run.")],
    set_: Overrides = [],
    as_json: AsJson = False,
) -> None:
    """Fit a generator of weights on the training members; the same command resumes."""
    from zoogen import generators

    told = generators.load_generator(config, set_)
    from zoogen import present
    from zoogen.zoo import open_zoo

    run = generators.train_generator(told, open_zoo(zoo), out, _reporter())
    _print(present.run_json(run) if as_json else present.run_text(run), as_json)


@app.command()
def sample(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="Directory of a fitted generator.")],
    out: Annotated[Path, typer.Option("--out", metavar="ZOO", help="Directory of the new zoo.")],
    count: Annotated[int, typer.Option("-n", min=1, help="Networks.")] = 1000,
    condition: Annotated[
        list[str],
        typer.Option("--condition", metavar="NAME=VALUE", help="As in phase=IV-B; repeatable."),
    ] = [],
    set_: OfSampling = [],
    seed: Annotated[int, typer.Option(min=0, max=2**31 - 1, help="Of all noise.")] = 0,
    as_json: AsJson = False,
) -> None:
    """Sample networks from a fitted generator as a zoo, measured and labelled."""
    from zoogen import generators
    from zoogen.config import parse_options

    wish, options = generators.parse_wish(condition), parse_options(set_)
    fitted = generators.open_run(run)
    fitted.check(wish, options)
    from zoogen import factory, present
    from zoogen.population import use_all_cores

    use_all_cores()
    generators.sample_zoo(fitted, count, out, seed, wish, options)
    made = factory.complete(out, _reporter())
    _print(present.info_json(made) if as_json else present.info_text(made), as_json)


@app.command("evaluate-generator")
def evaluate_generator(
    run: Annotated[
        list[Path], typer.Argument(metavar="RUN...", help="Fitted generators of one population.")
    ],
    zoo: OfZoo,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Where to; RUN/report by default.")
    ] = None,
    samples: Annotated[int, typer.Option("-n", min=1, help="Networks of each, unselected.")] = 501,
    seeds: Annotated[int, typer.Option(min=1, help="Of the samples.")] = 3,
    other_data: Annotated[
        list[Path],
        typer.Option(
            metavar="CONFIG", help="Also train samples on the [data] of this TOML file; repeatable."
        ),
    ] = [],
    set_: OfSampling = [],
    as_json: AsJson = False,
) -> None:
    """Judge unselected samples: copies, diversity, yield, gains, starts, cost; page and table.

    Runs that differ in training.seed alone are fits of one generator; those that differ in
    population.members make its curve over the number of training runs.
    """
    from zoogen import generators
    from zoogen.config import load_data_config, parse_options

    runs = [generators.open_run(path) for path in run]
    told = [load_data_config(path) for path in other_data]
    options = parse_options(set_)
    for one in runs:
        one.check({}, options)
    from zoogen.data import load
    from zoogen.evaluate import generation
    from zoogen.zoo import open_zoo

    directory = _writable(out or run[0] / "report")
    opened, others = open_zoo(zoo), [load(data) for data in told]
    reports = generation.evaluate_runs(runs, opened, samples, seeds, _reporter(), others, options)
    files = generation.render(reports, directory)
    table = next(path for path in files if path.suffix == ".md").read_text()
    _print({"files": [str(path) for path in files]} if as_json else table, as_json)


class _ListsTasks(TyperCommand):
    """A command whose help ends with the tables of targets and readers."""

    def format_epilog(self, ctx: Any, formatter: Any) -> None:
        from zoogen.evaluate import EDITORS, PARAMETER_READERS, READERS, TARGETS

        with formatter.section("Targets (and every hyper-parameter and metric by its name)"):
            formatter.write_dl([(name, target.definition) for name, target in TARGETS.items()])
        with formatter.section("Readers"):
            formatter.write_dl([(name, reader.definition) for name, reader in READERS.items()])
        with formatter.section("Readers for targets with one number a parameter"):
            formatter.write_dl([(n, reader.definition) for n, reader in PARAMETER_READERS.items()])
        with formatter.section("Readers that edit networks"):
            formatter.write_dl([(name, reader.definition) for name, reader in EDITORS.items()])


@app.command("train-model", cls=_ListsTasks)
def train_model(
    config: Annotated[Path, typer.Argument(metavar="CONFIG", help="TOML file of a comparison.")],
    zoo: OfZoo,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="RUN", help="Directory of raw rows; ZOO_NAME by default."),
    ] = None,
    set_: Overrides = [],
    as_json: AsJson = False,
) -> None:
    """Fit models that read weights, with an equal budget; the same command resumes."""
    from zoogen import evaluate

    wanted = evaluate.load_run(config, set_)
    from zoogen.population import use_all_cores
    from zoogen.zoo import open_zoo

    use_all_cores()
    run = evaluate.train_models(
        wanted, open_zoo(zoo), out or zoo.with_name(f"{zoo.stem}_{wanted.name}"), _reporter()
    )
    board = evaluate.board_of(run)
    _print(evaluate.as_json(board) if as_json else evaluate.markdown([board]).rstrip(), as_json)


@app.command()
def leaderboard(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Directories of rows.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="DIR", help="Write table.md and figures there.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Render tables (Markdown) from the raw rows of `train-model`."""
    from zoogen import evaluate

    boards = [evaluate.board_of(evaluate.open_run(run)) for run in runs]
    result: Any = {"boards": [evaluate.as_json(board) for board in boards]}
    text = evaluate.markdown(boards).rstrip()
    if out is not None:
        from zoogen.evaluate.figures import write_leaderboard

        files = [str(path) for path in write_leaderboard(boards, out)]
        result, text = {**result, "files": files}, "\n".join(files)
    _print(result if as_json else text, as_json)


phases = typer.Typer(
    help="Rules that turn measurements into phases, and trees fitted on measurements.",
    no_args_is_help=True,
)
app.add_typer(phases, name="phases")


@phases.command()
def rules(as_json: AsJson = False) -> None:
    """List the rules that zoogen ships: name, version, hash and what it does."""
    from zoogen import present

    _print(present.rules_json() if as_json else present.rules_text(), as_json)


@phases.command()
def fit(
    source: Annotated[Path, typer.Argument(metavar="ZOO|CSV", help="Measurements to fit on.")],
    out: Annotated[Path, typer.Option("--out", metavar="RULE.toml", help="Rule file to write.")],
    start: Annotated[
        str,
        typer.Option(
            help="Rule with start values and bounds: a name or a TOML file.",
            callback=_checked_rule,
        ),
    ] = "md_tree",
    as_json: AsJson = False,
) -> None:
    """Fit a tree that predicts which knob to turn, and write it as a rule file."""
    from zoogen import labelling, present

    rule = labelling.fit_rule(source, start, out.stem)
    labelling.write_rule(rule, out)
    _print(present.fit_json(rule, out) if as_json else present.fit_text(rule, out), as_json)


def _writable(directory: Path) -> Path:
    """The directory, made before work that takes minutes and not after it."""
    from zoogen.store.disk import storage_errors

    with storage_errors(directory):
        directory.mkdir(parents=True, exist_ok=True)
    return directory


def _print(result: Any, as_json: bool) -> None:
    print(json.dumps(result, indent=2) if as_json else result)


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line; exit with 0, 2 (usage or config), 3 (data or store), 130 or 143."""
    end: BaseException = SystemExit(0)
    with _interrupts.listening():
        try:
            app(arguments)
        except (Exception, SystemExit, Interrupted) as found:
            end = found
    # Whatever a library made of the signal on its way here.
    if _interrupts.arrived:
        _complain(INTERRUPTED, 128 + _interrupts.arrived)
    if isinstance(end, ZoogenError):
        _complain(str(end), end.exit_code)
    raise end


def entry() -> NoReturn:
    """The command line as a process of its own.

    After a signal it ends without taking the interpreter down: threads of a compiler may still be
    at work, and would end in a segmentation fault.
    """
    try:
        main()
    finally:
        if _interrupts.arrived:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(128 + _interrupts.arrived)


INTERRUPTED = (
    "interrupted; everything committed to a zoo or a run is kept, the same command resumes (a "
    "study, which writes its files at the end, begins anew)"
)


def _complain(message: str, code: int) -> NoReturn:
    print(f"zoogen: {message}", file=sys.stderr)
    sys.exit(code)
