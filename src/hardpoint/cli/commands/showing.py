"""Commands that set up and show: ``init``, ``report``, ``benchmark``, ``demo``, ``config``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hardpoint.cli.app import STYLE, app, config_app, words_of
from hardpoint.cli.exits import guarded
from hardpoint.cli.options import Config, Data, Debug, Json, Model, Open, Quiet, Text, Weights


@app.command(**STYLE)
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


@app.command(**STYLE)
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


@app.command(**STYLE)
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

        said = said_values(workers=workers)
        return run(Asked(file, said, out, open_page, json_out, quiet, words_of("benchmark")))

    return guarded(work, json_out=json_out, debug=debug)


@app.command(**STYLE)
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


@config_app.command("show", **STYLE)
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
