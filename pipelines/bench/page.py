"""The report of a benchmark: one static page. Pictures are files beside it; nothing is loaded from elsewhere."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ...data.atomic import write_text
from ..report import ERROR_FULL, TITLES
from ..results import METRICS
from .compare import differences, runs_of_records
from .page_choice import fields_or_splats
from .page_parts import Line, chart, dot, escape, interval_bar, interval_cell, plus_minus, src, table
from .page_style import SCRIPT, STYLE
from .page_worst import worst_views
from .stats import Difference, paired
from .store import Listed, stats

__all__ = ["write_report"]

Record = dict[str, Any]
BUSY = 0.1  # share of the cores that other programs may use before times are doubted


def write_report(listed: Listed) -> Path:
    """Writes report.html into the benchmark's folder and returns its path."""
    path = listed.folder / "report.html"
    write_text(path, page(listed))
    return path


def page(listed: Listed) -> str:
    """The page's text."""
    plan, done = listed.plan, listed.done
    labels = [label for label in plan["labels"] if any(r["label"] == label for r in listed.records)]
    protocols = list(dict.fromkeys(r["protocol"]["id"] for r in done))
    missing = len(plan["jobs"]) - len(listed.records)
    state = ", ".join(
        f"{count} {what}" for count, what in ((len(done), "jobs done"), (len(listed.failed), "failed"), (missing, "to do")) if count or what == "jobs done"
    )
    parts = [
        f"<h1>{escape(plan['title'])}</h1>",
        f'<p class="soft">{escape(state)}. Methods: {escape(", ".join(labels) or "none yet")}.</p>',
        "<nav>" + "".join(f'<a href="#{src(p)}">{escape(p)}</a>' for p in protocols) + '<a href="#repeat">To repeat it</a></nav>',
        *(f'<p class="note">{escape(n)}</p>' for n in _notes(done)),
        *(f"<p>{escape(n)}</p>" for n in plan.get("notes", [])),
    ]
    if listed.failed or plan["left_out"]:
        rows = [f'<td>all jobs of</td><td class="left" style="white-space:normal">{escape(text)}</td>' for text in plan["left_out"]]
        rows += [f'<td>{escape(r["name"])}</td><td class="left" style="white-space:normal">{escape(r["error"] or "")}</td>' for r in listed.failed]
        parts += ["<h2>Not done</h2>", table(("job", "why"), [rows])]
    for protocol in protocols:
        parts.append(_protocol(protocol, [r for r in done if r["protocol"]["id"] == protocol], labels))
    parts.append(_repeat(listed))
    head = f'<meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1"><title>{escape(plan["title"])}</title><style>{STYLE}</style>'
    head += "<noscript><style>.panel[hidden]{display:grid}</style></noscript>"
    return f'<!doctype html><html lang="en"><head>{head}</head><body><main>{"".join(parts)}</main><script>{SCRIPT}</script></body></html>\n'


def _notes(done: Sequence[Record]) -> list[str]:
    notes = sorted({n for r in done for n in r["notes"]})
    if len({r["commit"] for r in done}) > 1:
        notes.append("The results were computed by several versions of the code (see below), so differences may come from there.")
    if len({r["machine"]["cpu"] for r in done}) > 1:
        notes.append("The results were computed on different processors; times of different machines do not compare.")
    busy = [r for r in done if r["training"]["timed_alone"] and (r["training"]["other_cores"] or 0) > BUSY * r["machine"]["cores"]]
    if busy:
        notes.append(f"Other programs kept the machine busy during {len(busy)} of {len(done)} trainings; their times are too long and marked with ~.")
    return notes


# -- one protocol ------------------------------------------------------------------------------------------------------


def _protocol(protocol: str, records: Sequence[Record], labels: Sequence[str]) -> str:
    scenes = list(dict.fromkeys(r["protocol"]["scene"] for r in records))
    first = records[0]["protocol"]
    poses = {"given": "cameras are given", "sim3_aligned": "no cameras; test cameras aligned", "test_time_optimized": "no cameras; test cameras aligned and optimised"}
    photos = _range([len(r["protocol"]["train"]) for r in records])
    sizes = list(dict.fromkeys(tuple(r["protocol"]["size"]) for r in records if r["protocol"]["size"]))
    size = f", {' or '.join(f'{w} x {h}' for w, h in sizes)} pixels" if sizes else ""
    parts = [
        f'<h2 id="{escape(protocol)}">{escape(protocol)}</h2>',
        f'<p class="soft">{photos} training photos{size}; {poses[first["poses"]]}. Mean &plusmn; standard deviation over seeds; the best mean of a group is bold.</p>',
        _scores(records, scenes, labels),
        _differences(records, labels),
        fields_or_splats(records, labels),
        worst_views(records, labels),
    ]
    for scene in scenes:
        parts.append(_scene(scene, [r for r in records if r["protocol"]["scene"] == scene], labels))
    return "".join(parts)


def _range(values: Sequence[int]) -> str:
    return f"{min(values)}" if min(values) == max(values) else f"{min(values)} to {max(values)}"


def _scores(records: Sequence[Record], scenes: Sequence[str], labels: Sequence[str]) -> str:
    groups: list[tuple[str, dict[str, list[Record]]]] = []
    for scene in scenes:
        here = [r for r in records if r["protocol"]["scene"] == scene]
        groups.append((scene, {label: runs for label in labels if (runs := [r for r in here if r["label"] == label])}))
    shown = []
    if len(scenes) > 1:
        shown.append(_group_rows("mean of scenes", {label: _over_scenes([g.get(label, []) for _, g in groups]) for label in labels}, labels))
    shown += [_group_rows(scene, {label: _summary(runs) for label, runs in by_label.items()}, labels) for scene, by_label in groups]
    return table(("scene", "method", *(TITLES[m] for m in METRICS), "seconds", "memory (MB)", "seeds"), shown)


def _summary(runs: Sequence[Record]) -> dict[str, Any]:
    alone = all(r["training"]["timed_alone"] for r in runs)
    return {
        **{m: stats([(r["scores"] or {}).get(m) for r in runs]) for m in METRICS},
        "seconds": stats([r["training"]["seconds"] for r in runs]) if alone else None,
        "busy": any((r["training"]["other_cores"] or 0) > BUSY * r["machine"]["cores"] for r in runs),
        "memory": max(r["training"]["peak_memory_mb"] for r in runs),
        "seeds": len(runs),
    }


def _over_scenes(per_scene: Sequence[Sequence[Record]]) -> dict[str, Any] | None:
    """Each seed's mean over the scenes, then mean and spread over the seeds that every scene has; None where there is no such seed."""
    if not all(per_scene):
        return None
    seeds = sorted(set.intersection(*({r["seed"] for r in runs} for runs in per_scene)))
    if not seeds:
        return None
    rows = {s: [next(r for r in runs if r["seed"] == s) for runs in per_scene] for s in seeds}

    def over(value: Any) -> dict[str, float | None] | None:
        means = []
        for row in rows.values():
            values = [value(r) for r in row]
            means.append(None if None in values else statistics.fmean(values))
        return stats(means)

    every = [r for row in rows.values() for r in row]
    return {
        **{m: over(lambda r, m=m: (r["scores"] or {}).get(m)) for m in METRICS},
        "seconds": over(lambda r: r["training"]["seconds"]) if all(r["training"]["timed_alone"] for r in every) else None,
        "busy": _summary(every)["busy"],
        "memory": max(r["training"]["peak_memory_mb"] for r in every),
        "seeds": len(seeds),
    }


def _group_rows(name: str, by_label: dict[str, dict[str, Any] | None], labels: Sequence[str]) -> list[str]:
    rows = []
    known = [s for s in by_label.values() if s is not None]
    for label, s in by_label.items():
        first = f"<td>{escape(name)}</td>" if not rows else "<td></td>"
        cells = [first, f'<td class="left">{dot(labels.index(label), label)}</td>']
        if s is None:
            rows.append("".join(cells) + f'<td colspan="{len(METRICS) + 3}" class="soft left">not every scene has a run yet</td>')
            continue
        for m in METRICS:
            means = [k[m]["mean"] for k in known if k[m] is not None]
            best = bool(means) and s[m] is not None and len(known) > 1 and s[m]["mean"] == (min(means) if m.startswith("lpips") else max(means))
            cells.append(plus_minus(s[m], 2 if m == "psnr" else 3, best))
        seconds = plus_minus(s["seconds"], 1)
        cells.append(seconds.replace("<td>", "<td>~ ", 1) if s["busy"] and s["seconds"] is not None else seconds)
        cells.append(f"<td>{s['memory']:.0f}</td><td>{s['seeds']}</td>")
        rows.append("".join(cells))
    return rows


def _differences(records: Sequence[Record], labels: Sequence[str]) -> str:
    """Every method against the first, pair by pair."""
    runs, metrics = runs_of_records(records), METRICS[:3]
    present = [label for label in labels if any(r.label == label for r in runs)]
    groups: dict[str, list[tuple[str, dict[str, Difference]]]] = {}
    for label in present[1:]:
        of = {m: differences([r for r in runs if r.label == present[0]], [r for r in runs if r.label == label], m) for m in metrics}
        if len(of["psnr"]) > 1:
            groups.setdefault("all pairs", []).append((label, {m: paired([x for v in d.values() for x in v]) for m, d in of.items() if d}))
            groups.setdefault("means of scenes", []).append((label, {m: paired([statistics.fmean(v) for v in d.values()]) for m, d in of.items() if d}))
        for key in of["psnr"]:
            groups.setdefault(key[1], []).append((label, {m: paired(d[key]) for m, d in of.items() if key in d}))
    if not groups:
        return ""
    reach = max(abs(x) for name, rows in groups.items() if name != "means of scenes" for _, d in rows for x in (d["psnr"].mean, d["psnr"].low or 0.0, d["psnr"].high or 0.0))
    shown = []
    for name, rows in groups.items():
        cells = []
        for i, (label, d) in enumerate(rows):
            scores = "".join(interval_cell(d.get(m), m) for m in metrics[1:])
            bar = interval_bar(d["psnr"], reach, labels.index(label))
            cells.append(
                f'<td>{escape(name) if i == 0 else ""}</td><td class="left">{dot(labels.index(label), label)}</td><td>{d["psnr"].pairs}</td>'
                f"{interval_cell(d['psnr'], 'psnr')}<td>{bar}</td>{scores}"
            )
        shown.append(cells)
    head = ("scene", "method", "pairs", TITLES["psnr"], "", *(TITLES[m] for m in metrics[1:]))
    return (
        f"<h3>Difference to {escape(present[0])}</h3>"
        '<p class="soft">Pairs of runs with the same scene and seed; small: 95 % intervals by Student\'s t. Coloured where the interval leaves zero out. '
        "Seeds of one scene repeat that scene; what holds for other scenes is told by the means of scenes.</p>" + table(head, shown)
    )


# -- one scene ---------------------------------------------------------------------------------------------------------


def _scene(scene: str, records: Sequence[Record], labels: Sequence[str]) -> str:
    """Pictures of each method's first seed, and the learning curves of all runs."""
    firsts = {label: min(runs, key=lambda r: r["seed"]) for label in labels if (runs := [r for r in records if r["label"] == label])}
    shown = [(label, r) for label, r in firsts.items() if r["pictures"]]
    parts = [f'<section class="scene"><h3>{escape(scene)}</h3>']
    if shown:
        kept = {p["view"] for _, r in shown for p in r["pictures"]}
        views = [v["name"] for v in shown[0][1]["views"] if v["name"] in kept]
        if len(shown) > 1:
            parts.append(_tabs("m", [dot(labels.index(label), label) for label, _ in shown]))
        if len(views) > 1:
            parts.append(_tabs("v", [escape(v) for v in views]))
        for m, (label, r) in enumerate(shown):
            pictures = {p["view"]: p for p in r["pictures"]}
            parts += [_panel(m, v, label, r, pictures[name]) if name in pictures else _no_panel(m, v, label, name) for v, name in enumerate(views)]
    submitted = sorted({str(Path(r["submission"][0]).parent.parent) for r in records if r["submission"]})
    if submitted:
        parts.append(f'<p>To submit, zip the contents of: {", ".join(f"<code>{escape(s)}</code>" for s in submitted)}</p>')
    curves = [(labels.index(r["label"]), r["training"]["curve"]) for r in records]
    parts.append('<div class="charts">')
    parts.append(chart("PSNR of training photos (dB)", [Line(i, tuple((c[0], c[2]) for c in curve)) for i, curve in curves], 1))
    parts.append(chart("training loss", [Line(i, tuple((c[0], c[1]) for c in curve)) for i, curve in curves], 3))
    return "".join([*parts, "</div></section>"])


def _tabs(kind: str, names: Sequence[str]) -> str:
    buttons = "".join(f'<button type="button" data-kind="{kind}" data-value="{i}" aria-pressed="{str(i == 0).lower()}">{name}</button>' for i, name in enumerate(names))
    return f'<div class="tabs">{buttons}</div>'


def _panel(m: int, v: int, label: str, record: Record, picture: dict[str, str]) -> str:
    """Ours over the photo with a slider; error and depth beside it."""
    view = next(x for x in record["views"] if x["name"] == picture["view"])
    scores = ", ".join(f"{TITLES[k]} {view[k]:.{2 if k == 'psnr' else 4}f}" for k in METRICS if view[k] is not None)

    def image(kind: str, alt: str, extra: str = "") -> str:
        return f'<img loading="lazy" {extra}alt="{escape(alt)}" src="{src(picture[kind])}">'

    compare = (
        f'<div class="cmp">{image("truth", "photo")}{image("render", "render", "class=over ")}<span class="bar"></span>'
        f'<span class="tag l">{escape(label)}</span><span class="tag r">photo</span>'
        '<input type="range" min="0" max="100" value="50" aria-label="render to the left, photo to the right"></div>'
    )
    beside = (
        f'<figure>{image("error", "error")}<figcaption>error: violet 0, dark red {ERROR_FULL:g} and above</figcaption></figure>'
        f'<figure>{image("depth", "depth")}<figcaption>depth: red near, blue far</figcaption></figure>'
    )
    caption = f"<figcaption>{escape(picture['view'])}, seed {record['seed']}: {escape(scores)}</figcaption>"
    return f'<div class="panel" data-m="{m}" data-v="{v}"{"" if m == v == 0 else " hidden"}><figure>{compare}{caption}</figure><div class="stack">{beside}</div></div>'


def _no_panel(m: int, v: int, label: str, view: str) -> str:
    return f'<div class="panel" data-m="{m}" data-v="{v}"{"" if m == v == 0 else " hidden"}><p class="soft">No picture of {escape(view)} was kept for {escape(label)}.</p></div>'


# -- to repeat it ------------------------------------------------------------------------------------------------------


def _repeat(listed: Listed) -> str:
    plan, records = listed.plan, listed.records
    settings = {r["label"]: {"method": r["method"], "settings": r["settings"]} for r in records}
    protocols = {f"{r['protocol']['id']} {r['protocol']['scene']}": r["protocol"] for r in records}
    photos = {f"{r['protocol']['id']} {r['protocol']['scene']}": r["photos"] for r in records}
    origins = []
    for r in records:
        origin = {"commit": r["commit"], "machine": r["machine"], "versions": r["versions"]}
        if origin not in origins:
            origins.append(origin)

    def block(title: str, text: str, open_: bool = False) -> str:
        return f"<details{' open' if open_ else ''}><summary>{escape(title)}</summary><pre>{escape(text)}</pre></details>"

    jobs = "".join(f'<li><a href="jobs/{src(r["name"])}.json">{escape(r["name"])}</a></li>' for r in records)
    return "".join(
        [
            '<h2 id="repeat">Everything needed to repeat it</h2>',
            block("Command", plan["command"], True),
            block(f"Benchmark file {plan['file']}", plan["text"], True),
            block("Code, machine, versions", json.dumps(origins, indent=1)),
            block("Methods with all settings", json.dumps(settings, indent=1)),
            block("Protocols: names of training and test photos, sizes, metrics", json.dumps(protocols, indent=1)),
            block("Photos (sha256)", json.dumps(photos, indent=1)),
            f"<details><summary>Results of every job</summary><ul>{jobs}</ul></details>",
        ]
    )
