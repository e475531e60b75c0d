"""An outside judge: gsplat's own torch functions, step by step. The whole suite also runs over them (tests/conformance, `gsplat-torch`)."""

from __future__ import annotations

import pytest
import torch
from handful.recon.raster import reference
from handful.recon.raster.constants import NEAR_PLANE, TILE_SIZE
from handful.recon.raster.protocol import RasterOptions
from handful.recon.se3 import matrix_from_quat
from handful.recon.sh import rgb_from_sh, sh_basis

from .scenes import relative_error, smooth_scene, to_torch


def _projected(antialiased: bool, **kw):
    from gsplat.cuda import _torch_impl as outside

    g, c, _ = to_torch(smooth_scene(antialiased=antialiased, **kw), torch.float64)
    ours = [
        reference._project(g, c.cam_from_world[i], c.K[i], (c.width, c.height), RasterOptions(antialiased=antialiased))
        for i in range(len(c))
    ]
    covars, _ = outside._quat_scale_to_covar_preci(g.quats_wxyz, g.scales, compute_preci=False)
    theirs = outside._fully_fused_projection(g.means, covars, c.cam_from_world, c.K, c.width, c.height, calc_compensations=antialiased)
    return g, c, ours, theirs


def test_covariance() -> None:
    from gsplat.cuda._torch_impl import _quat_scale_to_covar_preci

    g, _, _ = to_torch(smooth_scene(), torch.float64)
    M = matrix_from_quat(g.quats_wxyz) * g.scales[:, None]
    want, _ = _quat_scale_to_covar_preci(g.quats_wxyz, g.scales, compute_preci=False)
    torch.testing.assert_close(M @ M.transpose(1, 2), want, rtol=1e-12, atol=1e-14)


def test_projection() -> None:
    for antialiased in (False, True):
        g, c, ours, (_, means2d, depths, conics, compensation) = _projected(antialiased, scale=-2.5)
        for i, s in enumerate(ours):
            assert (s.depth > NEAR_PLANE).all()
            assert relative_error(s.mean2d, means2d[i]) < 1e-13 and relative_error(s.depth, depths[i]) < 1e-13
            xx, xy, yy = s.cov2d.unbind(-1)
            assert relative_error(torch.stack([yy, -xy, xx], -1) / s.det[:, None], conics[i]) < 1e-11
            if antialiased:
                assert relative_error(s.opacity, g.opacities * compensation[i]) < 1e-9


def test_tiles(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours are tight: among gsplat's, in the same order, and none missing that a pixel needs (the images agree)."""
    from gsplat.cuda._torch_impl import _isect_offset_encode, _isect_tiles

    monkeypatch.setattr(reference, "TILE", TILE_SIZE)
    g, c, ours, (radii, means2d, depths, _, _) = _projected(False)
    tw, th = -(-c.width // TILE_SIZE), -(-c.height // TILE_SIZE)
    _, ids, flat = _isect_tiles(means2d.float(), radii, depths.float(), TILE_SIZE, tw, th)
    offsets = _isect_offset_encode(ids, len(c), tw, th).flatten().tolist() + [len(flat)]
    for i, s in enumerate(ours):
        drawn = (s.opacity >= 1 / 255).nonzero()[:, 0]
        one = reference._Splats(*(getattr(s, k)[drawn] for k in s.__dataclass_fields__))
        pairs, first, count = reference._bin(one, (tw, th))
        for t in range(tw * th):
            mine = drawn[pairs[first[t] : first[t] + count[t]]].tolist()
            theirs = (flat[offsets[i * tw * th + t] : offsets[i * tw * th + t + 1]] - i * len(g)).tolist()
            inside = [k for k in theirs if k in set(mine)]
            # what is wholly off screen is dropped by the caller, here it lands in a border tile
            assert [k for k in mine if k in set(theirs)] == inside
            for k in set(mine) - set(theirs):
                assert not (
                    (s.mean2d[k] + s.half_extent()[k] > 0) & (s.mean2d[k] - s.half_extent()[k] < torch.tensor([c.width, c.height]))
                ).all()


def test_spherical_harmonics() -> None:
    from gsplat.cuda._torch_impl import _eval_sh_bases_fast, _spherical_harmonics

    d = torch.nn.functional.normalize(torch.randn(200, 3, dtype=torch.float64), dim=-1)
    for degree in range(4):
        k = (degree + 1) ** 2
        torch.testing.assert_close(sh_basis(d, degree), _eval_sh_bases_fast(k, d), rtol=1e-11, atol=1e-12)
        sh = torch.randn(200, k, 3, dtype=torch.float64)
        torch.testing.assert_close(rgb_from_sh(sh, d), (_spherical_harmonics(degree, d, sh) + 0.5).clamp_min(0), rtol=1e-11, atol=1e-12)
