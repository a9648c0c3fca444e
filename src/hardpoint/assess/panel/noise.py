"""C8: random allowed inputs. I2: how much the answer trembles."""

from __future__ import annotations

import numpy as np
import torch

from hardpoint.assess.panel.pilot import Pilot, not_run
from hardpoint.core.access import Access
from hardpoint.core.rng import Rng
from hardpoint.core.rows import chunks, take_rows
from hardpoint.engine.verify import verify
from hardpoint.evidence.assessment import Check, Verdict
from hardpoint.threats import Linf

_DRAWS = 64
_TREMBLES = 16


def noise(pilot: Pilot) -> Check:
    """Random allowed inputs must break nothing that a gradient attack left standing; a black-box attack, which must
    stop at its query budget, may leave some, but must break more than they do."""
    session, white_box = pilot.session, pilot.white_box
    at = np.flatnonzero(pilot.standing if white_box else pilot.right)
    wins, draws = 0, _DRAWS if white_box else _fair_draws(session.threat.queries, pilot)
    allowed = 0.0 if white_box else float(pilot.broken.sum() / max(1, pilot.right.sum()))
    if len(at):
        rows = torch.from_numpy(at).to(pilot.x.device)
        region = session.threat.perturbation.around(pilot.x[rows], session.target.model.box)
        index = torch.from_numpy(pilot.index[at]).to(pilot.x.device)
        fell = torch.zeros(len(at), dtype=torch.bool, device=pilot.x.device)
        for draw in range(draws):
            point = region.sample(Rng(session.seed).fork("noise"), index, draw)
            labels = torch.cat(
                [session.target.model.predict(p) for p in chunks(point, session.target.capacity)]
            )
            claims = (session.threat.goal.reached(labels, pilot.y[rows]) & ~fell).nonzero().squeeze(1)
            if len(claims):
                fell[claims] = verify(
                    session.target.model,
                    take_rows(region, claims),
                    point[claims],
                    pilot.y[rows][claims],
                    session.threat.goal,
                    is_random=session.target.is_random,
                ).stands
        wins = int(fell.sum())
    share = wins / max(1, len(at))
    return Check(
        "HP301",
        "Random noise",
        share,
        allowed,
        Verdict.PASS if share <= allowed else Verdict.FAIL,
        f"{draws} random allowed inputs each broke {wins} of {len(at)} pilot inputs"
        + (" that stand" if white_box else f"; the attack broke {100 * allowed:.0f} %"),
    )


def _fair_draws(queries: int | None, pilot: Pilot) -> int:
    """No more random looks than the attack had at an input."""
    return max(1, min(16, queries if queries is not None else 16, pilot.spent))


def trembling(pilot: Pilot) -> Check:
    """I2: how much the lead of the right answer changes in noise of 1/255 of the input range, as a share of itself.

    Pintor et al. use the loss and 8/255; a loss of nearly 0 changes manyfold in any noise, the lead does not.
    """
    name, limit, session = "The answer is steady in faint noise", 0.2, pilot.session
    model = session.target.model
    if model.access < Access.SCORES or not model.box.is_bounded or pilot.is_table:
        return not_run("HP313", name, limit, "it needs scores, and an input range with ends")
    rows = pilot.places(pilot.right & pilot.attackable)
    if not len(rows):
        return not_run("HP313", name, limit, "no pilot input is answered right")
    x, y = pilot.x[rows], pilot.y[rows]
    low, high = model.box.bounds_like(x)
    faint = Linf(float((high - low).max()) / 255).around(x, model.box)
    index = torch.from_numpy(pilot.index).to(x.device)[rows]
    goal, change = session.threat.goal, torch.zeros(len(x), dtype=torch.float64, device=x.device)
    lead = goal.margin(model.scores(x), y).double()
    for draw in range(_TREMBLES):
        point = faint.sample(Rng(session.seed).fork("tremble"), index, draw)
        change += (goal.margin(model.scores(point), y).double() - lead).abs()
    share = (change / _TREMBLES / lead.abs().clamp_min(1e-300)).clamp(max=1.0)
    value = float(share.median())
    verdict = Verdict.PASS if value <= limit else Verdict.WARN
    words = (
        f"the lead of the right answer changes by {100 * value:.1f} % of itself, on half of the pilot inputs"
    )
    return Check("HP313", name, value, limit, verdict, words)
