"""Commands that attack a model: ``assess``, ``doctor``, ``calibrate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardpoint.cli.app import STYLE, app, words_of
from hardpoint.cli.exits import guarded
from hardpoint.cli.options import (
    Access,
    BatchSize,
    Config,
    Data,
    Debug,
    Json,
    Label,
    Limit,
    Mode,
    Model,
    Passes,
    Quiet,
    Range,
    Sample,
    Seed,
    Text,
    Threats,
    Weights,
)


@app.command(**STYLE)
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
    surrogates: Annotated[
        Text,
        typer.Option(
            "--surrogates", metavar="MODEL,MODEL", help="Attack through these models of yours, too."
        ),
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
        from hardpoint.cli.asked import Asked
        from hardpoint.cli.assess_command import run
        from hardpoint.cli.said import said_threats, said_values

        said = said_values(
            model=model,
            weights=weights,
            input_range=input_range,
            access=access,
            data=data,
            label=label,
            limit=limit,
            sample=sample,
            mode=mode,
            seed=seed,
            workers=workers,
            batch_size=batch_size,
            passes=passes,
            queries=queries,
            surrogates=surrogates,
            seconds=seconds,
            gate=gate,
        )
        return run(
            Asked(said | said_threats(threat or []), config, out, resume, json_out, quiet, words_of("assess"))
        )

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**STYLE)
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
            MODEL=model,
            weights=weights,
            input_range=input_range,
            access=access,
            data=data,
            label=label,
            limit=limit,
        )
        return run(said, config, json_out=json_out, quiet=quiet)

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**STYLE)
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
            model=model,
            weights=weights,
            input_range=input_range,
            data=data,
            label=label,
            limit=limit,
            sample=sample,
            benign=benign,
            detectors=detectors,
            mode=mode,
            seed=seed,
            batch_size=batch_size,
            passes=passes,
            seconds=seconds,
        )
        return run(Asked(said | said_threats(threat or []), config, alpha, json_out, quiet))

    return guarded(work, json_out=json_out, debug=debug)
