"""The benchmark of random handfuls: what is drawn, and how it is counted."""

from __future__ import annotations

import numpy as np
from handful.benchmarks.handfuls import draw, summary


def test_a_handful_is_a_few_photos_of_a_run() -> None:
    rng = np.random.default_rng(0)
    sizes = set()
    for _ in range(300):
        picked = draw(rng, list(range(10, 60)))
        sizes.add(len(picked))
        assert picked == sorted(set(picked)) and 10 <= picked[0] and picked[-1] < 60
        assert picked[-1] - picked[0] <= 4 * len(picked)
    assert sizes == {3, 4, 5, 6}
    assert all(len(draw(rng, [0, 1, 2])) == 3 for _ in range(20)), "a small capture is drawn whole"


def test_photos_are_counted_by_capture_and_gap() -> None:
    rows = [
        {"capture": "a", "photos": ["1", "2", "3"], "gaps": [5, 20, 95], "right": ["1", "2"], "wrong": ["3"]},
        {"capture": "a", "photos": ["4", "5", "6"], "gaps": [14.9, 15, 16], "right": ["4", "5", "6"], "wrong": []},
        {"capture": "b", "photos": ["1", "2", "3"], "gaps": [50, 50, 50], "right": [], "wrong": [], "error": "none"},
    ]
    s = summary(rows)
    assert s["all"] == {"photos": 9, "right": 5, "wrong": 1, "handfuls": 3, "wholly": 1}
    assert s["a"] == {"photos": 6, "right": 5, "wrong": 1, "handfuls": 2, "wholly": 1}
    assert s["gap below 15"] == {"photos": 2, "right": 2, "wrong": 0}
    assert s["gap below 30"] == {"photos": 3, "right": 3, "wrong": 0}
    assert s["gap below 60"] == {"photos": 3, "right": 0, "wrong": 0}
    assert s["gap below 180"] == {"photos": 1, "right": 0, "wrong": 1}
