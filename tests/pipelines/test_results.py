"""Results files: what they hold, what is refused; reports that can be looked at."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace

import numpy as np
import pytest
import torch
from handful.benchmarks.schema import main as schema_main
from handful.pipelines.evaluate import EvalReport, Pictures, ViewScore
from handful.pipelines.protocols import stored_protocols
from handful.pipelines.report import Row, error_map, report_rows, side_by_side, write_html
from handful.pipelines.results import SCHEMA, EvalResults, SeedResult, check_results, commit, machine, read_results, write_results
from handful.recon.errors import ConfigError, ShapeError
from PIL import Image

PROTOCOL = next(p for p in stored_protocols() if p.id == "llff-3" and p.scene == "fern")


@dataclass(frozen=True)
class Settings:
    steps: int = 1000
    places: tuple[str, ...] = ("a", "b")


def _report(shift: float = 0.0, pictures: bool = False) -> EvalReport:
    views = tuple(ViewScore(n + ".jpg", 20.0 + k + shift, 0.7 + shift / 10, 0.2, None) for k, n in enumerate(PROTOCOL.test))
    shots = None
    if pictures:
        g = torch.Generator().manual_seed(0)
        truth = torch.rand(3, 30, 40, 3, generator=g)
        shots = Pictures(tuple(v.name for v in views), (truth + 0.1).clamp(0, 1), truth)
    return EvalReport(PROTOCOL, views, ("lpips_alex is left out.",), shots)


def _results(shifts=(0.0, 0.2, 0.4), pictures: bool = False, method: str = "handful") -> EvalResults:
    return EvalResults(method, Settings(), tuple(SeedResult(k, _report(s, pictures), 12.5 + k) for k, s in enumerate(shifts)))


def test_the_summary_is_flat_and_complete():
    s = _results().summary()
    assert s == {
        "protocol": "llff-3", "scene": "fern", "views": 3, "seeds": 3, "psnr": 21.2, "ssim": 0.72, "lpips_vgg": 0.2, "lpips_alex": None,
        "psnr_std": 0.2, "seconds": 13.5,
    }  # fmt: skip
    assert _results((0.0,)).summary()["psnr_std"] is None, "one run has no spread"


def test_a_file_holds_all_that_makes_a_number_comparable(tmp_path):
    path = tmp_path / "deep" / "fern.json"
    write_results(path, _results())
    data = read_results(path)
    assert data["protocol"]["train"] == list(PROTOCOL.train) and data["seeds"] == [0, 1, 2] and len(data["runs"][0]["views"]) == 3
    assert data["metrics"]["psnr"] == {"mean": 21.2, "std": 0.2} and data["metrics"]["lpips_alex"] is None
    assert data["settings"] == {"steps": 1000, "places": ["a", "b"]} and data["versions"]["torch"] and data["machine"]["cores"] >= 1
    assert re.fullmatch(r"[0-9a-f]{40}(\+changes)?|release .+", data["commit"])
    assert [p.name for p in path.parent.iterdir()] == ["fern.json"], "no left-over beside it"


def test_no_host_or_user_is_named():
    import getpass
    import socket

    text = json.dumps([machine(), commit()])
    assert socket.gethostname() not in text and f'"{getpass.getuser()}"' not in text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"commit": None}, "at commit"),
        ({"speed": 1}, "unknown key speed"),
        ({"seeds": [0, 1, 3]}, "its runs have the seeds"),
        ({"metrics": {"psnr": {"mean": 30.0, "std": 0.1}, "ssim": None, "lpips_vgg": None, "lpips_alex": None}}, "stated mean psnr 30.0 is not that of its runs"),
        ({"runs": []}, "at runs"),
    ],
)
def test_a_wrong_file_is_refused(tmp_path, change, message):
    path = tmp_path / "r.json"
    data = write_results(path, _results())
    path.write_text(json.dumps({**data, **change}))
    with pytest.raises(ConfigError, match=message):
        read_results(path)
    with pytest.raises(ConfigError, match="it lacks seeds"):
        check_results({k: v for k, v in data.items() if k != "seeds"})


def test_the_schema_is_a_schema():
    from jsonschema import Draft202012Validator

    Draft202012Validator.check_schema(SCHEMA)


def test_results_that_do_not_belong_together_are_refused():
    other = replace(_report(), protocol=replace(PROTOCOL, id="llff-6"))
    with pytest.raises(ConfigError, match="different protocols or scenes"):
        EvalResults("m", None, (SeedResult(0, _report(), 1.0), SeedResult(1, other, 1.0)))
    with pytest.raises(ConfigError, match=r"own seed; got the seeds \[0, 0\]"):
        EvalResults("m", None, (SeedResult(0, _report(), 1.0), SeedResult(0, _report(), 1.0)))


def test_files_are_checked_from_the_command_line(tmp_path, capsys):
    write_results(tmp_path / "a.json", _results())
    assert schema_main([str(tmp_path / "a.json")]) == 0
    assert capsys.readouterr().out.startswith("llff-3 fern: handful, psnr 21.2 +- 0.2, ssim 0.72")
    assert schema_main([str(tmp_path / "none.json")]) == 2 and "cannot be read" in capsys.readouterr().err
    assert schema_main([]) == 2


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_sheet_shows_every_picture_where_it_belongs(tmp_path):
    path = tmp_path / "sheet.png"
    red, blue = torch.zeros(20, 30, 3), torch.zeros(20, 30, 3)
    red[..., 0], blue[..., 2] = 1, 1
    side_by_side(path, [("first", red, blue), Row("second, with a name too long for the sheet it is on " * 9, (("", blue), ("wide", torch.ones(24, 60, 3))))])
    sheet = np.asarray(Image.open(path)).astype(int)
    ys, xs = ((sheet == [255, 0, 0]).all(-1)).nonzero()
    assert len(ys) == 600 and np.ptp(ys) == 19 and np.ptp(xs) == 29
    assert ((sheet == [0, 0, 255]).all(-1)).sum() == 1200
    assert (sheet.sum(-1) < 200).sum() > 50, "labels are drawn"
    assert [p.name for p in tmp_path.iterdir()] == ["sheet.png"]
    with pytest.raises(ShapeError, match="at least one row"):
        side_by_side(path, [])
    with pytest.raises(ShapeError, match=r"'x', 'photo' is \(20, 30\)"):
        side_by_side(path, [("x", red[..., 0], blue[..., 0])])


def test_the_error_map_starts_violet_and_ends_red():
    a = torch.zeros(1, 2, 3)
    b = torch.tensor([[[0.0, 0.0, 0.0], [1.0, 1.0, 1.0]]])
    m = error_map(b, a)[0]
    assert m[0, 2] > m[0, 0] and m[1, 0] > m[1, 2]


def test_rows_carry_the_scores():
    rows = report_rows(_report(pictures=True))
    assert rows[0].label == "image000.jpg: PSNR (dB) 20, SSIM 0.7, LPIPS-VGG 0.2" and [c for c, _ in rows[0].pictures][:2] == ["photo", "render"]
    assert report_rows(_report()) == []


def test_the_page_is_whole_by_itself_and_escapes_names(tmp_path):
    results = _results(pictures=True)
    first = results.runs[0]
    evil = replace(first.report.views[0], name="<script>alert(1)</script>.jpg")
    results = replace(results, runs=(replace(first, report=replace(first.report, views=(evil, *first.report.views[1:]))), *results.runs[1:]))
    path = tmp_path / "report.html"
    write_html(path, results)
    page = path.read_text()
    assert "<script" not in page and "&lt;script&gt;" in page
    assert page.count("data:image/jpeg;base64,") == 9 and not re.search(r'(src|href)="(?!data:)', page), "nothing is loaded from elsewhere"
    assert "21.20" in page and "lpips_alex is left out." in page and "&quot;quantize_8bit&quot;: true" in page
    write_html(path, _results())
    assert "data:image" not in path.read_text()
