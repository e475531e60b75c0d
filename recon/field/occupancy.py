"""Which cells of the cube may hold anything, and samples along rays in those alone (the occupancy grid of Mueller et al. 2022, Instant NGP, appendix E.2).

What finds that out during a run is an `Occupancy`: the grid here looks at the field's density, the classifier in learned_occupancy.py learns with the field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, Protocol

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from ..kernels import native_or_none
from .samples import Samples, Segments

__all__ = ["Occupancy", "OccupancyGrid", "OpacityFn", "cell_centers", "march", "march_torch"]

DensityFn = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]]
OpacityFn = Callable[[Float[Tensor, "N 3"]], Float[Tensor, "N"]]

LOOK_EVERY, LOOK_SHARE = 16, 0.25  # the grid looks at a share of its cells every so many steps


class Occupancy(Protocol):
    """What tells a run which cells to pass over; a torch module, whose parameters learn with the field's and whose state goes into the run's checkpoint. The march
    asks `cells` alone, and nothing else is kept with a finished field."""

    @property
    def cells(self) -> Bool[Tensor, "G G G"]: ...

    def loss(self, step: int, opacity: OpacityFn, rng: torch.Generator) -> Float[Tensor, ""] | None:
        """To be added to that of a step; None where nothing is learned. `opacity`: how opaque one step of the march is at places, differentiable in the field."""
        ...

    def after_step(self, step: int, density: DensityFn, rng: torch.Generator) -> None:
        """Brings `cells` up to date, where it is time to. `density` is asked without gradients."""
        ...

    def named_parameters(self) -> Iterator[tuple[str, nn.Parameter]]: ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state_dict: Mapping[str, Any], /) -> object: ...


def cell_centers(side: int, device: torch.device | str = "cpu") -> Float[Tensor, "G3 3"]:
    """Middles of `side`^3 cells of the cube."""
    axis = (torch.arange(side, device=device) + 0.5) / side
    return torch.stack(torch.meshgrid(axis, axis, axis, indexing="ij"), -1).reshape(-1, 3)


class OccupancyGrid(nn.Module):
    """`side`^3 cells. Each remembers the highest density lately seen in it, which fades by `fade` whenever it is looked at; those above `threshold` may hold something.
    In a run all cells may for `warm_up` steps; then all are looked at, and from there on a share of them every few steps."""

    density: Float[Tensor, "G G G"]

    def __init__(self, side: int = 96, fade: float = 0.9, threshold: float = 1.0, device: torch.device | str = "cpu", warm_up: int = 0) -> None:
        super().__init__()
        self.side, self.fade, self.threshold, self.warm_up = side, fade, threshold, warm_up
        self.register_buffer("density", torch.full((side,) * 3, float("inf"), device=device))

    def leave_out(self, cells: Bool[Tensor, "G G G"]) -> None:
        """These hold nothing; looking at them says so again."""
        self.density[cells] = 0.0

    @property
    def cells(self) -> Bool[Tensor, "G G G"]:
        return self.density > self.threshold

    def loss(self, step: int, opacity: OpacityFn, rng: torch.Generator) -> None:
        return None

    def after_step(self, step: int, density: DensityFn, rng: torch.Generator) -> None:
        if step >= self.warm_up and step % LOOK_EVERY == 0:
            self.update(density, rng, 1.0 if step < self.warm_up + LOOK_EVERY else LOOK_SHARE)

    @torch.no_grad()
    def update(self, density: DensityFn, rng: torch.Generator, share: float = 1.0) -> None:
        """Looks at one random place in each cell, or in a random share of them: those that hold something first, then any."""
        n = self.side**3
        flat = self.density.view(-1)
        cells = torch.arange(n)
        if share < 1:
            count = max(1, int(n * share))
            held = self.cells.view(-1).nonzero()[:, 0].cpu()
            held = held[torch.randperm(len(held), generator=rng)[: count // 2]]
            cells = torch.cat([held, torch.randint(n, (count - len(held),), generator=rng)]).unique()
        at = cell_centers(self.side)[cells] + (torch.rand(len(cells), 3, generator=rng) - 0.5) / self.side
        cells = cells.to(flat.device)
        old = torch.where(torch.isfinite(flat[cells]), flat[cells] * self.fade, 0.0)
        flat[cells] = torch.maximum(old, density(at.to(flat.device)))


def march(
    segments: Segments, cells: Bool[Tensor, "G G G"], steps: float, jitter: Float[Tensor, "R"] | None = None
) -> Samples:
    """Samples at even distances, `steps` of them to the cube's edge, in cells that may hold something. `jitter` in [0, 1): where in the first step each ray begins;
    None = in its middle. Natively on the CPU, else `march_torch`."""
    jitter = segments.length.new_full((len(segments),), 0.5) if jitter is None else jitter
    kernels = native_or_none()
    if kernels is None or any(t.device.type != "cpu" or t.dtype != torch.float32 for t in (segments.start, segments.span, segments.length, jitter)):
        return march_torch(segments, cells, steps, jitter)
    args = (t.detach().contiguous() for t in (segments.start, segments.span, segments.length, _phases(segments, steps, jitter)))
    return _merged(segments, Samples(*kernels.field_march(*args, cells.contiguous(), steps, torch.get_num_threads())))


def _phases(segments: Segments, steps: float, jitter: Float[Tensor, "R"]) -> Float[Tensor, "RP"]:
    """Where in its first step each piece begins, so that steps go on evenly from one piece of a ray to the next."""
    if segments.pieces == 1:
        return jitter
    size = torch.linalg.vector_norm(segments.span, dim=1).view(-1, segments.pieces)
    return ((jitter[:, None] - (size.cumsum(1) - size) * steps) % 1).flatten()


def _merged(segments: Segments, samples: Samples) -> Samples:
    """Samples of pieces as those of their rays."""
    if segments.pieces == 1:
        return samples
    (before, total), rows = segments.before, samples.rays
    total = total.clamp_min(1e-12).repeat_interleave(segments.pieces)
    s = (before / total)[rows] + samples.s * (segments.length / total)[rows]
    return Samples(samples.xyz, samples.delta, s, samples.starts[:: segments.pieces].contiguous())


def march_torch(segments: Segments, cells: Bool[Tensor, "G G G"], steps: float, jitter: Float[Tensor, "R"]) -> Samples:
    """The slow twin: all steps of all rays, then those that count. Some 70 bytes for each step that the longest piece has, times all pieces."""
    jitter = _phases(segments, steps, jitter)
    size = torch.linalg.vector_norm(segments.span, dim=1)
    hit = (segments.length > 0) & (size > 0)
    dt = 1 / (torch.where(hit, size, torch.ones_like(size)) * steps)
    most = int(torch.ceil(1 / dt[hit].min())) + 1 if bool(hit.any()) else 0
    t = (torch.arange(most, device=dt.device, dtype=dt.dtype) + jitter[:, None]) * dt[:, None]
    xyz = (segments.start[:, None] + t[..., None] * segments.span[:, None]).clamp(0, 1)
    i = (xyz * cells.shape[0]).long().clamp_max(cells.shape[0] - 1)
    there = (t < 1) & hit[:, None] & cells[i[..., 0], i[..., 1], i[..., 2]]
    starts = torch.cat([there.new_zeros(1, dtype=torch.int64), there.sum(1).cumsum(0)])
    delta = (dt * segments.length)[:, None].expand_as(t)
    return _merged(segments, Samples(xyz[there], delta[there], t[there], starts))
