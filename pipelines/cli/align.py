"""`handful align`: do photos and scans stand in one frame, and can they be brought there?"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from .common import CommonOptions, Console, duration

if TYPE_CHECKING:
    from ...recon.capture import Capture
    from ...recon.points import PointCloud
    from ..scan.fit import FitReport, ScanFit

__all__ = ["Align"]


@dataclass(frozen=True, kw_only=True)
class Align(CommonOptions):
    """Check whether scans and photos fit, and bring them into one frame where they nearly do.

    Writes the photos with the scan drawn over them (overlay/), the verdict and its figures (align.json), and a capture that `handful reconstruct` takes:
    images/, transforms.json, scans/. Photos with cameras keep their frame and the scan moves; cameras that had to be found move to the scan, and so into
    metres. What does not fit is said, and stays where it was.

    Examples:
      handful align drive/ -o aligned/                              (a capture with cameras and scans)
      handful align photos/ --scan room.ply -o aligned/             (cameras are found first)
      handful align fern/ --scan a.las b.las --move nothing -o check/
      handful align drive/ --odometry -o aligned/                   (scans without poses, one after the other)
    """

    capture: tyro.conf.Positional[Path]
    """Photos, or a capture with cameras, or with scans (docs/captures.md)."""
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"], metavar="DIR")]
    """Folder to write, new or empty."""
    scan: Annotated[tuple[Path, ...], tyro.conf.arg(metavar="FILE ...")] = ()
    """Scans to take instead of the capture's own."""
    move: Literal["auto", "scan", "cameras", "nothing"] = "auto"
    """What is moved where they nearly fit: the scan where cameras are given, the cameras where they were found."""
    rigid: bool = False
    """Keep the scale: nothing is made larger or smaller."""
    odometry: bool = False
    """Find the scans' poses first, by LiDAR odometry (pip install 'handful[odometry]')."""
    max_side: int | None = None
    """Reduce photos to this longer side (default: 640)."""
    part: str | None = None
    """Part of a capture that comes in several: a scene of nuScenes."""
    max_photos: int | None = None
    """Use at most so many photos, evenly spaced."""
    seed: int = 0
    """Seed of the search for cameras."""

    def run(self) -> dict[str, Any]:
        from ...data.atomic import ensure_place, refuse_filled

        ensure_place(self.out, folder=True)  # what cannot work is told before the work
        refuse_filled(self.out)
        began, console = time.monotonic(), self.console
        capture, points, found = self._placed(self._loaded(console), console)
        fit = self._fit(capture, points, found, console)
        write_aligned(self.out, fit)
        first, *more = fit.report.sentences()
        if fit.report.verdict == "fits":
            console.say(first)
        else:
            console.warn(f"WARNING: {first}")
        for sentence in more:
            console.say(sentence)
        console.say(f"{self.out}: {len(fit.capture)} photos with the scan drawn over them in overlay/, {duration(time.monotonic() - began)}")
        if any(depth is not None for depth in capture.depth):
            console.say(f"What a depth sensor told of the photos is not in {self.out}; to reconstruct with it, give {self.capture} itself.")
        return summary(fit.report) | {"file": str(self.out), "photos": len(fit.capture), "scans": len(fit.capture.sweeps), "cameras_found": found}

    def _loaded(self, console: Console) -> Capture:
        from ...data.protocol import LoadOptions
        from ...data.registry import load_capture
        from ...data.scans.registry import read_scan
        from ...recon.errors import CaptureError, ConfigError
        from ..job import DEFAULT_MAX_SIDE

        capture = load_capture(self.capture, LoadOptions(max_side=self.max_side or DEFAULT_MAX_SIDE["cpu"], max_photos=self.max_photos, split=self.part)).kept()
        if self.scan:
            read = [read_scan(file) for file in self.scan]
            capture = replace(capture, sweeps=tuple(sweep for one in read for sweep in one.sweeps))
            for file, one in zip(self.scan, read, strict=True):
                for text in one.told(file):
                    console.warn(text)
        if not capture.sweeps:
            raise CaptureError(f"{self.capture} has no scan beside its photos; name one or more with --scan.")
        if self.rigid and (capture.cameras is None or self.odometry):
            why = "found ones have no scale to keep" if capture.cameras is None else "and scans in their world, which --odometry does not give"
            raise ConfigError(f"--rigid needs given cameras{':' if capture.cameras is None else ','} {why}.")
        for text in capture.warnings:
            console.warn(text)
        if self.odometry:
            from ...data.odometry_kiss import odometry

            capture = replace(capture, sweeps=odometry(capture.sweeps, lambda done: console.progress(f"following the scans ... {done:4.0%}")))
        return capture

    def _placed(self, capture: Capture, console: Console) -> tuple[Capture, PointCloud | None, bool]:
        """With cameras; points that the photos triangulate, None where they give none; and whether the cameras were found here."""
        from ...recon.errors import CaptureError
        from ..init.registry import get_initializer

        found = capture.cameras is None
        try:
            state = get_initializer("auto", capture=capture).run(capture, self.seed, lambda what, done: console.progress(f"{what} ... {done:4.0%}"))
        except CaptureError as e:
            if found:
                raise
            console.warn(f"the photos give no points to compare the scan with: {e}")
            return capture, None, False
        for text in state.report.warnings(capture.warnings):
            console.warn(text)
        return state.capture, state.points, found

    def _fit(self, capture: Capture, points: PointCloud | None, found: bool, console: Console) -> ScanFit:
        from ..scan.fit import fit_scans, place_scans
        from ..scan.join import of_one_frame

        def tell(what: str, done: float) -> None:
            console.progress(f"{what} ... {done:4.0%}")

        move = ("cameras" if found else "scan") if self.move in ("auto", "nothing") else self.move
        if (found or self.odometry) and points is not None and self.move != "nothing":  # odometry's world is the first scan's frame, whatever the cameras'
            sweeps, aside = of_one_frame(capture.sweeps)
            for text in aside:
                console.warn(text)
            return place_scans(replace(capture, sweeps=sweeps), points, move=move, progress=tell)
        return fit_scans(capture, points, move=move, with_scale=False if self.rigid else None, refine=self.move != "nothing", progress=tell)


def write_aligned(out: Path, fit: ScanFit) -> None:
    """The folder: whole, or not at all."""
    from ...data.atomic import new_folder, write_bytes, write_json
    from ...data.image_io import encode_png
    from ...data.nerfstudio_json import write_transforms
    from ...data.scans.npz_files import write_sweep
    from ...recon.sweeps import world_returns
    from ..scan.fit import MOST_RETURNS
    from ..scan.overlay import draw_overlay
    from ..scene_folder import extent_name, image_names, mask_name

    capture = fit.capture
    assert capture.cameras is not None, "what is fitted has cameras"
    files, returns = image_names(capture.names), world_returns(capture.sweeps, MOST_RETURNS)
    with new_folder(out) as folder:
        for i, (view, file) in enumerate(zip(capture.views, files, strict=True)):
            image = view.image.load()
            write_bytes(folder / file, encode_png(image))
            for shape, name in ((view.image.load_mask(), mask_name(file)), (view.image.load_extent(), extent_name(file))):
                if shape is not None:
                    write_bytes(folder / name, encode_png(shape[..., None].expand(-1, -1, 3)))
            write_bytes(folder / file.replace("images/", "overlay/", 1), encode_png(draw_overlay(image, capture.cameras[i], returns)))
        write_transforms(folder / "transforms.json", capture.cameras, files)
        for k, sweep in enumerate(capture.sweeps):
            write_sweep(folder / f"scans/{k:04d}.npz", sweep)
        write_json(folder / "align.json", as_json(fit.report))


def as_json(report: FitReport) -> dict[str, Any]:
    """Everything the report says; `new_from_old` maps what was moved, column vectors, the scale included; `scans_shifted_by` was added to
    the scans' coordinates (whole thousands, where they are those of a map and the cameras moved)."""
    scores = {k: None if s is None else asdict(s) | {"contrast": s.contrast, "verdict": s.verdict} for k, s in (("before", report.before), ("after", report.after))}
    return {
        "format": "handful-align", "version": 1, "verdict": report.verdict, "moved": report.moved, "scale": float(report.similarity.scale),
        "new_from_old": report.similarity.matrix.tolist(), "open_motions": report.open, "starts_tried": report.tried, "scans_shifted_by": list(report.shift), **scores, "said": list(report.sentences()),
    }  # fmt: skip


def summary(report: FitReport) -> dict[str, Any]:
    """The figures of the end result, flat."""
    score = report.after
    return {
        "verdict": report.verdict, "moved": report.moved, "scale": float(report.similarity.scale), "open_motions": report.open, "points": score.points,
        "covered": score.covered, "near": score.near, "apart": score.apart, "offset": score.offset, "contrast": score.contrast,
        "outlines": score.outlines,
    }  # fmt: skip
