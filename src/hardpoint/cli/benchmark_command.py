"""``hardpoint benchmark``: many models under the same threats, on one ranked page."""

from __future__ import annotations

import hashlib
import json
import webbrowser
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hardpoint.cli.assess_command import stop_workers
from hardpoint.cli.build import build_data, build_model, build_surrogates, build_threats, check_together
from hardpoint.cli.console import note, say, say_json
from hardpoint.cli.defence import with_defence
from hardpoint.cli.exits import Exit
from hardpoint.cli.job import Job
from hardpoint.cli.layers import Layer, Resolved, resolve_models
from hardpoint.cli.report_command import write_formats
from hardpoint.cli.runs import command_line, slug
from hardpoint.core.errors import ConfigError, HardpointError
from hardpoint.data import Dataset
from hardpoint.evidence.store import RunFolder, write_atomically
from hardpoint.report.leaderboard import Entrant, Row, leaderboard, leaderboard_json, write_leaderboard_html


@dataclass(frozen=True)
class Asked:
    """How the command was called.

    Attributes:
        file: the benchmark file.
        said: what the command line says about settings.
        out: the folder for the page and one run folder per model; ``RUNS/FILE`` by default.
        open_page: open the page when it is written.
        json_out: print one JSON object instead of lines.
        quiet: no progress and no hints.
        words: the command as typed.
    """

    file: Path
    said: Layer
    out: Path | None
    open_page: bool
    json_out: bool
    quiet: bool
    words: Sequence[str]


def run(asked: Asked) -> int:
    """Assess what is not assessed yet, and write the page.

    Every model is loaded and tried on the data before the first is assessed, so that a wrong name costs nothing. A
    model that fails later is listed with the reason, and the others go on.
    """
    plans = resolve_models(asked.file, asked.said)
    folder = asked.out or Path(plans[0].settings.run.dir) / slug(asked.file.stem)
    data = build_data(plans[0].settings)
    jobs = [_job(asked, plan, data, folder) for plan in plans]
    threats = list(dict.fromkeys(planned.name for job in jobs for planned in job.threats))
    entrants = []
    for number, job in enumerate(jobs, start=1):
        name = str(job.model.describe().get("name") or job.path.name)
        if not asked.quiet:
            note(f"{name} ({number} of {len(jobs)})")
        entrants.append(_assessed(name, job))
    rows = leaderboard(entrants, threats)
    settings = plans[0].settings
    about = {
        "name": asked.file.stem,
        "file": asked.file.name,
        "sha256": hashlib.sha256(asked.file.read_bytes()).hexdigest(),
        "command": command_line(asked.words),
        "data": str(data.describe().get("name")),
        "mode": settings.run.mode,
        "seed": settings.run.seed,
    }
    page = write_leaderboard_html(folder / "leaderboard.html", rows, threats, about)
    board = leaderboard_json(rows, about)
    write_atomically(folder / "leaderboard.json", (json.dumps(board, indent=1) + "\n").encode())
    write_atomically(folder / asked.file.name, asked.file.read_bytes())
    return _told(asked, rows, board, page)


def _job(asked: Asked, plan: Resolved, data: Dataset, folder: Path) -> Job:
    model = build_model(plan)
    threats = build_threats(plan, model)
    surrogates = build_surrogates(plan)
    check_together(model, data, threats, surrogates)
    model, left = with_defence(plan.settings, model, data, quiet=asked.quiet)
    name = plan.settings.model.name or plan.settings.model.load
    return Job(
        plan.settings,
        asked.words,
        model,
        left,
        threats,
        folder / slug(str(name)),
        surrogates=surrogates,
        resume=True,
        quiet=asked.quiet,
    )


def _assessed(name: str, job: Job) -> Entrant:
    try:
        job.results()
        write_formats(job.run, job.settings.report.formats)
    except ConfigError:
        raise
    except HardpointError as error:
        stop_workers()
        done = tuple(job.run.read()) if job.run.exists else ()
        return Entrant(name, done, f"{error.what}; {error.cure}")
    except BaseException:
        stop_workers()
        raise
    run = RunFolder(job.path)
    return Entrant(name, tuple(run.read()), proofs=tuple(run.certificates()))


def _told(asked: Asked, rows: list[Row], board: dict[str, object], page: Path) -> int:
    code = Exit.PASS if all(row.rank is not None for row in rows) else Exit.INCONCLUSIVE
    if asked.open_page:
        webbrowser.open(page.resolve().as_uri())
    if asked.json_out:
        say_json({**board, "exit_code": int(code), "page": str(page)})
        return code
    width = max(len(row.name) for row in rows)
    for row in rows:
        place = "–" if row.rank is None else str(row.rank)
        shown = "not assessed" if row.robust is None else f"robust {row.robust}"
        say(f"{place:>3}  {row.name:<{width}}  {shown}, attack checks {row.masking}")
        for doubt in row.doubts:
            say(f"     {doubt}")
    if not asked.quiet:
        say(f"page:     {page}")
        say(f"next:     {command_line([*asked.words, '--open'])}")
    return code
