"""What a search for an architecture finds beside a network made by hand, at no more weights: MNIST under Linf 0.3.

Both are trained in the same way on the same inputs; robust accuracy by ``fast`` on test inputs that the search never
saw. ``TRIALS`` says how many networks are tried, ``SEARCH`` names a run folder in which a killed search goes on.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import hardpoint as hp
from benchmarks.hardening import plain_convolutions
from benchmarks.measure import Options, Table
from benchmarks.models import mnist, mnist_training
from hardpoint.engine.guard import preserved_random_state


def run(options: Options) -> list[Table]:
    """One table: the network made by hand, and the one that was found."""
    n, tested, trials = (1000, 100, 3) if options.quick else (3000, 400, int(os.environ.get("TRIALS", "20")))
    (x, y), (xt, yt) = mnist_training(slice(n)), mnist()
    with preserved_random_state(seed=0):
        baseline = plain_convolutions()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(os.environ.get("SEARCH", folder)) / "run"
        found = hp.search(
            baseline,
            x,
            y,
            threat=hp.Linf(0.3),
            trials=trials,
            training=hp.Training(epochs=3 if options.quick else 9),
            test=(xt[:tested], yt[:tested]),
            judged=300,
            run_dir=path,
            resume=path.exists(),
            progress=False,
        )
    table = Table(
        f"A search over {len(found.record.trials) - 1} architectures: MNIST, Linf 0.3, {n} inputs to learn from",
        ["network", "weights", "operations", "robust, judged", "clean, tested", "robust, tested"],
    )
    for trial, assessed in ((found.record.baseline, found.before), (found.found, found.after)):
        assert trial is not None
        assert assessed is not None
        rates = [str(trial.robust), str(assessed.clean_accuracy), str(assessed.robust_accuracy)]
        table.rows.append([trial.words, f"{trial.weights:,}", f"{trial.operations:,}", *rates])
    ended = [trial.outcome for trial in found.record.trials[1:]]
    table.notes.append(
        f"{ended.count('finished')} trained to the end, {ended.count('given up')} given up, "
        f"{found.record.seconds / 60:.0f} minutes; 95 % intervals."
    )
    return [table]
