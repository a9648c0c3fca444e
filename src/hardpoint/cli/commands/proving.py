"""Commands that prove: ``certify``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardpoint.cli.app import STYLE, app, words_of
from hardpoint.cli.exits import guarded
from hardpoint.cli.options import (
    Config,
    Data,
    Debug,
    Json,
    Label,
    Limit,
    Quiet,
    Range,
    Sample,
    Seed,
    Text,
    Threats,
    Weights,
)


@app.command(**STYLE)
def certify(
    model: Annotated[
        Text,
        typer.Option(
            "--model", metavar="MODEL", help="A network: module:factory, FILE.py:factory or an .onnx file."
        ),
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
            soundness=soundness,
            seconds_per_input=seconds_per_input,
            seed=seed,
        )
        said = said_values(
            model=model,
            weights=weights,
            input_range=input_range,
            data=data,
            label=label,
            limit=limit,
            sample=sample,
            method=method,
            batch_size=batch_size,
            gate=gate,
        ) | said_threats(threat or [])
        if onnx is not None or vnnlib is not None:
            from hardpoint.cli import property_command

            kept = [option for option, given in (("--out", out), ("--resume", resume)) if given]
            others = [entry.origin for entry in said.values()] + kept
            return property_command.run(
                property_command.AskedProperty(onnx, vnnlib, others, common, config, json_out, quiet)
            )
        from hardpoint.cli.asked import Asked
        from hardpoint.cli.certify_command import run

        return run(Asked(said | common, config, out, resume, json_out, quiet, words_of("certify")))

    return guarded(work, json_out=json_out, debug=debug)
