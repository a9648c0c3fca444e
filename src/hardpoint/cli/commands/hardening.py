"""Commands that train: ``harden`` and ``search``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardpoint.cli.app import STYLE, app, words_of
from hardpoint.cli.exits import guarded
from hardpoint.cli.options import (
    Augment,
    Config,
    Data,
    Debug,
    Epochs,
    Json,
    Label,
    Limit,
    Mode,
    Model,
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


@app.command(**STYLE)
def harden(
    model: Model = None,
    weights: Weights = None,
    train: Train = None,
    data: Data = None,
    threat: Threats = None,
    recipe: Recipe = None,
    teacher: Annotated[
        Text,
        typer.Option(
            "--teacher", metavar="MODEL", help="A robust model whose answers are learned; as --model."
        ),
    ] = None,
    teacher_weights: Annotated[
        Text, typer.Option("--teacher-weights", metavar="FILE", help="Weights for the teacher's module.")
    ] = None,
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
    """Train a model to hold under a threat, or the worst of several, and assess it before and after."""

    def work() -> int:
        from hardpoint.cli.asked import Asked
        from hardpoint.cli.harden_command import run
        from hardpoint.cli.said import said_threats, said_values

        said = said_values(
            model=model,
            weights=weights,
            input_range=input_range,
            data=data,
            label=label,
            limit=limit,
            sample=sample,
            train=train,
            recipe=recipe,
            teacher=teacher,
            teacher_weights=teacher_weights,
            epochs=epochs,
            lr=lr,
            optimiser=optimiser,
            augment=augment,
            devices=devices,
            mode=mode,
            seed=seed,
            gate=gate,
        ) | said_values("harden", batch_size=batch_size)
        return run(
            Asked(said | said_threats(threat or []), config, out, resume, json_out, quiet, words_of("harden"))
        )

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**STYLE)
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
        from hardpoint.cli.asked import Asked
        from hardpoint.cli.said import said_threats, said_values
        from hardpoint.cli.search_command import run

        said = said_values(
            model=model,
            input_range=input_range,
            data=data,
            label=label,
            train=train,
            trials=trials,
            recipe=recipe,
            epochs=epochs,
            lr=lr,
            augment=augment,
            mode=mode,
            workers=workers,
            seed=seed,
        )
        return run(
            Asked(said | said_threats(threat or []), config, out, resume, json_out, quiet, words_of("search"))
        )

    return guarded(work, json_out=json_out, debug=debug)
