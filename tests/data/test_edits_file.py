"""edits.json: what is written is read; what cannot be meant is told, with the step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from handful.data.edits_file import read_edits, write_edits
from handful.recon.edits import CropBox, DropFaint, DropFar, DropLarge, DropLoose, Move
from handful.recon.errors import CaptureError

EVERY = (
    CropBox((0.1, 2, 3), (1, 1.5, 2), (0.5, 0.5, 0.5, 0.5), "outside"), DropFaint(0.05), DropLarge(0.3), DropFar((1, 2, 3), 4.0),
    DropLoose(20, 0.1), Move((1, 0, 0, 0.1), (1, 2, 3), 0.5, "up as in the view", True),
)  # fmt: skip


def test_round_trip(tmp_path: Path) -> None:
    write_edits(tmp_path / "edits.json", EVERY)
    assert read_edits(tmp_path / "edits.json") == EVERY
    write_edits(tmp_path / "edits.json", ())
    assert not (tmp_path / "edits.json").exists() and read_edits(tmp_path / "edits.json") == ()


@pytest.mark.parametrize(
    ("steps", "says"),
    [
        ([{"step": "drop_faint", "below": 0.1}, {"step": "melt"}], "step 2: there is no step"),
        ([{"step": "drop_faint", "below": "much"}], "step 1: below must be a number"),
        ([{"step": "drop_faint", "below": True}], "below must be a number"),
        ([{"step": "drop_faint"}], "below"),
        ([{"step": "drop_far", "center": [0, 0, 10**400], "beyond": 1}], "step 1"),
        ([{"step": "drop_faint", "below": 7}], "between 0 and 1"),
        ([{"step": "drop_loose", "smallest": 2.5, "reach": 1}], "smallest must be a number"),
        ([{"step": "crop_box", "center": [0, 0], "half": [1, 1, 1]}], "center must be 3 numbers"),
        ([{"step": "crop_box", "center": [0, 0, 0], "half": [1, 1, 1], "color": 3}], "no 'color'"),
        ([{"step": "move", "what": 3}], "what must be a text"),
        ([{"step": "move", "upright": 1}], "upright must be true or false"),
        (["drop"], "there is no step"),
    ],
)
def test_what_cannot_be_meant(tmp_path: Path, steps: list[object], says: str) -> None:
    file = tmp_path / "edits.json"
    file.write_text(json.dumps({"format": "handful-edits", "version": 1, "steps": steps}))
    with pytest.raises(CaptureError, match=says) as e:
        read_edits(file)
    assert str(file) in str(e.value) and "delete it" in str(e.value)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": "handful-edits", "version": 2, "steps": []}', '{"format": "handful-edits", "version": 1}', "[" * 5000])
def test_no_list_of_edits(tmp_path: Path, text: str) -> None:
    file = tmp_path / "edits.json"
    file.write_text(text)
    with pytest.raises(CaptureError, match=r"edits\.json"):
        read_edits(file)
