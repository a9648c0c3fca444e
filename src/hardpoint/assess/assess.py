"""``assess``: how many inputs does an attacker break, and how do we know?"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.assess.cascade import Mode, cascade
from hardpoint.assess.doctor import Diagnosis, diagnose
from hardpoint.assess.environment import describe_environment
from hardpoint.assess.metrics import table_metrics
from hardpoint.assess.progress import Progress, shown_progress
from hardpoint.assess.result import ExampleSource, InFolder, InMemory, Joined, Result
from hardpoint.assess.strength import PILOT, Strength, measure_strength, query_curve, spread
from hardpoint.assess.work import Arrays, Piece, Session, Table, do_piece
from hardpoint.attacks.base import check_target, checked_capacity, usable_threat
from hardpoint.core.access import Access
from hardpoint.core.errors import RunError
from hardpoint.data import Dataset, MemoryDataset, check_dataset
from hardpoint.engine.attack import Attack
from hardpoint.engine.budget import Budget, Deadline
from hardpoint.engine.executor import Executor, executor_of
from hardpoint.engine.guard import preserved_random_state
from hardpoint.engine.search import Target
from hardpoint.engine.twin import TwinPlan, choose_twin
from hardpoint.evidence.assessment import Assessment, Examples, StageRecord, Status
from hardpoint.evidence.finding import Finding, finding
from hardpoint.evidence.rate import Rate
from hardpoint.evidence.store import AssessmentFolder, RunFolder
from hardpoint.models.base import Differentiable, Model
from hardpoint.models.limits import limit_access
from hardpoint.models.loading import load_model
from hardpoint.threats.features import FeatureEdits, LintKind, lint
from hardpoint.threats.perturbation import Perturbation
from hardpoint.threats.threat import Threat

_SHOWN = 12
_ROWS_AGAINST_SCHEMA = (
    LintKind.BROKEN_RELATION,
    LintKind.OUT_OF_BOUNDS,
    LintKind.NOT_WHOLE,
    LintKind.WRONG_LEVEL,
    LintKind.NOT_ONE_HOT,
)


def assess(
    model: Any,
    x: Any,
    y: Any = None,
    *,
    threat: Threat | Perturbation,
    mode: Mode | str = "fast",
    seed: int = 0,
    budget: Budget | None = None,
    run_dir: str | os.PathLike[str] | None = None,
    progress: bool | Progress = True,
    resume: bool = False,
    workers: int | Executor = 1,
    batch_size: int | None = None,
    gate: float | None = None,
    name: str | None = None,
    allow_training: tuple[str, ...] = (),
    header: dict[str, Any] | None = None,
) -> Result:
    """Attack every input, verify every success on the model itself, and say what was found.

    Args:
        model: an ``nn.Module`` in evaluation mode, a ``hardpoint.models`` adapter, a fitted scikit-learn classifier,
            ``"pkg.mod:factory"``, or a path to an ONNX file.
        x: float inputs ``[n, ...]`` in the model's input range, or a ``Dataset`` (``y`` is then left out).
        y: integer labels ``[n]``.
        threat: a threat, or a bare perturbation for the untargeted threat with the model's best access.
        mode: ``"fast"``, ``"standard"`` or ``"thorough"``; see ``Mode``.
        seed: every random draw follows from it and an input's position.
        budget: limits on passes or queries per input and on wall time; inputs cut short count as standing and
            a finding says so.
        run_dir: folder that keeps the evidence while running; an interrupted run continues with ``resume``.
        progress: whether to show progress on stderr, or a ``Progress`` of your own.
        resume: continue the run in ``run_dir``.
        workers: local processes, or an executor.
        batch_size: inputs in flight; chosen from the input's size by default.
        gate: the robust accuracy asked for; the record's verdict fails below it.
        name: what the assessment is called in reports and run folders; the threat's name by default.
        allow_training: names of layers that may stay in training mode.
        header: further entries for the run's header, for example the command.

    Raises:
        HardpointError: when model, data, threat or folder cannot be used; the message names the cure.

    >>> model = torch.nn.Linear(2, 2).eval()
    >>> x = torch.rand(32, 2, generator=torch.Generator().manual_seed(0))
    >>> from hardpoint import Linf
    >>> assess(model, x, model(x).argmax(1), threat=Linf(0.0)).robust_accuracy.value
    1.0
    """
    began = time.monotonic()
    adapter, data = load_model(model), as_dataset(x, y)
    with preserved_random_state(), shown_progress(progress) as display:
        run = _Run.prepare(
            adapter,
            data,
            threat,
            Mode.parse(mode),
            seed,
            budget or Budget(),
            RunFolder(run_dir) if run_dir is not None else None,
            resume,
            executor_of(workers),
            batch_size,
            allow_training,
            display,
            name,
            {
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "code": _as_code(threat, mode, seed),
                **(header or {}),
                "environment": describe_environment(),
            },
        )
        given = isinstance(x, torch.Tensor) and x.is_floating_point()
        kept = x.detach() if given else data.x if isinstance(data, MemoryDataset) else None
        return run.stored(gate, kept) or run.complete(gate, began, kept)


def doctor(model: Any, x: Any, y: Any = None, *, allow_training: tuple[str, ...] = ()) -> tuple[Finding, ...]:
    """The pre-flight checks alone: what would make a robustness number meaningless or weak.

    >>> doctor(torch.nn.Linear(2, 3).eval(), torch.rand(32, 2), torch.zeros(32, dtype=torch.int64))[-1].id
    'HP403'
    """
    adapter, data = load_model(model), as_dataset(x, y)
    with preserved_random_state():
        check_dataset(data, _anything(adapter), None)
        sample, _ = data.rows(torch.from_numpy(spread(len(data), PILOT)))
        found = diagnose(adapter, sample.to(_device(adapter)), adapter.access, allow_training=allow_training)
        return (*found.findings, *_few(len(data)))


def as_dataset(x: Any, y: Any) -> Dataset:
    """The data set in ``x``, or one made of the tensors or arrays ``x`` and ``y``."""
    return x if isinstance(x, Dataset) and y is None else MemoryDataset(x, y)


class _Run:
    """One assessment under way: the plan, the table, and where finished pieces are kept."""

    def __init__(
        self,
        session: Session,
        diagnosis: Diagnosis,
        mode: Mode,
        budget: Budget,
        run: RunFolder | None,
        executor: Executor,
        display: Progress,
        header: dict[str, Any],
        extra: tuple[Finding, ...],
        name: str,
    ) -> None:
        self.session, self.diagnosis, self.mode, self.budget = session, diagnosis, mode, budget
        self.run, self.executor, self.display, self.header, self.extra = run, executor, display, header, extra
        self.folder: AssessmentFolder | None = run.assessment(name) if run else None
        self.name = name
        self.examples: list[tuple[NDArray[np.int64], NDArray[Any]]] = []
        self.table = Table(len(session.data), 0)
        self.out_of_time = False

    @classmethod
    def prepare(
        cls,
        model: Model,
        data: Dataset,
        wanted: Threat | Perturbation,
        mode: Mode,
        seed: int,
        budget: Budget,
        run: RunFolder | None,
        resume: bool,
        executor: Executor,
        batch_size: int | None,
        allow_training: tuple[str, ...],
        display: Progress,
        name: str | None,
        header: dict[str, Any],
    ) -> _Run:
        """Check everything that can be checked before anything is spent or written."""
        deadline = Deadline.after(budget.seconds)
        threat = usable_threat(wanted, model, Access.LABELS)
        extra: tuple[Finding, ...] = ()
        if threat.access < Threat.of(wanted).access:
            extra += (
                finding("HP111", f"the model offers {model.access.word} only; assessed as a black box"),
            )
        check_dataset(data, _anything(model), None)
        sample, _ = data.rows(torch.from_numpy(spread(len(data), PILOT)))
        sample = sample.to(_device(model))
        diagnosis = diagnose(model, sample, threat.access, allow_training=allow_training)
        diagnosis.raise_if_unusable()
        check_dataset(data, diagnosis.model.box, diagnosis.classes)
        check_target(threat, diagnosis.classes)
        if threat.perturbation.eps == 0:
            extra += (finding("HP203", f"{threat.perturbation.describe()['text']} allows no change"),)
        extra += (*_schema_findings(threat, sample), *_few(len(data)))
        stages = cascade(threat, mode, diagnosis.classes)
        if budget.queries is not None and threat.access is not Access.GRADIENTS:
            threat_queries = min(budget.queries, threat.queries or budget.queries)
            stages = cascade(
                Threat(threat.perturbation, threat.goal, threat.access, threat_queries), mode, None
            )
        capacity = checked_capacity(batch_size, sample)
        name = name or threat.name
        folder = run.assessment(name) if run else None
        old = (
            folder.plan() if folder is not None and resume and (folder.path / "plan.json").exists() else None
        )
        searched = (
            diagnosis.model if threat.access is Access.GRADIENTS else limit_access(model, threat.access)
        )
        plan = TwinPlan(**old["twin"]) if old else choose_twin(searched, sample)
        target = Target(diagnosis.model, plan, capacity, diagnosis.is_random)
        if threat.access is not Access.GRADIENTS:
            target = replace(target, model=limit_access(diagnosis.model, threat.access))
        session = Session(target, data, threat, stages, seed, sample.device, deadline)
        self = cls(session, diagnosis, mode, budget, run, executor, display, header, extra, name)
        if run is not None and folder is not None:
            if old:
                folder.begin(self.plan())  # work under another plan is refused before anything is written
            run.begin(header, resume=resume)
            folder.begin(self.plan())
            if isinstance(data, MemoryDataset) and not (folder.path / "inputs.npy").exists():
                folder.write_inputs(np.asarray(data.x))
        return self

    def plan(self) -> dict[str, Any]:
        """What identifies the work; everything that can change a bit of the result."""
        session = self.session
        twin = session.target.twin
        return {
            "model": self.diagnosis.model.describe(),
            "data": session.data.describe(),
            "threat": session.threat.describe(),
            "mode": self.mode.value,
            "stages": [attack.name for attack in session.stages],
            "seed": session.seed,
            "passes": self.budget.passes,
            "queries": self.budget.queries,
            "capacity": session.target.capacity,
            "random": session.target.is_random,
            "twin": {k: v for k, v in twin.describe().items() if k != "text"},
        }

    # --- running ---------------------------------------------------------------------------------------------

    def stored(self, gate: float | None, inputs: Tensor | None) -> Result | None:
        """The assessment, judged by ``gate``, where the folder holds it finished already."""
        if self.run is None or self.folder is None or not self.folder.is_finished:
            return None
        record = self.folder.read()
        if record.gate != gate:
            record = replace(record, gate=gate)
            self.folder.finish(record)
        self.run.close(record.name, complete=record.complete)
        return Result(record, self.run.header(), InFolder(self.folder), inputs)

    def complete(self, gate: float | None, began: float, inputs: Tensor | None) -> Result:
        """Do what is left to do and write the record."""
        try:
            stages = self._stages()
            strength = Strength((), (), ())
            if not self.out_of_time:
                self.display.begin("checking the attack's strength", 1)
                strength = measure_strength(self.session, self.table, stages)
                self.display.end("done")
        except BaseException as error:
            if self.run is not None and self.run.exists:
                interrupted = isinstance(error, KeyboardInterrupt)
                with suppress(RunError):  # a full disk must not hide the error
                    self.run.update(status="interrupted" if interrupted else "failed")
            raise
        record = self._record(stages, strength, gate, time.monotonic() - began)
        if self.folder is not None and self.run is not None:
            if not self.out_of_time:  # a run out of passes or queries has done all it was asked to do
                self.folder.finish(record)
            self.run.close(record.name, complete=record.complete)
        header = self.run.header() if self.run else self.header
        return Result(record, header, self._source(), inputs)

    def _source(self) -> ExampleSource:
        """Where the examples are: those of pieces that were cut short by the clock are in no folder."""
        held = InMemory(tuple(self.examples))
        return held if self.folder is None else Joined((InFolder(self.folder), held))

    def _stages(self) -> tuple[StageRecord, ...]:
        n = len(self.session.data)
        unit = 4 * self.session.target.capacity
        everyone = np.arange(n)
        pieces = [Piece(-1, i, everyone[at : at + unit]) for i, at in enumerate(range(0, n, unit))]
        first = True
        for _, found in self._do("clean pass", pieces):
            if first:
                self.table.ranked = np.zeros((n, found["ranked"].shape[1]), dtype=np.int64)
                first = False
            self.table.add_clean(found)
        done = []
        for stage, attack in enumerate(self.session.stages):
            done.append(self._stage(stage, attack, unit))
            if self.out_of_time:
                break
        if len(done) < len(self.session.stages) or self._short_of_queries():
            self.table.cut_short[self.table.standing()] = True
        return tuple(done)

    def _short_of_queries(self) -> bool:
        """Whether the budget allows fewer queries than the threat, or than the mode where the threat is silent."""
        if self.budget.queries is None or not self._black_box:
            return False
        in_full = cascade(self.session.threat, self.mode, None)
        return self.budget.queries < max(getattr(attack, "queries", 0) for attack in in_full)

    def _stage(self, stage: int, attack: Attack, unit: int) -> StageRecord:
        table = self.table
        standing = table.standing()
        pieces = []
        for number, at in enumerate(range(0, len(standing), unit)):
            positions = standing[at : at + unit]
            pieces.append(
                Piece(stage, number, positions, table.ranked[positions], self._allowance(positions))
            )
        began, before = time.monotonic(), (table.forward.sum(), table.backward.sum())
        broken = 0
        for _, found in self._do(attack.name, pieces):
            table.add_attack(stage, found)
            broken += int(found["broken"].sum())
            if (self.folder is None or bool(found["late"])) and len(found["adversarial"]):
                self.examples.append((found["positions"][found["broken"]], found["adversarial"]))
        forward, backward = int(table.forward.sum() - before[0]), int(table.backward.sum() - before[1])
        queries = forward if self._black_box else 0
        return StageRecord(
            attack.name, len(standing), broken, forward, backward, queries, time.monotonic() - began
        )

    def _do(self, what: str, pieces: list[Piece]) -> Iterator[tuple[Piece, Arrays]]:
        """Results of all pieces: those in the run folder first, then those still to do, kept as they come.

        Results are handed on in order, whatever order workers finish in, so that sums are the same every time.
        """
        self.display.begin(what, sum(len(p.positions) for p in pieces))
        known = {
            p.name: self.folder.read_unit(p.name)
            for p in pieces
            if self.folder and self.folder.has_unit(p.name)
        }
        to_do = [p for p in pieces if p.name not in known]
        for piece in pieces:
            if piece.name in known:
                self.display.advance(len(piece.positions))
        for piece, found in self.executor.run(do_piece, self.session, to_do):
            late = bool(found.get("late", False))
            self.out_of_time |= late
            if self.folder is not None and not late:
                self.folder.write_unit(piece.name, found)
            known[piece.name] = found
            self.display.advance(len(piece.positions))
        broken = sum(int(f["broken"].sum()) for f in known.values() if "broken" in f)
        self.display.end(f"{broken} broken" if pieces and pieces[0].stage >= 0 else "done")
        for piece in pieces:
            yield piece, known[piece.name]

    def _allowance(self, positions: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """What each input may still spend."""
        table = self.table
        if self._black_box:
            limit = self.session.threat.queries
            if self.budget.queries is not None:
                limit = min(limit or self.budget.queries, self.budget.queries)
            spent = table.forward[positions]
        else:
            limit, spent = self.budget.passes, table.forward[positions] + table.backward[positions]
        return None if limit is None else limit - spent

    @property
    def _black_box(self) -> bool:
        return self.session.threat.access is not Access.GRADIENTS

    # --- the record ------------------------------------------------------------------------------------------

    def _record(
        self, stages: tuple[StageRecord, ...], strength: Strength, gate: float | None, seconds: float
    ) -> Assessment:
        session, table = self.session, self.table
        outcomes = table.outcomes(self._black_box)
        n = len(outcomes)
        clean = int((outcomes.status != Status.CLEAN_ERROR).sum())
        standing = int((~outcomes.broken).sum())
        cut = int((outcomes.status == Status.UNFINISHED).sum())
        budget_spent = self.out_of_time or (cut > 0 and (not self._black_box or self._short_of_queries()))
        queries = session.threat.queries or max([getattr(a, "queries", 1) for a in session.stages], default=1)
        curve = query_curve(session, table, queries) if self._black_box else ()
        found = [*self.diagnosis.findings, *self.extra, *strength.findings]
        if budget_spent:
            found.append(finding("HP401", f"{cut} of {n} inputs were not attacked in full", measured=cut / n))
        claimed, rejected, _ = (int(v) for v in table.checks)
        if rejected:
            found.append(
                finding("HP306", f"{rejected} of {claimed} claims did not stand", measured=float(rejected))
            )
        model = self.diagnosis.model
        if isinstance(model, Differentiable) and not session.target.twin.copied and not self._black_box:
            found.append(finding("HP402", "the model cannot be copied, or a copy of it answers differently"))
        return Assessment(
            name=self.name,
            model=model.describe(),
            data=session.data.describe(),
            threat=session.threat.describe(),
            mode=self.mode.value,
            seed=session.seed,
            clean_accuracy=Rate.of(clean, n),
            robust_accuracy=Rate.of(standing, n),
            outcomes=outcomes,
            stages=stages,
            findings=tuple(found),
            checks=strength.checks,
            eps_curve=strength.eps_curve,
            query_curve=curve,
            examples=self._shown(outcomes.status),
            gate=gate,
            passes={
                "forward": float(outcomes.forward.mean()),
                "backward": float(outcomes.backward.mean()),
                "queries": float(outcomes.queries.mean()),
            },
            twin=session.target.twin.describe(),
            verification={"claimed": claimed, "confirmed": claimed - rejected, "rejected": rejected},
            seconds=seconds,
            complete=not budget_spent,
            metrics=table_metrics(outcomes, session.data.shape),
        )

    def _shown(self, status: NDArray[np.uint8]) -> Examples | None:
        """A dozen broken inputs, spread over the data."""
        fell = np.flatnonzero(status == Status.BROKEN)
        if not len(fell):
            return None
        chosen = fell[np.unique(np.linspace(0, len(fell) - 1, _SHOWN).astype(int))]
        source = self._source()
        found: dict[int, NDArray[Any]] = {}
        wanted = set(chosen.tolist())
        for positions, examples in source.examples():
            for row, position in enumerate(positions.tolist()):
                if position in wanted:
                    found[position] = np.asarray(examples[row])
        chosen = np.array([c for c in chosen.tolist() if c in found], dtype=np.int64)
        if not len(chosen):
            return None
        x, _ = self.session.data.rows(torch.from_numpy(chosen))
        table = self.table
        return Examples(
            index=chosen,
            original=x.cpu().numpy(),
            adversarial=np.stack([found[c] for c in chosen.tolist()]),
            label=table.label[chosen],
            clean_prediction=table.clean[chosen],
            final_prediction=table.final[chosen],
            distance=table.distance[chosen],
        )


def _as_code(threat: Threat | Perturbation, mode: Mode | str, seed: int) -> str:
    """The call, for the report's section on reproducing it."""
    what = threat if isinstance(threat, Perturbation) else Threat.of(threat)
    return f"hp.assess(model, x, y, threat={what!r}, mode={Mode.parse(mode).value!r}, seed={seed})"


def _anything(model: Model) -> Any:
    """The box for the first look at the data; the model's own box is checked after the doctor spoke."""
    from hardpoint.core.box import UNBOUNDED

    return UNBOUNDED


def _schema_findings(threat: Threat, x: Tensor) -> tuple[Finding, ...]:
    """What is amiss with a table's constraints, seen on some rows."""
    if not isinstance(threat.perturbation, FeatureEdits):
        return ()
    kinds = {LintKind.VACUOUS_RELATION: "HP204", **dict.fromkeys(_ROWS_AGAINST_SCHEMA, "HP205")}
    return tuple(
        finding(
            kinds[issue.kind], f"{issue.subject}: {issue.message}", cure=issue.cure, measured=issue.measured
        )
        for issue in lint(threat.perturbation.schema, x.cpu())
        if issue.kind in kinds
    )


def _few(n: int) -> tuple[Finding, ...]:
    if n >= 200:
        return ()
    return (finding("HP403", f"{n} inputs", measured=float(n), threshold=200.0),)


def _device(model: Model) -> torch.device:
    device = getattr(model, "device", None)
    return device if isinstance(device, torch.device) else torch.device("cpu")
