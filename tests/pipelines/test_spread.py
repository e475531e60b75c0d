"""Photos from all around: k-means of where cameras stand, what is stored, and what is refused."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from handful.pipelines.bench.material import load_material
from handful.pipelines.bench.plan import Place
from handful.pipelines.cli.evaluate import Evaluate
from handful.pipelines.protocols import load_benchmark, load_protocol, stem, stored_path
from handful.pipelines.spread import most_apart, spread, spread_by_rule
from handful.recon.errors import ConfigError


def test_one_of_each_clump_the_nearest_to_its_middle() -> None:
    middles = torch.tensor([[0.0, 0, 0], [5, 0, 0], [0, 5, 0], [0, 0, 5]])
    offsets = torch.tensor([[0.5, 0, 0], [-0.5, 0, 0], [0, 0.5, 0], [0, -0.5, 0], [0.01, 0, 0]])
    places = (middles[:, None] + offsets).reshape(-1, 3)
    assert list(most_apart(places, 4)) == [4, 9, 14, 19]
    order = torch.randperm(20, generator=torch.Generator().manual_seed(0))
    assert sorted(order[list(most_apart(places[order], 4))].tolist()) == [4, 9, 14, 19]
    assert list(most_apart(places, 20)) == list(range(20)) and list(most_apart(places[:5] * 0, 3)) == [0, 1, 2]


def test_the_groups_are_settled() -> None:
    """No place is nearer to another group's mean, and no sum of squares of a start from other places is far below."""
    places = torch.nn.functional.normalize(torch.randn(100, 3, generator=torch.Generator().manual_seed(1)), dim=1)
    picked = places[list(most_apart(places, 6))]
    angles = [math.degrees(math.acos(float(a @ b))) for a, b in itertools.combinations(picked, 2)]
    assert min(angles) > 55, "six groups of a sphere lie as the faces of a cube, 90 degrees apart"


def test_stored_choice_of_lego(shared_data: Path) -> None:
    capture, protocol = load_benchmark("blender", shared_data / "synthetic_lego", 6)
    found = spread(protocol, capture)
    assert found.id == "blender-6-spread" and len(found.train) == 6 and found.test == protocol.test and found.size == (400, 400)
    assert found == spread_by_rule(protocol, capture), "stored by the rule, of these photos"
    assert load_protocol(stored_path(found)) == found
    cameras = capture.cameras
    assert cameras is not None
    at = {stem(n): torch.nn.functional.normalize(c, dim=0) for n, c in zip(capture.names, cameras.centers, strict=True)}

    def closest(names: tuple[str, ...]) -> float:
        return min(math.degrees(math.acos(float(at[a] @ at[b]))) for a, b in itertools.combinations(names, 2))

    assert closest(found.train) > 1.5 * closest(protocol.train)
    material = load_material(Place("blender", "lego", str(shared_data / "synthetic_lego"), 6, spread=True))
    assert material.protocol == found
    # with other photos at hand the stored choice is not there, and the rule speaks
    fewer = capture.select(tuple(n for n in capture.names if stem(n) != found.train[0]))
    other = spread(replace(protocol, train=tuple(t for t in protocol.train if t != found.train[0])), fewer)
    assert found.train[0] not in other.train


def test_only_where_photos_lie_around(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--spread is for blender"):
        Evaluate(dataset="llff", directory=tmp_path, spread=True).place()
    assert Evaluate(dataset="blender", directory=tmp_path, views=6, spread=True).place().spread
