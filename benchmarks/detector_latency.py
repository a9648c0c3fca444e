"""What the usual detectors add to a network that takes 5 ms, and how their memory grows with the bank."""

from __future__ import annotations

import time
from collections.abc import Callable

import torch
from torch import Tensor, nn

import hardpoint as hp
from benchmarks.measure import Options, Table, interleaved, median, peak_memory
from benchmarks.mnist_network import LATE, accuracy, network
from benchmarks.models import mnist, mnist_training
from hardpoint.defenses import added_latency, calibrated
from hardpoint.defenses.defended import DefendedModel
from hardpoint.defenses.detectors import Energy, Mahalanobis, NearestNeighbours
from hardpoint.defenses.seen import Seen

BAR = 0.15


def latency(options: Options) -> list[Table]:
    """What the default set adds to a network that takes 5 ms, for one input on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        return [_added(options), _memory()]
    finally:
        torch.set_num_threads(threads)


def _added(options: Options) -> Table:
    bank = 10_000 if options.quick else 50_000
    width = _width_of_5ms()
    net = network(width, inputs=2_000, epochs=2)
    x, y = mnist_training(slice(10_000, 10_000 + bank))
    began = time.perf_counter()
    model = hp.Defended(net)
    seen = model.look(x, (LATE,))
    options.say(
        f"width {width}, {accuracy(net, *(part[:1000] for part in mnist())):.1%} right; the bank took "
        f"{time.perf_counter() - began:.0f} s to look at"
    )
    detectors = {
        "energy": Energy(),
        "Mahalanobis": Mahalanobis.fit(seen, y, LATE),
        f"nearest neighbours, bank of {bank:,}": NearestNeighbours.fit(seen, y, LATE, k=bank // 1000),
    }
    fresh = mnist()[0]
    sets = {**{name: [detector] for name, detector in detectors.items()}, "all three": [*detectors.values()]}
    armed = {name: calibrated(model, found, fresh[5_000:6_000], alpha=0.05) for name, found in sets.items()}
    table = Table(
        "Added latency, one input, one thread",
        ["detectors", "network ms", "with them ms", "added", f"≤ {BAR:.0%}"],
    )
    single = fresh[:40].split(1)

    def ask(which: DefendedModel) -> Callable[[], object]:
        return lambda: [which.predict(one) for one in single]

    jobs = {"": ask(model), **{name: ask(found) for name, found in armed.items()}}
    for job in jobs.values():
        job()
    times = interleaved(jobs, 5 if options.quick else 15, "cpu")
    bare = min(times[""].wall) / len(single)
    for name in sets:
        taken = min(times[name].wall) / len(single)
        ratio = taken / bare - 1
        cells = [
            name,
            f"{1e3 * bare:.2f}",
            f"{1e3 * taken:.2f}",
            f"{ratio:+.1%}",
            "yes" if ratio <= BAR else "no",
        ]
        table.rows.append(cells)
    batch = 1e3 * added_latency(armed["all three"], model, fresh[:64])
    table.notes.append(
        f"Least of 15 interleaved passes over {len(single)} inputs one by one. In batches of 64 all "
        f"three add {batch:.2f} ms per input."
    )
    return table


def _width_of_5ms() -> int:
    """Channels with which one input takes about 5 ms here."""
    one, width = torch.rand(1, 1, 28, 28), 32
    while True:
        net = network(width, inputs=128, epochs=1)
        with torch.no_grad():
            seconds = []
            for _ in range(31):
                began = time.perf_counter()
                net(one)
                seconds.append(time.perf_counter() - began)
        if median(seconds) > 4.8e-3 or width > 256:
            return width
        width = max(width + 4, int(width * min(1.5, (5e-3 / median(seconds)) ** 0.5)))


def _memory() -> Table:
    """Peak memory of making a detector and asking it, in banks of three sizes."""
    table = Table("Memory of nearest neighbours", ["bank", "bank MiB", "peak MiB on top of it", "per row"])
    generator = torch.Generator().manual_seed(0)
    for rows in (25_000, 50_000, 100_000):
        bank = nn.functional.normalize(torch.rand(rows, 128, generator=generator))
        asked = nn.functional.normalize(torch.rand(64, 128, generator=generator))

        def used(bank: Tensor = bank, asked: Tensor = asked) -> None:
            detector = NearestNeighbours(LATE, bank, 50)
            for part in (asked[:1], asked):
                detector.score(Seen(part, torch.zeros(len(part), 2), {LATE: part}))

        more = peak_memory(used, "cpu") or 0.0
        table.rows.append(
            [
                f"{rows:,}",
                f"{bank.numel() * 4 / 2**20:.0f}",
                f"{more:.0f}",
                f"{more * 2**20 / rows:.0f} bytes",
            ]
        )
    return table
