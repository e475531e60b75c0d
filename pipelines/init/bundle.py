"""Bundle adjustment for a handful of photos: robust, with a shared focal length under a prior. Plain numpy, deterministic.

Levenberg-Marquardt on the Schur complement of the points (Triggs et al. 2000, "Bundle adjustment - a modern synthesis"), dense over the few
cameras, Cauchy loss by iterative re-weighting. Priors on log focal length and on radial distortion are what a general-purpose adjuster does
not offer, and what few photos need: left free, the focal length drifts where the photos hardly determine it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from .geometry import Rig, rotation_exp
from .tracks import Tracks

__all__ = ["BundleOptions", "adjust", "robust_cost"]


@dataclass(frozen=True)
class BundleOptions:
    """What moves and what holds it.

    Attributes:
        iterations: at most this many accepted or refused steps.
        loss_scale: Cauchy scale in sigmas.
        focal: refine the focal lengths (one per distinct value of `camera_of`).
        focal_mean: per photo, pixels; what the focal lengths are expected to be. None = no expectation.
        focal_prior: standard deviation of the natural logarithm around it.
        distortion: refine k1, under a prior of standard deviation `distortion_prior` around 0.
        poses: refine the poses; False adjusts points (and focal lengths) alone.
    """

    iterations: int = 30
    loss_scale: float = 1.5
    focal: bool = False
    focal_mean: np.ndarray | None = None
    focal_prior: float = 0.3
    distortion: bool = False
    distortion_prior: float = 0.05
    poses: bool = True
    tolerance: float = 1e-5


def adjust(
    rig: Rig, tracks: Tracks, points: np.ndarray, options: BundleOptions, camera_of: np.ndarray | None = None
) -> tuple[Rig, np.ndarray, float]:
    """Minimises the robust reprojection error over placed cameras, points and what `options` frees.

    Args:
        tracks: agreeing observations only (every track has a finite point, every view is placed).
        points: T,3.
        camera_of: per photo the number of its physical camera (photos of one camera share the focal length); None = one camera.

    Returns:
        Rig, points and the final cost (half the sum of robust squared sigmas plus priors).
    """
    problem = _Problem(rig, tracks, options, np.zeros(len(rig.t), dtype=int) if camera_of is None else camera_of)
    cost = problem.cost(rig, points)
    damping, iteration = 1e-4, 0
    while iteration < options.iterations:
        system = problem.linearise(rig, points)
        before = cost
        while iteration < options.iterations:
            iteration += 1
            new_rig, new_points = problem.step(rig, points, system, damping)
            new_cost = problem.cost(new_rig, new_points)
            if new_cost < cost:
                rig, points, cost = new_rig, new_points, new_cost
                damping = max(damping * 0.2, 1e-9)
                break
            damping *= 6.0
            if damping > 1e6:
                return rig, points, cost
        if before - cost < options.tolerance * before:
            break
    return rig, points, cost


def robust_cost(rig: Rig, tracks: Tracks, points: np.ndarray, options: BundleOptions, camera_of: np.ndarray | None = None) -> float:
    """The cost `adjust` minimises, without moving anything."""
    return _Problem(rig, tracks, options, np.zeros(len(rig.t), dtype=int) if camera_of is None else camera_of).cost(rig, points)


class _Problem:
    """One adjustment: the layout of the unknowns (poses of placed views but the first, log focal and k1 per camera, points)."""

    def __init__(self, rig: Rig, tracks: Tracks, options: BundleOptions, camera_of: np.ndarray) -> None:
        self.o, self.tracks, self.placed = options, tracks, np.flatnonzero(rig.placed)
        self.slot = np.full(len(rig.t), -1)
        self.slot[self.placed] = np.arange(len(self.placed))
        cameras, self.group = np.unique(camera_of[self.placed], return_inverse=True)
        self.groups = len(cameras)
        # photos not placed yet follow their camera, so that one camera keeps one focal length
        self.followers = [np.flatnonzero(camera_of == c) for c in cameras]
        self.first = np.array([self.placed[np.flatnonzero(self.group == g)[0]] for g in range(self.groups)])
        self.log_mean = None if options.focal_mean is None else np.log(np.asarray(options.focal_mean)[self.first])
        self.view_slot = self.slot[tracks.view]
        self.by_view = [np.flatnonzero(self.view_slot == s) for s in range(len(self.placed))]
        self.poses = 6 * len(self.placed)
        self.size = self.poses + 2 * self.groups
        free = np.zeros(self.size, dtype=bool)
        free[6 : self.poses] = options.poses
        free[self.poses : self.poses + self.groups] = options.focal
        free[self.poses + self.groups :] = options.distortion
        self.free = np.flatnonzero(free)

    def _residuals(self, rig: Rig, points: np.ndarray) -> tuple[np.ndarray, ...]:
        t = self.tracks
        p = np.einsum("oij,oj->oi", rig.R[t.view], points[t.track]) + rig.t[t.view]
        z = np.where(p[:, 2] > 1e-6, p[:, 2], 1e-6)
        n = p[:, :2] / z[:, None]
        r2 = (n * n).sum(1)
        d = 1 + rig.k1[t.view] * r2
        f = rig.scale(t.view)
        r = (f * d[:, None] * n + rig.center[t.view] - t.uv) / t.sigma[:, None]
        return p, z, n, r2, d, f, r

    def _means(self, rig: Rig) -> tuple[np.ndarray, np.ndarray]:
        """log focal and k1 per camera group."""
        return np.log(rig.focal[self.first]), rig.k1[self.first]

    def cost(self, rig: Rig, points: np.ndarray) -> float:
        r = self._residuals(rig, points)[-1]
        c2 = self.o.loss_scale**2
        total = 0.5 * c2 * np.log1p((r * r).sum(1) / c2).sum()
        logf, k1 = self._means(rig)
        if self.o.focal and self.log_mean is not None:
            total += 0.5 * (((logf - self.log_mean) / self.o.focal_prior) ** 2).sum()
        if self.o.distortion:
            total += 0.5 * ((k1 / self.o.distortion_prior) ** 2).sum()
        return float(total) if np.isfinite(total) else np.inf

    def linearise(self, rig: Rig, points: np.ndarray) -> tuple[np.ndarray, ...]:
        """Normal equations: camera block U, its gradient, point blocks V, their gradients, coupling W (size, T, 3)."""
        t = self.tracks
        p, z, n, r2, d, f, r = self._residuals(rig, points)
        w = 1.0 / (1.0 + (r * r).sum(1) / self.o.loss_scale**2)
        root = np.sqrt(w) / t.sigma
        r = r * np.sqrt(w)[:, None]
        k1 = rig.k1[t.view]
        fr = f * root[:, None]
        dn = fr[:, :, None] * (d[:, None, None] * np.eye(2) + 2 * k1[:, None, None] * n[:, :, None] * n[:, None, :])
        dp = np.zeros((len(z), 2, 3))
        dp[:, 0, 0] = dp[:, 1, 1] = 1 / z
        dp[:, :, 2] = -n / z[:, None]
        Jp = dn @ dp  # by the point in camera axes
        cross = np.zeros((len(z), 3, 3))  # -[p]x
        cross[:, 0, 1], cross[:, 0, 2], cross[:, 1, 2] = p[:, 2], -p[:, 1], p[:, 0]
        cross = cross - cross.transpose(0, 2, 1)
        Jc = np.concatenate([Jp @ cross, Jp], 2)  # rotation, translation
        Jx = Jp @ rig.R[t.view]
        Jf = fr * d[:, None] * n
        Jk = fr * r2[:, None] * n
        U, g = np.zeros((self.size, self.size)), np.zeros(self.size)
        W = np.zeros((self.size, t.count, 3))
        for s, obs in enumerate(self.by_view):
            cols = np.r_[6 * s : 6 * s + 6, self.poses + self.group[s], self.poses + self.groups + self.group[s]]
            J = np.concatenate([Jc[obs], Jf[obs][:, :, None], Jk[obs][:, :, None]], 2)
            flat = J.reshape(-1, 8)
            U[np.ix_(cols, cols)] += flat.T @ flat
            g[cols] += flat.T @ r[obs].reshape(-1)
            # within one view every track occurs once, so plain indexed addition is enough
            W[cols[:, None], t.track[obs]] += np.einsum("oki,okj->ioj", J, Jx[obs])
        V, gx = np.zeros((t.count, 3, 3)), np.zeros((t.count, 3))
        for i in range(3):
            gx[:, i] = np.bincount(t.track, weights=(Jx[:, :, i] * r).sum(1), minlength=t.count)
            for j in range(i, 3):
                V[:, i, j] = V[:, j, i] = np.bincount(t.track, weights=(Jx[:, :, i] * Jx[:, :, j]).sum(1), minlength=t.count)
        logf, k = self._means(rig)
        if self.o.focal and self.log_mean is not None:
            i = self.poses + np.arange(self.groups)
            U[i, i] += 1 / self.o.focal_prior**2
            g[i] += (logf - self.log_mean) / self.o.focal_prior**2
        if self.o.distortion:
            i = self.poses + self.groups + np.arange(self.groups)
            U[i, i] += 1 / self.o.distortion_prior**2
            g[i] += k / self.o.distortion_prior**2
        return U[np.ix_(self.free, self.free)], g[self.free], V, gx, W[self.free]

    def step(self, rig: Rig, points: np.ndarray, system: tuple[np.ndarray, ...], damping: float) -> tuple[Rig, np.ndarray]:
        U, g, V, gx, W = system
        V = V + (damping * np.einsum("tii->ti", V) + 1e-12)[:, :, None] * np.eye(3)
        Vinv = np.linalg.inv(V)
        n = len(g)  # may be 0: points alone
        WV = np.einsum("ctj,tjk->ctk", W, Vinv).reshape(n, V.shape[0] * 3)
        flat = W.reshape(n, V.shape[0] * 3)
        S = U + np.diag(damping * np.diag(U) + 1e-12) - WV @ flat.T
        rhs = -g + WV @ gx.reshape(-1)
        try:
            dc = np.linalg.solve(S, rhs) if n else rhs
        except np.linalg.LinAlgError:
            return rig, points
        dx = -np.einsum("tij,tj->ti", Vinv, gx + np.tensordot(dc, W, 1))
        delta = np.zeros(self.size)
        delta[self.free] = dc
        pose = delta[: self.poses].reshape(-1, 6)
        E = rotation_exp(pose[:, :3])
        R, t, focal, k1 = rig.R.copy(), rig.t.copy(), rig.focal.copy(), rig.k1.copy()
        i = self.placed
        R[i], t[i] = E @ rig.R[i], np.einsum("vij,vj->vi", E, rig.t[i]) + pose[:, 3:]
        for g, views in enumerate(self.followers):
            focal[views] = rig.focal[views] * np.exp(np.clip(delta[self.poses + g], -0.3, 0.3))
            k1[views] = rig.k1[views] + delta[self.poses + self.groups + g]
        return replace(rig, R=R, t=t, focal=focal, k1=k1), points + dx
