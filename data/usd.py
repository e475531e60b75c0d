"""OpenUSD's ParticleField3DGaussianSplat (in OpenUSD since 26.03), read and written by Pixar's own usd-core.

Arrays: positions, orientations, scales (standard deviations), opacities (0 to 1), radiance:sphericalHarmonicsCoefficients (splat by splat,
(degree + 1)^2 colours each, in a PLY's order). The stage has y up: a PLY's axes are turned by 180 degrees about z, as for glTF.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from ..recon.errors import BackendUnavailable, CaptureError, ConfigError, HandfulError
from ..recon.gaussians import Gaussians
from .atomic import atomic_file, writing
from .splat_rows import FiniteRows, Meter, Progress, empty_gaussians, half_turn, put

__all__ = ["read_usd", "write_usd"]

_PRIM = "ParticleField3DGaussianSplat"
_Z = 2


def _pxr() -> Any:
    try:
        import pxr
        from pxr import Gf, Tf, Usd, UsdGeom, Vt  # noqa: F401
    except ImportError as e:
        raise BackendUnavailable("USD files need usd-core: pip install 'handful[usd]'") from e
    usd = cast(Any, Usd)
    if not usd.SchemaRegistry().FindConcretePrimDefinition(_PRIM):
        raise BackendUnavailable(f"USD files of splats need usd-core 26.3 or newer ({'.'.join(map(str, usd.GetVersion()[1:]))} is here): pip install -U usd-core")
    return pxr


def write_usd(path: str | Path, gaussians: Gaussians, progress: Progress | None = None) -> None:
    """.usdc or .usd (binary) or .usda (text); atomic. Not bounded in memory: usd-core wants each array whole."""
    pxr, path = _pxr(), Path(path)
    if path.suffix.lower() == ".usdz":
        raise ConfigError(f"{path.name}: a .usdz is read, but not written; write a .usdc.")
    rows = FiniteRows.of(gaussians)
    k, meter = (rows.sh_degree + 1) ** 2, Meter(progress, 2)
    stage = pxr.Usd.Stage.CreateInMemory()
    pxr.UsdGeom.SetStageUpAxis(stage, pxr.UsdGeom.Tokens.y)
    prim = stage.DefinePrim("/Splats", _PRIM)
    stage.SetDefaultPrim(prim)

    def column(what) -> np.ndarray:
        return np.ascontiguousarray(rows.column(lambda g: what(half_turn(g, _Z))).numpy())

    means = column(lambda g: g.means)
    arrays = {
        "positions": pxr.Vt.Vec3fArray.FromNumpy(means),
        "orientations": pxr.Vt.QuatfArray.FromNumpy(column(lambda g: g.quats_wxyz[:, [1, 2, 3, 0]])),
        "scales": pxr.Vt.Vec3fArray.FromNumpy(column(lambda g: g.scales.nan_to_num())),
        "opacities": pxr.Vt.FloatArray.FromNumpy(column(lambda g: g.opacities)),
        "radiance:sphericalHarmonicsCoefficients": pxr.Vt.Vec3fArray.FromNumpy(column(lambda g: g.sh).reshape(-1, 3)),
    }
    for name, values in arrays.items():
        prim.GetAttribute(name).Set(values)
    prim.GetAttribute("radiance:sphericalHarmonicsDegree").Set({1: 0, 4: 1, 9: 2, 16: 3}[k])
    if len(means):
        reach = column(lambda g: (3 * g.scales.amax(dim=1, keepdim=True)).nan_to_num())  # where a splat has all but ended
        ends = np.stack([(means - reach).min(axis=0), (means + reach).max(axis=0)]).astype(np.float32)
        prim.GetAttribute("extent").Set(pxr.Vt.Vec3fArray.FromNumpy(ends))
    meter.add(1)
    with writing(path):
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        scratch = tempfile.TemporaryDirectory(dir=Path(path).parent, prefix=".usd-")
    with atomic_file(path) as f, scratch as folder:
        made = Path(folder) / f"scene{path.suffix.lower() if path.suffix.lower() == '.usda' else '.usdc'}"  # usd-core goes by the ending
        try:
            done = stage.GetRootLayer().Export(str(made))
        except pxr.Tf.ErrorException:
            done = False
        if not done:
            raise HandfulError(f"Cannot write {path}: usd-core could not; is the disk full?")
        with made.open("rb") as source:
            shutil.copyfileobj(source, f)
    meter.add(1)


def read_usd(path: str | Path, progress: Progress | None = None) -> Gaussians:
    """The one ParticleField3DGaussianSplat of a USD file. Raises CaptureError when there is none, or when it is placed by a transform."""
    pxr, path = _pxr(), Path(path)
    with _ending(path) as file:
        return _read(pxr, path, file, progress)


@contextmanager
def _ending(path: Path) -> Iterator[Path]:
    """The file under a name whose ending says what is inside, since usd-core goes by that; where it does not, a link does for as long."""
    try:
        with path.open("rb") as f:
            head = f.read(8)
        inside = next((e for magic, e in ((b"PK", ".usdz"), (b"PXR-USDC", ".usdc"), (b"#usda", ".usda")) if head.startswith(magic)), None)
        endings = {None: (".usd", ".usda", ".usdc", ".usdz"), ".usdz": (".usdz",)}.get(inside, (inside, ".usd"))  # .usd stands for text and binary
        if path.suffix.lower() in endings:
            yield path
            return
        ending = inside or ".usd"
        with tempfile.TemporaryDirectory(prefix="handful-usd-") as folder:
            file = Path(folder) / f"scene{ending}"
            try:
                os.symlink(path.absolute(), file)
            except OSError:  # not everybody may make links on Windows
                shutil.copyfile(path, file)
            yield file
    except OSError as e:
        raise CaptureError(f"{path} cannot be read ({e.strerror or e}).") from e


def _read(pxr: Any, path: Path, file: Path, progress: Progress | None) -> Gaussians:
    """`path` is the name that people know."""
    try:
        stage = pxr.Usd.Stage.Open(str(file))
        prims = [p for p in stage.Traverse() if p.GetTypeName() == _PRIM]
        if len(prims) != 1:
            raise CaptureError(f"{path} holds {f'{len(prims)} sets of splats, and one is read' if prims else 'no Gaussian splats'} ({_PRIM}).")
        (prim,) = prims
        moved = pxr.UsdGeom.XformCache().GetLocalToWorldTransform(prim) != pxr.Gf.Matrix4d(1)
        if pxr.UsdGeom.GetStageUpAxis(stage) != pxr.UsdGeom.Tokens.y:
            raise CaptureError(f"{path} has z up, which is not read; write it with y up, USD's own default.")
        degree = int(prim.GetAttribute("radiance:sphericalHarmonicsDegree").Get() or 0)
        means, scales, opacities, sh = (_array(prim, n) for n in ("positions", "scales", "opacities", "radiance:sphericalHarmonicsCoefficients"))
        quats = _array(prim, "orientations")
    except pxr.Tf.ErrorException as e:
        raise CaptureError(f"{path} cannot be read by usd-core ({' '.join(str(e).split())[-150:]}).") from e
    if moved:
        raise CaptureError(f"{path} places its splats by a transform, which is not read; apply it in the program that wrote the file.")
    n, k = len(means), (degree + 1) ** 2
    if not 0 <= degree <= 3 or any(len(a) != n for a in (quats, scales, opacities)) or len(sh) != n * k:
        raise CaptureError(f"{path}: the arrays of its splats do not fit together ({n} positions, {len(sh)} harmonics of degree {degree}).")
    out, meter = empty_gaussians(n, degree), Meter(progress, 1)
    logits = torch.logit(torch.from_numpy(opacities.reshape(n)).clamp(1e-30, 1 - 2.0**-24))
    read = Gaussians(
        torch.from_numpy(means),
        torch.from_numpy(quats.reshape(n, 4)[:, [3, 0, 1, 2]]),
        torch.from_numpy(scales).clamp_min(1e-30).log(),
        logits,
        torch.from_numpy(sh.reshape(n, k, 3)),
    )
    put(out, 0, half_turn(read, _Z))
    meter.add(1)
    return out


def _array(prim: Any, name: str) -> np.ndarray:
    """float32; the half precision twin (name + h) where there is no other."""
    for which in (name, f"{name}h"):
        value = prim.GetAttribute(which).Get(_pxr().Usd.TimeCode.EarliestTime())  # an animation's first moment
        if value is not None and len(value):
            return np.array(value, np.float32)
    return np.zeros((0, 3), np.float32)
