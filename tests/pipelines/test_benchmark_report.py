"""Paired differences against closed forms, the verdicts they lead to, and the report: whole, escaped, looked at in a browser."""

from __future__ import annotations

import hashlib
import json
import math
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
import torch
from handful.data.atomic import write_bytes, write_json
from handful.data.image_io import encode_png
from handful.pipelines.bench.compare import Run, compare, sentence
from handful.pipelines.bench.page import write_report
from handful.pipelines.bench.page_choice import choice
from handful.pipelines.bench.page_worst import because
from handful.pipelines.bench.record import JobOutput
from handful.pipelines.bench.stats import paired, t_quantile
from handful.pipelines.bench.store import keep, read_listed, write_list, write_summary
from handful.pipelines.cli.main import _run
from handful.pipelines.config import to_jsonable
from handful.pipelines.protocols import EvalProtocol
from handful.recon.errors import ConfigError

EVIL = "<script>alert(1)</script>&\"'"


# -- statistics --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("p", [0.6, 0.9, 0.975, 0.9995])
def test_students_t_is_its_closed_forms(p: float) -> None:
    a = 4 * p * (1 - p)
    assert t_quantile(p, 1) == pytest.approx(math.tan(math.pi * (p - 0.5)), rel=1e-9)
    assert t_quantile(p, 2) == pytest.approx(2 * (p - 0.5) * math.sqrt(2 / a), rel=1e-9)
    q = math.cos(math.acos(math.sqrt(a)) / 3) / math.sqrt(a)
    assert t_quantile(p, 4) == pytest.approx(2 * math.sqrt(q - 1), rel=1e-8)


def test_students_t_is_the_tables_and_nearly_normal_for_many() -> None:
    assert [round(t_quantile(0.975, df), 3) for df in (3, 5, 11, 30)] == [3.182, 2.571, 2.201, 2.042]
    assert t_quantile(0.975, 100_000) == pytest.approx(1.95996, abs=1e-4) and t_quantile(0.5, 7) == 0
    with pytest.raises(ValueError, match="df >= 1"):
        t_quantile(0.9, 0)


def test_an_interval_by_hand() -> None:
    d = paired([0.1, 0.3, 0.5])  # mean 0.3, standard error 0.2 / sqrt(3)
    half = 4.302652729911275 * 0.2 / math.sqrt(3)
    assert (d.mean, d.low, d.high, d.pairs) == pytest.approx((0.3, 0.3 - half, 0.3 + half, 3)) and not d.told
    assert paired([0.1, 0.1, 0.1]).told and not paired([0.0, 0.0]).told
    assert paired([0.4]).low is None and not paired([0.4]).told


def test_the_interval_covers_the_truth_as_often_as_it_says() -> None:
    g = torch.Generator().manual_seed(0)
    samples = 0.2 + torch.randn(4000, 5, generator=g, dtype=torch.float64)
    hits = sum(d.low <= 0.2 <= d.high for d in (paired(s.tolist()) for s in samples) if d.low is not None and d.high is not None)
    assert 0.94 < hits / 4000 < 0.96


# -- comparison --------------------------------------------------------------------------------------------------------


def _protocol(scene: str = "fern", **changes: Any) -> dict[str, Any]:
    p = EvalProtocol("llff-3", "llff", scene, ("a", "b", "c"), ("t",), 8, (64, 48))
    return {**to_jsonable(p), **changes}


def _run_of(label: str, seed: int, psnr: float, scene: str = "fern", lpips: float | None = 0.2, **changes: Any) -> Run:
    return Run(label, _protocol(scene, **changes), seed, {"psnr": psnr, "ssim": 0.5 + psnr / 100, "lpips_vgg": lpips, "lpips_alex": None})


def test_pairs_are_formed_by_protocol_scene_and_seed() -> None:
    a = [_run_of("m", s, 20.0 + s, scene) for s in (0, 1, 2) for scene in ("fern", "horns")]
    b = [_run_of("n", s, 20.5 + s + 0.1 * (s == 1), scene, 0.15) for s in (2, 1, 5) for scene in ("horns", "fern")]
    c = compare(a, b)
    assert c.overall["psnr"].pairs == 4 and c.overall["psnr"].mean == pytest.approx(0.55)
    assert set(c.scenes) == {("llff-3", "fern"), ("llff-3", "horns")} and c.scenes["llff-3", "fern"]["psnr"].pairs == 2
    assert c.across["psnr"].pairs == 2 and "lpips_alex" not in c.overall
    d = c.overall["psnr"]
    assert d.low is not None and d.high is not None
    assert sentence(d, "psnr") == f"B is better by 0.55 dB PSNR (95 % {d.low:.2f} to {d.high:.2f}, 4 pairs)."
    assert sentence(c.overall["lpips_vgg"], "lpips_vgg").startswith("B is better by 0.0500 LPIPS-VGG"), "less LPIPS is better"


def test_a_scene_under_two_protocols_is_one_scene() -> None:
    a, b = ([_run_of("m", 0, 20.0 + x, scene, id=p) for p in ("llff-3", "llff-6") for scene, x in zip(("fern", "horns"), gains, strict=True)] for gains in ((0, 0), (1, 3)))
    c = compare(a, b)
    assert len(c.scenes) == 4 and c.overall["psnr"].pairs == 4
    assert c.across["psnr"].pairs == 2 and c.across["psnr"].mean == pytest.approx(2)


def test_two_data_sets_may_each_have_a_room() -> None:
    a, b = ([_run_of("m", 0, 20.0 + x, "room", id=p) for p, x in zip(("llff-3", "mipnerf360-12"), gains, strict=True)] for gains in ((0, 0), (1, 3)))
    assert compare(a, b).across["psnr"].pairs == 2


def test_a_verdict_needs_an_interval_without_zero() -> None:
    a = [_run_of("m", s, 20.0) for s in range(4)]
    unsure = compare(a, [_run_of("n", s, 20.0 + x) for s, x in enumerate((0.5, -0.4, 0.3, -0.2))])
    assert sentence(unsure.overall["psnr"], "psnr").startswith("No difference can be told: B minus A is +0.05 dB PSNR (95 % -0.")
    worse = compare(a, [_run_of("n", s, 19.0 + s / 100, lpips=0.3) for s in range(4)])
    assert sentence(worse.overall["psnr"], "psnr", "old", "new").startswith("new is worse by 0.98")
    assert sentence(worse.overall["lpips_vgg"], "lpips_vgg").startswith("B is worse by 0.1000")
    with pytest.raises(ConfigError, match="Only 1 run of A and B shares protocol, scene and seed; a difference needs at least 2"):
        compare(a, [_run_of("n", 0, 21.0)])
    with pytest.raises(ConfigError, match="differ in size"):
        compare(a, [_run_of("n", s, 21.0, size=[32, 24]) for s in range(4)])


# -- the report --------------------------------------------------------------------------------------------------------


def _record(label: str, seed: int, scene: str, psnr: float, origin: dict[str, Any], **training: Any) -> dict[str, Any]:
    digest = hashlib.sha256(f"{label} {seed} {scene}".encode()).hexdigest()
    name = re.sub(r"[^A-Za-z0-9]+", "-", f"{scene}-{label}-{seed}")
    return {
        "version": 1, "kind": "benchmark job", "name": name, "identity": digest, "status": "done", "error": None, "label": label, "method": "handful",
        "settings": {"optim": {"steps": 3}},
        "place": {"dataset": "llff", "scene": scene, "views": 3, "poses": "given", "downscale": None, "max_side": None, "every": 8, "split": None},
        "seed": seed, "device": "cpu", "protocol": _protocol(scene), "photos": {"a.png": "0" * 64},
        "scores": {"psnr": psnr, "ssim": 0.7, "lpips_vgg": 0.2, "lpips_alex": None},
        "views": [{"name": EVIL, "psnr": psnr, "ssim": 0.7, "lpips_vgg": 0.2, "lpips_alex": None}],
        "training": {
            "seconds": 77.25, "timed_alone": True, "other_cores": 0.0, "threads": 2, "peak_memory_mb": 600.0, "peak_gpu_mb": None, "gaussians": 1000,
            "curve": [[20, 0.3, 18.0], [40, 0.2, 20.0], [60, 0.1, 22.5]], **training,
        },
        "pictures": [{"view": EVIL, "render": f"pictures/{name}/0.png", "truth": "pictures/truth/t.png", "error": f"pictures/{name}/0e.png", "depth": f"pictures/{name}/0d.png"}],
        "submission": [], "notes": [f"a note {EVIL}"], **origin,
        "blame": [{"view": EVIL, "outside": {"area": 0.1, "error": 0.62}, "hidden": {"area": 0.2, "error": 0.3}, "unmeasured": {"area": 0.3, "error": 0.08},
                   "measured": {"area": 0.4, "error": 0.0}}],
    }  # fmt: skip


ORIGIN = {"commit": "c0ffee", "machine": {"system": "s", "cpu": "c", "cores": 2, "threads": 2, "gpu": "none"}, "versions": {"python": "3", "torch": "2"}}


def make_benchmark(out: Path, labels: tuple[str, ...] = ("base", EVIL), gain: float = 1.0, **training: Any) -> Path:
    records = [
        _record(label, seed, scene, 20 + seed / 10 + gain * k + k * seed / 50, ORIGIN, **training)
        for k, label in enumerate(labels) for seed in (0, 1, 2) for scene in ("fern", "horns")
    ]  # fmt: skip
    write_list(
        out,
        {
            "version": 1, "kind": "benchmark", "title": f"t {EVIL}", "file": "f.toml", "text": f"# {EVIL}", "command": "handful benchmark run f.toml",
            "labels": list(labels), "left_out": [f"llff trex: {EVIL}"], "jobs": [{"name": r["name"], "identity": r["identity"]} for r in records] + [{"name": "todo", "identity": "0"}],
        },
    )  # fmt: skip
    red, blue = torch.zeros(48, 64, 3), torch.zeros(48, 64, 3)
    red[..., 0], blue[..., 2] = 1, 1
    for r in records:
        p = r["pictures"][0]
        keep(out, JobOutput(r, {p["render"]: encode_png(red), p["truth"]: encode_png(blue), p["error"]: encode_png(red), p["depth"]: encode_png(red)}))
    return out


class _Page(HTMLParser):
    """Balanced tags, text, and every address the page names."""

    VOID = {"meta", "img", "input", "line", "circle", "polyline", "br"}

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.scripts = 0
        self.ids: set[str] = set()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        self.scripts += tag == "script"
        self.ids |= {v for k, v in attrs if k == "id" and v}
        self.addresses += [v or "" for k, v in attrs if k in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        if tag not in self.VOID:
            assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_worst_views_come_with_where_their_error_lies(tmp_path: Path) -> None:
    page = write_report(read_listed(make_benchmark(tmp_path))).read_text()
    section = page.split("Worst views of", 1)[1].split("</ul>", 1)[0]
    assert section.count("<li>") == 2, "one test photo in each of two scenes"
    assert "62% of the error lies where no training photo looks (10% of the picture); 30% of the error lies behind what the training photos show" in section
    assert "guessed" not in section and "measured" not in section, "small shares are not named"
    assert because({k: {"area": 0.25, "error": 0.0} for k in ("outside", "hidden", "unmeasured", "measured")}) == "There is next to no error."


def test_splats_and_fields_are_weighed(tmp_path: Path) -> None:
    out = make_benchmark(tmp_path, (EVIL, "field"), gain=2.0)
    assert "Splats or a field" not in write_report(read_listed(out)).read_text(), "one kind alone is not weighed"
    for path in (out / "jobs").glob("*-field-*.json"):
        record = json.loads(path.read_text())
        record["settings"] = {"grid": {}}
        record["training"]["seconds"] *= 4
        write_json(path, record)
    text = write_report(read_listed(out)).read_text().split("Splats or a field?", 1)[1].split("</ul>", 1)[0]
    assert text.count("<li>") == 2
    (out / "jobs").rename(out / "kept")  # and the other way round: what somebody wrote wins
    (out / "jobs").mkdir()
    for path in (out / "kept").glob("*.json"):
        record = json.loads(path.read_text())
        record["scores"]["psnr"] += 9 if record["label"] == EVIL else 0
        write_json(out / "jobs" / path.name, record)
    other = write_report(read_listed(out)).read_text().split("Splats or a field?", 1)[1].split("</ul>", 1)[0]
    assert EVIL not in other and "&lt;script&gt;" in other
    assert re.search(r"fern: choose <span[^>]*></span>field \(field\) \(\+2\.02 dB, LPIPS-VGG [+-]0\.\d{3} from splats to field; 3 seeds\); the field takes 4\.0 times as long\.", text), text


@pytest.mark.parametrize(
    ("psnr", "lpips", "says"),
    [
        (1.0, -0.05, "choose F (+1.00 dB"),
        (-1.0, 0.05, "choose S (-1.00 dB"),
        (1.0, 0.05, "F is nearer to the photos in the mean, S looks more like them"),
        (-1.0, -0.05, "S is nearer to the photos in the mean, F looks more like them"),
        (0.1, -0.05, "choose F"),
        (0.1, 0.001, "S and F are alike"),
        (-1.0, None, "choose S (-1.00 dB from"),
        (0.1, None, "S and F are alike (+0.10 dB from"),
    ],
)
def test_what_speaks_for_a_field(psnr: float, lpips: float | None, says: str) -> None:
    splats = {"label": "s", "psnr": 20.0, "lpips": None if lpips is None else 0.2, "seconds": 100.0, "seeds": 1}
    field = splats | {"psnr": 20.0 + psnr, "lpips": None if lpips is None else 0.2 + lpips, "seconds": 50.0}
    text = choice(splats, field, "S", "F")
    assert text.startswith(says) and text.endswith("1 seed); the splats take 2.0 times as long.")
    assert "long" not in choice(splats, field | {"seconds": None}, "S", "F")


def test_scenes_of_another_size_and_number_of_photos_are_told(tmp_path: Path) -> None:
    make_benchmark(tmp_path, ("base", "new"))
    assert "<p class=\"soft\">3 training photos, 64 x 48 pixels;" in write_report(read_listed(tmp_path)).read_text()
    for path in (tmp_path / "jobs").glob("horns*.json"):
        record = json.loads(path.read_text())
        record["protocol"] |= {"train": ["a", "b"], "size": [32, 24]}
        write_json(path, record)
    assert "<p class=\"soft\">2 to 3 training photos, 64 x 48 or 32 x 24 pixels;" in write_report(read_listed(tmp_path)).read_text()


def test_a_view_that_one_method_did_not_keep_shows_no_other_in_its_place(tmp_path: Path) -> None:
    make_benchmark(tmp_path, ("base", "new"))
    for path in (tmp_path / "jobs").glob("*.json"):
        record = json.loads(path.read_text())
        record["protocol"]["test"] = ["first.png", "second.png"]
        record["views"] = [{**record["views"][0], "name": n} for n in ("first.png", "second.png")]
        record["pictures"] = [{**record["pictures"][0], "view": "first.png" if record["label"] == "base" else "second.png"}]
        path.write_text(json.dumps(record))
    page = write_report(read_listed(tmp_path)).read_text()
    assert page.count("No picture of second.png was kept for base.") == page.count("No picture of first.png was kept for new.") == 2, "once a scene"
    for m, v, view in ((0, 0, "first.png"), (1, 1, "second.png")):
        panel = page.split(f'data-m="{m}" data-v="{v}"', 1)[1].split('<div class="panel"', 1)[0]
        assert f"{view}, seed 0" in panel


def test_records_and_plans_of_older_versions_are_read(tmp_path: Path) -> None:
    make_benchmark(tmp_path)
    for path in (tmp_path / "jobs").glob("*.json"):
        record = json.loads(path.read_text())
        del record["blame"]
        path.write_text(json.dumps(record))
    assert "Worst views of" in write_report(read_listed(tmp_path)).read_text()


def test_notes_of_the_file_are_shown(tmp_path: Path) -> None:
    make_benchmark(tmp_path)
    plan = json.loads((tmp_path / "benchmark.json").read_text()) | {"notes": ["Fog <b>left</b> of the table."]}
    (tmp_path / "benchmark.json").write_text(json.dumps(plan))
    assert "Fog &lt;b&gt;left&lt;/b&gt; of the table." in write_report(read_listed(tmp_path)).read_text()


def test_the_page_is_whole_and_escapes_what_others_wrote(tmp_path: Path) -> None:
    out = make_benchmark(tmp_path / "out")
    path = write_report(read_listed(out))
    page = _Page()
    page.feed(path.read_text())
    assert page.open == [] and page.scripts == 1, "one script, ours: names are text"
    files = [a for a in page.addresses if not a.startswith("#")]
    assert files and all((out / a).is_file() for a in files), "every picture and record is there, beside the page"
    assert {a[1:] for a in page.addresses if a.startswith("#")} <= page.ids
    for text in (f"t {EVIL}", f"a note {EVIL}", "c0ffee", "12 jobs done, 1 to do", "handful benchmark run f.toml", "Difference to base", f"# {EVIL}", f"llff trex: {EVIL}"):
        assert text in page.text, text
    assert "http" not in re.sub(r"https?://www\.w3\.org\S*", "", path.read_text()), "nothing is loaded from elsewhere"
    for cell in ("20.10 ± 0.10", "21.12 ± 0.12", "+1.02", "77.2 ± 0.0", "600"):
        assert cell in page.text, cell
    rows = {(r["scene"], r["label"]): r for r in write_summary(read_listed(out))["rows"]}
    assert rows["fern", "base"]["psnr"] == {"mean": 20.1, "std": 0.1} and rows["fern", "base"]["seeds"] == [0, 1, 2]


def test_times_that_were_not_measured_alone_are_not_shown(tmp_path: Path) -> None:
    page = write_report(read_listed(make_benchmark(tmp_path / "a", timed_alone=False))).read_text()
    assert "77.2" not in page
    busy = write_report(read_listed(make_benchmark(tmp_path / "b", other_cores=1.0))).read_text()
    assert "~ 77.2" in busy and "Other programs kept the machine busy during 12 of 12" in busy


def test_compare_speaks_about_folders_and_results_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = make_benchmark(tmp_path / "out", ("base", "new"))
    args = ["benchmark", "compare", str(out), str(out), "--method-a", "base", "--method-b", "new", "--json", str(tmp_path / "s.json")]
    assert _run(args) == 0
    said = capsys.readouterr().out
    assert "new is better by 1.02 dB PSNR (95 % 1.00 to 1.04, 6 pairs)." in said and "llff-3 horns, 3 seeds" in said and "Over the means of 2 scenes" in said
    summary = json.loads((tmp_path / "s.json").read_text())
    assert summary["pairs"] == 6 and summary["psnr.mean"] == pytest.approx(1.02) and summary["psnr.sentence"] in said
    assert _run(args[:4]) == 2 and "name the one to compare with --method-a" in capsys.readouterr().err
    assert _run([*args[:4], "--method-a", "gone"]) == 2 and "has no method 'gone'; it has base, new" in capsys.readouterr().err
    assert _run(["benchmark", "compare", str(tmp_path), str(out)]) == 2 and "neither a benchmark's folder nor a results file" in capsys.readouterr().err
    results = []
    for k, name in enumerate(("a", "b")):
        runs = [{"seed": s, "seconds": 1.0, "psnr": 20.0 + k, "ssim": 0.7, "lpips_vgg": None, "lpips_alex": None,
                 "views": [{"name": "t", "psnr": 20.0 + k, "ssim": 0.7, "lpips_vgg": None, "lpips_alex": None}]} for s in (0, 1)]  # fmt: skip
        mean = {"mean": 20.0 + k, "std": 0.0}
        metrics = {"psnr": mean, "ssim": {"mean": 0.7, "std": 0.0}, "lpips_vgg": None, "lpips_alex": None}
        data = {"version": 1, "kind": "evaluation", "protocol": _protocol(), "method": name, "settings": {}, "seeds": [0, 1], "metrics": metrics,
                "seconds": 1.0, "runs": runs, "notes": [], **ORIGIN}  # fmt: skip
        write_json(tmp_path / name / "results.json", data)
        results.append(tmp_path / name)
    assert _run(["benchmark", "compare", str(results[0]), str(results[1] / "results.json")]) == 0
    assert "B is better by 1.00 dB PSNR (95 % 1.00 to 1.00, 2 pairs)." in capsys.readouterr().out


def test_an_empty_folder_has_no_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _run(["benchmark", "report", str(tmp_path)]) == 2 and "has no benchmark.json" in capsys.readouterr().err
    out = make_benchmark(tmp_path / "out")
    (out / "report.html").unlink(missing_ok=True)
    assert _run(["benchmark", "report", str(out)]) == 0 and (out / "report.html").is_file() and (out / "results.json").is_file()
    write_bytes(out / "jobs" / "fern-base-0.json", b"{")
    assert _run(["benchmark", "report", str(out)]) == 2 and "fern-base-0.json" in capsys.readouterr().err


def test_the_slider_and_the_buttons_work_in_a_browser(browser: Any, tmp_path: Path) -> None:
    import io

    import numpy as np
    from PIL import Image

    path = write_report(read_listed(make_benchmark(tmp_path / "out")))
    page = browser.new_page(viewport={"width": 1200, "height": 900})
    troubles: list[str] = []
    page.on("pageerror", lambda e: troubles.append(str(e)))
    page.on("requestfailed", lambda r: troubles.append(r.url))
    page.goto(path.as_uri())
    box = page.locator(".cmp").first

    def red() -> float:
        """Share of the render (red) in what is shown over the photo (blue)."""
        pixels = np.asarray(Image.open(io.BytesIO(box.screenshot())).convert("RGB")).astype(int)
        inner = pixels[len(pixels) // 4 : len(pixels) // 3]
        return float((inner[..., 0] > inner[..., 2]).mean())

    assert red() == pytest.approx(0.5, abs=0.04)
    box.locator("input").evaluate("e => { e.value = 90; e.dispatchEvent(new Event('input')); }")
    assert red() == pytest.approx(0.9, abs=0.04)
    scene = page.locator(".scene").first
    assert scene.locator(".panel:visible").count() == 1 and scene.locator(".panel:visible .tag.l").inner_text() == "base"
    scene.locator("button[data-kind=m]").nth(1).click()
    assert scene.locator(".panel:visible").count() == 1 and scene.locator(".panel:visible .tag.l").inner_text() == EVIL
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), "nothing sticks out"
    assert troubles == []
    page.close()
