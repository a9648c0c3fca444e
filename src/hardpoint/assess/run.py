"""An assessment under way: pieces of work done, kept, and gathered in a table."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from hardpoint.assess.cascade import quota
from hardpoint.assess.panel import Strength, measure_strength
from hardpoint.assess.prepare import Prepared
from hardpoint.assess.progress import Progress
from hardpoint.assess.record import make_record
from hardpoint.assess.result import ExampleSource, InFolder, InMemory, Joined, Result
from hardpoint.assess.stage import disagree
from hardpoint.assess.work import Arrays, Piece, Table, do_piece
from hardpoint.core.errors import RunError
from hardpoint.data import MemoryDataset
from hardpoint.engine.attack import Attack
from hardpoint.engine.executors import Executor, Pool
from hardpoint.engine.twin import TwinPlan
from hardpoint.evidence.assessment import Check, StageRecord, Status, Verdict
from hardpoint.evidence.store import AssessmentFolder, RunFolder


def remembered_twin(folder: AssessmentFolder) -> TwinPlan | None:
    """The copy that an interrupted assessment searched on, where it left a plan that this version reads."""
    if not (folder.path / "plan.json").exists():
        return None
    try:
        plan = TwinPlan.from_json(folder.plan()["twin"])
    except (KeyError, TypeError, ValueError):
        return None  # the plans then differ, and the error names how
    return None if plan.bfloat16 else plan  # which earlier versions searched in


class Run:
    """One assessment: does what is not done yet, in a folder or in memory, and writes the record.

    Args:
        prepared: what is to be done.
        run: the run folder, or None to keep everything in memory.
        executor: where pieces are done.
        display: where progress is shown.
        header: what the run folder says of the run.
    """

    def __init__(
        self,
        prepared: Prepared,
        run: RunFolder | None,
        executor: Executor,
        display: Progress,
        header: dict[str, Any],
    ) -> None:
        self.prepared, self.session = prepared, prepared.session
        self.run, self.executor, self.display, self.header = run, executor, display, header
        self.folder: AssessmentFolder | None = run.assessment(prepared.name) if run else None
        self.examples: list[tuple[NDArray[np.int64], NDArray[Any]]] = []
        self.table = Table(len(self.session.data), 0)
        self.met: list[tuple[Attack, NDArray[np.int64]]] = []
        self.rugged = np.zeros(len(self.session.data), dtype=np.bool_)
        self.out_of_time = False
        self.shards = executor.workers

    def begin(self, *, resume: bool) -> None:
        """Claim the folder; raises ``RunError`` where it holds other work."""
        if self.run is None or self.folder is None:
            return
        plan = self.prepared.plan()
        if resume and (self.folder.path / "plan.json").exists():
            self.folder.begin(plan)  # work under another plan is refused before anything is written
        self.run.begin(self.header, resume=resume)
        self.folder.begin(plan)
        self.shards = self.folder.shards(self.executor.workers)
        data = self.session.data
        if isinstance(data, MemoryDataset) and not (self.folder.path / "inputs.npy").exists():
            self.folder.write_inputs(np.asarray(data.x))

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
            with self.executor.open(do_piece, self.session) as pool:
                self._clean(pool)
                stages = self._stages(pool, range(len(self.session.stages)))
                strength = self._strength(pool, stages)
                reasons = (*self.prepared.diagnosis.misleading, *strength.misleading)
                allowed = self.session.threat.perturbation.eps > 0
                if reasons and allowed and self.session.wider and not self.out_of_time:
                    start, end = len(self.session.stages), len(self.session.every_stage)
                    stages += self._stages(pool, range(start, end))
                    strength = self._strength(pool, stages, strength).after(strength, reasons, stages[start:])
        except BaseException as error:
            if self.run is not None and self.run.exists:
                interrupted = isinstance(error, KeyboardInterrupt)
                with suppress(RunError):  # a full disk must not hide the error
                    self.run.update(status="interrupted" if interrupted else "failed")
            raise
        record = make_record(
            self.prepared,
            self.table,
            stages,
            strength,
            self._source(),
            gate=gate,
            seconds=time.monotonic() - began,
            out_of_time=self.out_of_time,
        )
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

    def _strength(
        self, pool: Pool, stages: tuple[StageRecord, ...], again: Strength | None = None
    ) -> Strength:
        if self.out_of_time:
            return again or Strength()
        self.display.begin("checking the attack's strength", 1)
        strength = measure_strength(self.session, self.table, stages, again, pool)
        if self.session.deadline.passed:  # checks that were cut short say nothing
            self.display.end("out of time")
            why = "the time ran out during the checks"
            return again or Strength((Check("HP301", "Strength", None, None, Verdict.NOT_RUN, why),))
        self.display.end("done")
        return strength

    def _clean(self, pool: Pool) -> None:
        n = len(self.session.data)
        unit = self._unit(n)
        everyone = np.arange(n)
        pieces = [Piece(-1, i, everyone[at : at + unit]) for i, at in enumerate(range(0, n, unit))]
        first = True
        for _, found in self._do(pool, "clean pass", pieces):
            if first:
                self.table.ranked = np.zeros((n, found["ranked"].shape[1]), dtype=np.int64)
                first = False
            self.table.add_clean(found)

    def _stages(self, pool: Pool, numbers: range) -> tuple[StageRecord, ...]:
        done: list[StageRecord] = []
        for stage in numbers:
            done.append(self._stage(pool, stage, done[-1] if done else None))
            if self.out_of_time:
                break
        if len(done) < len(numbers) or self.prepared.short_of_queries:
            self.table.cut_short[self.table.standing()] = True
        return tuple(done)

    def _unit(self, n: int) -> int:
        """Inputs in a piece of ``n``: as many pieces for each worker, none larger than four batches.

        A random model's draws belong to a piece, which must then be the same whoever does it.
        """
        if self.session.target.is_random:
            return 4 * self.session.target.capacity
        rounds = max(1, math.ceil(n / (4 * self.session.target.capacity * self.shards)))
        return max(1, math.ceil(n / (rounds * self.shards)))

    def _stage(self, pool: Pool, number: int, last: StageRecord | None) -> StageRecord:
        table, stage = self.table, self.session.every_stage[number]
        attack = stage.attack
        known = [positions for earlier, positions in self.met if earlier == attack]
        standing = np.setdiff1d(table.standing(), np.concatenate([*known, np.empty(0, dtype=np.int64)]))
        left_before = table.lead_left(standing)
        due = stage.is_due(last)
        beyond = stage.beyond(left_before, self.rugged[standing]) | (not due)
        drawn = beyond & quota(standing, self.session.seed) & (stage.sampled and due)
        spared, sampled = int((beyond & ~drawn).sum()), standing[drawn]
        standing = standing[~beyond | drawn]
        self.met.append((attack, standing))
        pieces, unit = [], self._unit(len(standing))
        for part, at in enumerate(range(0, len(standing), unit)):
            positions = standing[at : at + unit]
            pieces.append(Piece(number, part, positions, table.ranked[positions], self._allowance(positions)))
        began, before = time.monotonic(), (table.forward.sum(), table.backward.sum())
        broken = 0
        for _, found in self._do(pool, attack.name, pieces):
            table.add_attack(number, found)
            broken += int(found["broken"].sum())
            if len(found.get("adversarial", ())):
                self.examples.append((found["positions"][found["broken"]], found["adversarial"]))
        if stage.meets_all:
            self.rugged[standing] |= disagree(left_before, table.lead_left(standing))
        forward, backward = int(table.forward.sum() - before[0]), int(table.backward.sum() - before[1])
        queries = forward if self.prepared.black_box else 0
        return StageRecord(
            name=attack.name,
            inputs=len(standing),
            broken=broken,
            forward=forward,
            backward=backward,
            queries=queries,
            seconds=time.monotonic() - began,
            spared=spared,
            sampled=len(sampled),
            sampled_broken=int((table.status[sampled] == Status.BROKEN).sum()),
        )

    def _do(self, pool: Pool, what: str, pieces: list[Piece]) -> Iterator[tuple[Piece, Arrays]]:
        """Results of all pieces: those in the run folder first, then those still to do, kept as they come.

        Results are handed on in order, whatever order workers finish in, so that sums are the same every time.
        """
        self.display.begin(what, sum(len(p.positions) for p in pieces))
        known: dict[str, Arrays] = {}
        if self.folder is not None:
            done = [p for p in pieces if self.folder.has_unit(p.name)]
            known = {p.name: self._known(self.folder, p) for p in done}
        to_do = [p for p in pieces if p.name not in known]
        for piece in pieces:
            if piece.name in known:
                self.display.advance(len(piece.positions))
        for piece, found in pool.run(to_do):
            late = bool(found.get("late", False))
            self.out_of_time |= late
            if self.folder is not None and not late:
                self.folder.write_unit(piece.name, found)
                found = _without_examples(found)  # they are on disk; memory must not grow with the data
            known[piece.name] = found
            self.display.advance(len(piece.positions))
        broken = sum(int(f["broken"].sum()) for f in known.values() if "broken" in f)
        self.display.end(f"{broken} broken" if pieces and pieces[0].stage >= 0 else "done")
        for piece in pieces:
            yield piece, known[piece.name]

    @staticmethod
    def _known(folder: AssessmentFolder, piece: Piece) -> Arrays:
        found = folder.read_unit(piece.name)
        if not np.array_equal(found["positions"], piece.positions):
            raise RunError(
                f"{folder.path} holds other inputs under {piece.name}", "start anew in an empty folder"
            )
        return _without_examples(found)

    def _allowance(self, positions: NDArray[np.int64]) -> NDArray[np.int64] | None:
        """What each input may still spend."""
        table = self.table
        if self.prepared.black_box:
            limit, spent = self.prepared.query_limit, table.forward[positions]
        else:
            limit, spent = self.prepared.budget.passes, table.forward[positions] + table.backward[positions]
        return None if limit is None else limit - spent


def _without_examples(found: Arrays) -> Arrays:
    return {name: values for name, values in found.items() if name != "adversarial"}
