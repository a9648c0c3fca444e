"""The ``hardpoint`` command. Only words are parsed here: each command loads what it needs when it is called."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from hardpoint import __version__
from hardpoint.cli.console import one_line, say
from hardpoint.cli.exits import Exit, guarded
from hardpoint.cli.options import (
    Access,
    Augment,
    BatchSize,
    Config,
    Data,
    Debug,
    Epochs,
    Json,
    Label,
    Limit,
    Mode,
    Model,
    Open,
    Passes,
    Quiet,
    Range,
    Recipe,
    Sample,
    Seed,
    StepSize,
    Text,
    Threats,
    Train,
    Weights,
)
from hardpoint.core.errors import ConfigError

_EPILOG = (
    "Exit codes: 0 pass, 1 gate failed, 2 usage or configuration, 3 nothing to test, 4 internal error, "
    "5 inconclusive, 130 interrupted."
)
_STYLE: dict[str, Any] = {"context_settings": {"help_option_names": ["-h", "--help"]}, "epilog": _EPILOG}
app = typer.Typer(
    name="hardpoint",
    help="Tells you how a model breaks under attack, with evidence that can be checked.",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    **_STYLE,
)
config_app = typer.Typer(help="Settings: what holds here, and why.", rich_markup_mode=None)
app.add_typer(config_app, name="config")


@app.callback(invoke_without_command=True)
def hardpoint(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> int | None:
    if version:
        say(f"hardpoint {__version__}")
        raise typer.Exit(Exit.PASS)
    if context.invoked_subcommand is None:
        say(context.get_help())
        raise typer.Exit(Exit.USAGE)
    return None


@app.command(**_STYLE)
def assess(
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    threat: Threats = None,
    mode: Mode = None,
    gate: Annotated[
        Text, typer.Option("--gate", metavar="SHARE", help="The robust accuracy asked for, 0 to 1.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="The run folder; runs/NNN-MODEL by default.")
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out, or the newest unfinished one.")
    ] = False,
    limit: Limit = None,
    sample: Sample = None,
    label: Label = None,
    input_range: Range = None,
    access: Access = None,
    seed: Seed = None,
    workers: Annotated[Text, typer.Option("--workers", metavar="N", help="Local processes.")] = None,
    batch_size: BatchSize = None,
    passes: Passes = None,
    queries: Annotated[
        Text, typer.Option("--queries", metavar="N", help="Queries per input, at most.")
    ] = None,
    seconds: Annotated[
        Text, typer.Option("--seconds", metavar="S", help="Time for the whole run, at most.")
    ] = None,
    config: Config = None,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Attack a model, verify what breaks it, and judge the number against the gate."""

    def work() -> int:
        from hardpoint.cli.assess_command import Asked, run
        from hardpoint.cli.said import said_threats, said_values

        said = said_values(
            ("--model", "model.load", model),
            ("--weights", "model.weights", weights),
            ("--input-range", "model.input_range", input_range),
            ("--access", "model.access", access),
            ("--data", "data.load", data),
            ("--label", "data.label", label),
            ("--limit", "data.limit", limit),
            ("--sample", "data.sample", sample),
            ("--mode", "run.mode", mode),
            ("--seed", "run.seed", seed),
            ("--workers", "run.workers", workers),
            ("--batch-size", "run.batch_size", batch_size),
            ("--passes", "run.passes", passes),
            ("--queries", "run.queries", queries),
            ("--seconds", "run.seconds", seconds),
            ("--gate", "gate.robust_accuracy", gate),
        )
        words = _WORDS or ["assess"]
        return run(Asked(said | said_threats(threat or []), config, out, resume, json_out, quiet, words))

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def doctor(
    model: Annotated[
        Text, typer.Argument(help="An .onnx file, module:factory, FILE.py:factory, or a URL.")
    ] = None,
    data: Data = None,
    weights: Weights = None,
    label: Label = None,
    input_range: Range = None,
    access: Access = None,
    limit: Limit = None,
    config: Config = None,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Check, in a few passes, whether a robustness number would mean anything."""

    def work() -> int:
        from hardpoint.cli.doctor_command import run
        from hardpoint.cli.said import said_values

        said = said_values(
            ("MODEL", "model.load", model),
            ("--weights", "model.weights", weights),
            ("--input-range", "model.input_range", input_range),
            ("--access", "model.access", access),
            ("--data", "data.load", data),
            ("--label", "data.label", label),
            ("--limit", "data.limit", limit),
        )
        return run(said, config, json_out=json_out, quiet=quiet)

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def calibrate(
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    benign: Annotated[
        Text,
        typer.Option(
            "--benign", metavar="DATA", help="Inputs nothing was trained on; else some are held out."
        ),
    ] = None,
    threat: Threats = None,
    detectors: Annotated[
        Text,
        typer.Option(
            "--detectors", metavar="KIND,KIND", help="energy, mahalanobis:layer=NAME ...; three by default."
        ),
    ] = None,
    alpha: Annotated[
        Text, typer.Option("--alpha", metavar="SHARE,SHARE", help="Benign inputs that may be refused.")
    ] = None,
    mode: Mode = None,
    limit: Limit = None,
    sample: Sample = None,
    label: Label = None,
    input_range: Range = None,
    seed: Seed = None,
    batch_size: BatchSize = None,
    passes: Passes = None,
    seconds: Annotated[
        Text, typer.Option("--seconds", metavar="S", help="Time for each assessment, at most.")
    ] = None,
    config: Config = None,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Show what each threshold of the detectors costs in false alarms and what it catches."""

    def work() -> int:
        from hardpoint.cli.calibrate_command import Asked, run
        from hardpoint.cli.said import said_threats, said_values

        said = said_values(
            ("--model", "model.load", model),
            ("--weights", "model.weights", weights),
            ("--input-range", "model.input_range", input_range),
            ("--data", "data.load", data),
            ("--label", "data.label", label),
            ("--limit", "data.limit", limit),
            ("--sample", "data.sample", sample),
            ("--benign", "defence.benign", benign),
            ("--detectors", "defence.detectors", detectors),
            ("--mode", "run.mode", mode),
            ("--seed", "run.seed", seed),
            ("--batch-size", "run.batch_size", batch_size),
            ("--passes", "run.passes", passes),
            ("--seconds", "run.seconds", seconds),
        )
        return run(Asked(said | said_threats(threat or []), config, alpha, json_out, quiet))

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def harden(
    model: Model = None,
    weights: Weights = None,
    train: Train = None,
    data: Data = None,
    threat: Threats = None,
    recipe: Recipe = None,
    epochs: Epochs = None,
    lr: StepSize = None,
    optimiser: Annotated[Text, typer.Option("--optimiser", metavar="WORD", help="adamw or sgd.")] = None,
    batch_size: Annotated[Text, typer.Option("--batch-size", metavar="N", help="Inputs per update.")] = None,
    augment: Augment = None,
    devices: Annotated[
        Text, typer.Option("--devices", metavar="N", help="GPUs or processes that train together.")
    ] = None,
    gate: Annotated[
        Text,
        typer.Option("--gate", metavar="SHARE", help="The robust accuracy asked for afterwards, 0 to 1."),
    ] = None,
    mode: Mode = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="The run folder; runs/NNN-harden-MODEL by default."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the training in --out, or the newest unfinished one.")
    ] = False,
    limit: Limit = None,
    sample: Sample = None,
    label: Label = None,
    input_range: Range = None,
    seed: Seed = None,
    config: Config = None,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Train a model to hold under a threat, and assess it before and after."""

    def work() -> int:
        from hardpoint.cli.harden_command import Asked, run
        from hardpoint.cli.said import said_threats, said_values

        said = said_values(
            ("--model", "model.load", model),
            ("--weights", "model.weights", weights),
            ("--input-range", "model.input_range", input_range),
            ("--data", "data.load", data),
            ("--label", "data.label", label),
            ("--limit", "data.limit", limit),
            ("--sample", "data.sample", sample),
            ("--train", "harden.train", train),
            ("--recipe", "harden.recipe", recipe),
            ("--epochs", "harden.epochs", epochs),
            ("--lr", "harden.lr", lr),
            ("--optimiser", "harden.optimiser", optimiser),
            ("--batch-size", "harden.batch_size", batch_size),
            ("--augment", "harden.augment", augment),
            ("--devices", "harden.devices", devices),
            ("--mode", "run.mode", mode),
            ("--seed", "run.seed", seed),
            ("--gate", "gate.robust_accuracy", gate),
        )
        words = _WORDS or ["harden"]
        return run(Asked(said | said_threats(threat or []), config, out, resume, json_out, quiet, words))

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def search(
    model: Annotated[
        Text,
        typer.Option("--model", metavar="MODEL", help="The network to be beaten: package.module:factory."),
    ] = None,
    train: Train = None,
    data: Data = None,
    threat: Threats = None,
    trials: Annotated[Text, typer.Option("--trials", metavar="N", help="Networks to try; 20.")] = None,
    recipe: Recipe = None,
    epochs: Epochs = None,
    lr: StepSize = None,
    augment: Augment = None,
    mode: Mode = None,
    workers: Annotated[
        Text, typer.Option("--workers", metavar="N", help="Trials at once, in local processes.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="The run folder; runs/NNN-search-MODEL by default."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the search in --out, or the newest unfinished one.")
    ] = False,
    label: Label = None,
    input_range: Range = None,
    seed: Seed = None,
    config: Config = None,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Search for an architecture of the model's size that robust training makes more of."""

    def work() -> int:
        from hardpoint.cli.harden_command import Asked
        from hardpoint.cli.said import said_threats, said_values
        from hardpoint.cli.search_command import run

        said = said_values(
            ("--model", "model.load", model),
            ("--input-range", "model.input_range", input_range),
            ("--data", "data.load", data),
            ("--label", "data.label", label),
            ("--train", "harden.train", train),
            ("--trials", "search.trials", trials),
            ("--recipe", "harden.recipe", recipe),
            ("--epochs", "harden.epochs", epochs),
            ("--lr", "harden.lr", lr),
            ("--augment", "harden.augment", augment),
            ("--mode", "run.mode", mode),
            ("--workers", "run.workers", workers),
            ("--seed", "run.seed", seed),
        )
        words = _WORDS or ["search"]
        return run(Asked(said | said_threats(threat or []), config, out, resume, json_out, quiet, words))

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def certify(
    model: Annotated[
        Text,
        typer.Option("--model", metavar="MODEL", help="A torch network: module:factory or FILE.py:factory."),
    ] = None,
    weights: Weights = None,
    data: Data = None,
    threat: Threats = None,
    method: Annotated[
        Text, typer.Option("--method", metavar="WORD", help="auto, interval, crown, alpha or branch.")
    ] = None,
    soundness: Annotated[
        Text, typer.Option("--soundness", metavar="WORD", help="real, rigorous or deployed.")
    ] = None,
    seconds_per_input: Annotated[
        Text,
        typer.Option(
            "--seconds-per-input", metavar="S", help="What one input, or the property, may take; 20."
        ),
    ] = None,
    onnx: Annotated[
        Path | None, typer.Option("--onnx", metavar="FILE", help="A network, for one property of it.")
    ] = None,
    vnnlib: Annotated[
        Path | None,
        typer.Option("--vnnlib", metavar="FILE", help="The property; answers sat, unsat, unknown."),
    ] = None,
    gate: Annotated[
        Text, typer.Option("--gate", metavar="SHARE", help="The proven share asked for, 0 to 1.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="The run folder; runs/NNN-certify-MODEL by default."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with the proofs in --out, or the newest unfinished ones.")
    ] = False,
    limit: Limit = None,
    sample: Sample = None,
    label: Label = None,
    input_range: Range = None,
    seed: Seed = None,
    batch_size: Annotated[
        Text, typer.Option("--batch-size", metavar="N", help="Inputs bounded together; 64.")
    ] = None,
    config: Config = None,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Prove which inputs no allowed change can break, or decide one property of an ONNX file."""

    def work() -> int:
        from hardpoint.cli.said import said_threats, said_values

        common = said_values(
            ("--soundness", "certify.soundness", soundness),
            ("--seconds-per-input", "certify.seconds_per_input", seconds_per_input),
            ("--seed", "run.seed", seed),
        )
        said = said_values(
            ("--model", "model.load", model),
            ("--weights", "model.weights", weights),
            ("--input-range", "model.input_range", input_range),
            ("--data", "data.load", data),
            ("--label", "data.label", label),
            ("--limit", "data.limit", limit),
            ("--sample", "data.sample", sample),
            ("--method", "certify.method", method),
            ("--batch-size", "run.batch_size", batch_size),
            ("--gate", "gate.robust_accuracy", gate),
        ) | said_threats(threat or [])
        if onnx is not None or vnnlib is not None:
            from hardpoint.cli import property_command

            kept = [option for option, given in (("--out", out), ("--resume", resume)) if given]
            others = [entry.origin for entry in said.values()] + kept
            return property_command.run(
                property_command.AskedProperty(onnx, vnnlib, others, common, config, json_out, quiet)
            )
        from hardpoint.cli.certify_command import run
        from hardpoint.cli.harden_command import Asked

        words = _WORDS or ["certify"]
        return run(Asked(said | common, config, out, resume, json_out, quiet, words))

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def init(
    model: Model = None,
    weights: Weights = None,
    data: Data = None,
    threat: Annotated[
        Text, typer.Option("--threat", metavar="KIND:EPS", help="For example linf:8/255.")
    ] = None,
    gate: Annotated[
        Text, typer.Option("--gate", metavar="SHARE", help="The robust accuracy asked for, 0 to 1.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take what is suggested, ask nothing.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace a hardpoint.toml that is there.")] = False,
    json_out: Json = False,
    debug: Debug = False,
) -> int:
    """Write a commented hardpoint.toml for the model and data of this folder."""

    def work() -> int:
        from hardpoint.cli.init_command import Answers, run

        return run(Answers(model, weights, data, threat, gate), yes=yes, force=force, json_out=json_out)

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def report(
    run: Annotated[Path, typer.Argument(help="A run folder.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", metavar="PATH", help="Where the page goes (.html, .json, .sarif, .xml)."),
    ] = None,
    compare: Annotated[
        Path | None, typer.Option("--compare", metavar="RUN", help="A later run to set beside it.")
    ] = None,
    open_page: Open = False,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Write a run's report again, or compare it with another run."""

    def work() -> int:
        from hardpoint.cli import report_command

        return report_command.run(
            run, out=out, other=compare, open_page=open_page, json_out=json_out, quiet=quiet
        )

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def benchmark(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="Like hardpoint.toml, with [[models]].")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="The folder; runs/FILE by default.")
    ] = None,
    workers: Annotated[Text, typer.Option("--workers", metavar="N", help="Local processes.")] = None,
    open_page: Open = False,
    json_out: Json = False,
    quiet: Quiet = False,
    debug: Debug = False,
) -> int:
    """Assess many models under the same threats and rank them on one page; repeats nothing that is done."""

    def work() -> int:
        from hardpoint.cli.benchmark_command import Asked, run
        from hardpoint.cli.said import said_values

        said = said_values(("--workers", "run.workers", workers))
        return run(Asked(file, said, out, open_page, json_out, quiet, _WORDS))

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**_STYLE)
def demo(
    out: Annotated[
        Path | None, typer.Option("--out", metavar="PATH", help="The run folder; hardpoint-demo by default.")
    ] = None,
    open_page: Open = False,
    json_out: Json = False,
    debug: Debug = False,
) -> int:
    """Assess bundled models on bundled data: under a minute, no network."""

    def work() -> int:
        from hardpoint.cli.demo import run_demo

        return run_demo(out, open_page, json_out)

    return guarded(work, json_out=json_out, debug=debug)


@config_app.command("show", **_STYLE)
def config_show(
    origin: Annotated[bool, typer.Option("--origin", help="Say where each value comes from.")] = False,
    config: Config = None,
    json_out: Json = False,
    debug: Debug = False,
) -> int:
    """Print the settings that hold here."""

    def work() -> int:
        from hardpoint.cli.config_command import show

        return show(config, origin=origin, json_out=json_out)

    return guarded(work, json_out=json_out, debug=debug)


_WORDS: list[str] = []


def main(words: list[str] | None = None) -> int:
    """Run the command; returns the exit code.

    Args:
        words: the command line after ``hardpoint``; that of the process by default.
    """
    _WORDS[:] = sys.argv[1:] if words is None else words
    return guarded(_parsed)


def _parsed() -> int:
    """Run the command in ``_WORDS``; what cannot be parsed is an error like any other."""
    try:
        code = typer.main.get_command(app).main(list(_WORDS), prog_name="hardpoint", standalone_mode=False)
    except SystemExit:  # the reader of the help text went away
        return Exit.PASS
    except Exception as error:
        told = getattr(error, "format_message", None)
        if told is None:
            raise
        raise ConfigError(
            one_line(told()).rstrip("."), f"see hardpoint {' '.join(_WORDS[:1])} --help"
        ) from None
    return int(code or 0)
