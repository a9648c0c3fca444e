"""What several commands of ``hardpoint`` can be told, said once."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

Text = str | None
Model = Annotated[
    Text,
    typer.Option(
        "--model", metavar="MODEL", help="An .onnx file, module:factory, FILE.py:factory, or a URL."
    ),
]
Weights = Annotated[
    Text, typer.Option("--weights", metavar="FILE", help="Weights for the module: .safetensors, .pt or .pth.")
]
Data = Annotated[
    Text,
    typer.Option("--data", metavar="DATA", help=".npz, .csv, .parquet, idx, folder of images, sklearn:NAME."),
]
Label = Annotated[Text, typer.Option("--label", metavar="COLUMN", help="The label column of a table.")]
Range = Annotated[Text, typer.Option("--input-range", metavar="LOW,HIGH", help="Valid inputs.")]
Access = Annotated[
    Text, typer.Option("--access", metavar="WORD", help="Show no more than gradients, scores or labels.")
]
Threats = Annotated[
    list[str] | None,
    typer.Option(
        "--threat", metavar="KIND:EPS[@OPTION:...]", help="linf:8/255, l2:0.5@scores:1000q; repeatable."
    ),
]
Train = Annotated[
    Text, typer.Option("--train", metavar="DATA", help="What is learned from; none of it is assessed.")
]
Recipe = Annotated[
    Text,
    typer.Option(
        "--recipe", metavar="NAME[:OPTION=VALUE]", help="default, n_fgsm, pgd:steps=7, trades, awp ..."
    ),
]
Epochs = Annotated[Text, typer.Option("--epochs", metavar="N", help="Passes over the training data.")]
StepSize = Annotated[Text, typer.Option("--lr", metavar="X", help="The largest step size.")]
Augment = Annotated[
    Text, typer.Option("--augment", metavar="KIND,KIND", help="flip, crop:pad=4, cutout, mixup, jitter.")
]
Mode = Annotated[Text, typer.Option("--mode", metavar="MODE", help="fast, standard or thorough.")]
Seed = Annotated[Text, typer.Option("--seed", metavar="N", help="Every random draw follows from it.")]
BatchSize = Annotated[Text, typer.Option("--batch-size", metavar="N", help="Inputs in flight.")]
Passes = Annotated[Text, typer.Option("--passes", metavar="N", help="Passes per input, at most.")]
Limit = Annotated[Text, typer.Option("--limit", metavar="N", help="Take the first N inputs.")]
Sample = Annotated[Text, typer.Option("--sample", metavar="N", help="Take N inputs at random.")]
Config = Annotated[
    Path | None,
    typer.Option("--config", metavar="FILE", help="Instead of ./hardpoint.toml or pyproject.toml."),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object and nothing else.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress, no hints.")]
Debug = Annotated[bool, typer.Option("--debug", help="Show where an error came from.")]
Open = Annotated[bool, typer.Option("--open", help="Open the page in the browser.")]
