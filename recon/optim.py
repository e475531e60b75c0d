"""Adam that leaves the Gaussians no camera sees alone, and opacity decay: one native pass over the visible rows each."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from .errors import BackendUnavailable, CheckpointError, ShapeError
from .kernels import native_or_none

__all__ = ["SparseAdam", "decay_opacity"]


def _native_for(*tensors: Tensor | None):
    """The native module where it can work on these tensors in place, else None."""
    for t in tensors:
        if t is not None and (t.device.type != "cpu" or t.dtype not in (torch.float32, torch.bool) or not t.is_contiguous()):
            return None
    return native_or_none()


@functools.cache
def _gsplat_adam() -> Callable[..., None] | None:
    from .raster.cuda_kernels import load_kernels

    try:
        return load_kernels().adam
    except BackendUnavailable:
        return None


def _gsplat_for(*tensors: Tensor | None) -> Callable[..., None] | None:
    """gsplat's fused step where it can work on these tensors in place, else None."""
    for t in tensors:
        if t is not None and (t.device.type != "cuda" or t.dtype not in (torch.float32, torch.bool) or not t.is_contiguous() or t.numel() == 0):
            return None
    return _gsplat_adam()


class SparseAdam:
    """Adam (Kingma and Ba 2015) over parameters whose first dimension is the Gaussians.

    `step(visible)` moves only the rows where `visible` is true; the others keep value and state untouched (as gsplat's SelectiveAdam). With all rows visible it
    is `torch.optim.Adam`: one step counter for all rows, bias corrected, eps outside the root. Each parameter is a group of its own, named, with its learning
    rate in `groups[name]["lr"]` (change it between steps); `"column_lr"`, a tensor of a row's shape, instead gives every column its own, relative to `lr` (say
    the higher spherical harmonics a twentieth). Deterministic.

    Parameters without gradient are left alone. State lives in `groups[name]["exp_avg"]` and `["exp_avg_sq"]` and may be edited with the rows (`select`,
    `append` for pruning and splitting).
    """

    def __init__(
        self,
        params: Mapping[str, Tensor],
        lr: Mapping[str, float] | float,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-15,
        column_lr: Mapping[str, Tensor] | None = None,
    ) -> None:
        self.betas, self.eps, self.steps = betas, eps, 0
        self.groups: dict[str, dict[str, Any]] = {}
        for name, p in params.items():
            columns = (column_lr or {}).get(name)
            if columns is not None and columns.shape != p.shape[1:]:
                raise ShapeError(f"SparseAdam: column_lr of {name!r} must be {tuple(p.shape[1:])}, got {tuple(columns.shape)}.")
            state = [torch.zeros_like(p, memory_format=torch.contiguous_format, requires_grad=False) for _ in range(2)]
            self.groups[name] = {
                "param": p,
                "lr": lr if isinstance(lr, (int, float)) else lr[name],
                "column_lr": columns,
                "exp_avg": state[0],
                "exp_avg_sq": state[1],
            }

    def zero_grad(self) -> None:
        for g in self.groups.values():
            g["param"].grad = None

    @torch.no_grad()
    def step(self, visible: Bool[Tensor, "N"] | None = None, pace: Float[Tensor, "N"] | None = None) -> None:
        """One step. Parameters of another length than `visible` (say, cameras) are moved whole. `pace` gives every row of those that have as
        many its own learning rate, relative to that of the parameter."""
        self.steps += 1
        for g in self.groups.values():
            p: Tensor = g["param"]
            if p.grad is None:
                continue
            paced = pace is not None and p.ndim > 0 and p.shape[0] == pace.shape[0]
            before = p.detach().clone() if paced else None
            self._move(g, visible)
            if before is not None and pace is not None:
                p.copy_(torch.lerp(before, p, pace.view(-1, *[1] * (p.ndim - 1))))

    def _move(self, g: dict[str, Any], visible: Tensor | None) -> None:
        p: Tensor = g["param"]
        assert p.grad is not None
        rows = visible if visible is not None and p.ndim and p.shape[0] == visible.shape[0] else None
        grad = p.grad.contiguous()
        native = _native_for(p, grad, g["exp_avg"], g["exp_avg_sq"], rows)
        if native is None:
            fused = _gsplat_for(p, grad, g["exp_avg"], g["exp_avg_sq"], rows)
            self._step_torch(g, grad, rows) if fused is None else self._step_gsplat(fused, g, grad, rows)
            return
        columns = g["column_lr"]
        lr = [float(g["lr"])] if columns is None else (columns.flatten().double() * float(g["lr"])).tolist()
        state = (g["exp_avg"], g["exp_avg_sq"])
        native.adam_step(p.detach(), grad, *state, rows, lr, *self.betas, self.eps, self.steps, torch.get_num_threads())

    def _step_gsplat(self, fused: Callable[..., None], g: dict[str, Any], grad: Tensor, rows: Bool[Tensor, "N"] | None) -> None:
        """gsplat's kernel corrects no bias and knows one rate: the correction goes into rate and eps, the columns' rates are applied to the step it made."""
        b1, b2 = self.betas
        p, columns, root = g["param"].detach(), g["column_lr"], math.sqrt(1 - b2**self.steps)
        before = None if columns is None else p.clone()
        fused(p, grad, g["exp_avg"], g["exp_avg_sq"], rows, g["lr"] * root / (1 - b1**self.steps), b1, b2, self.eps * root)
        if before is not None and columns is not None:
            p.copy_(torch.lerp(before, p, columns.expand_as(p)))

    def _step_torch(self, g: dict[str, Any], grad: Tensor, rows: Bool[Tensor, "N"] | None) -> None:
        """The same in plain torch: the twin for the tests, and for what the kernels cannot take."""
        p, m, v = g["param"], g["exp_avg"], g["exp_avg_sq"]
        b1, b2 = self.betas
        m1 = torch.lerp(grad, m, b1)
        v1 = torch.lerp(grad * grad, v, b2)
        lr = g["lr"] if g["column_lr"] is None else g["column_lr"] * g["lr"]
        p1 = p - lr * (m1 / (1 - b1**self.steps)) / ((v1 / (1 - b2**self.steps)).sqrt() + self.eps)
        if rows is not None:
            keep = rows.view(-1, *[1] * (p.ndim - 1))
            m1, v1, p1 = (torch.where(keep, new, old) for new, old in ((m1, m), (v1, v), (p1, p)))
        for old, new in ((m, m1), (v, v1), (p, p1)):
            old.copy_(new)

    @torch.no_grad()
    def select(self, name: str, param: Tensor, rows: Tensor) -> None:
        """Continues with `param`, whose rows are the old parameter's rows `rows` (indices or mask)."""
        g = self.groups[name]
        g.update(param=param, exp_avg=g["exp_avg"][rows].contiguous(), exp_avg_sq=g["exp_avg_sq"][rows].contiguous())
        self._check(name)

    @torch.no_grad()
    def append(self, name: str, param: Tensor) -> None:
        """Continues with `param`, the old parameter with further rows behind; these start without history."""
        g = self.groups[name]
        more = param.shape[0] - g["exp_avg"].shape[0]
        for key in ("exp_avg", "exp_avg_sq"):
            g[key] = torch.cat([g[key], g[key].new_zeros(max(more, 0), *param.shape[1:])])
        g["param"] = param
        self._check(name)

    def _check(self, name: str) -> None:
        g = self.groups[name]
        if g["param"].shape != g["exp_avg"].shape:
            raise ShapeError(f"SparseAdam: {name!r} is {tuple(g['param'].shape)} but its state is {tuple(g['exp_avg'].shape)}.")

    def set_lr(self, name: str, lr: float) -> None:
        self.groups[name]["lr"] = lr

    def state_dict(self) -> dict[str, Tensor]:
        """Flat, for safetensors: "steps", and per parameter "NAME.lr", "NAME.exp_avg", "NAME.exp_avg_sq" (the live tensors); not the parameters."""
        state = {"steps": torch.tensor(self.steps)}
        for name, g in self.groups.items():
            state[f"{name}.lr"] = torch.tensor(float(g["lr"]), dtype=torch.float64)
            state |= {f"{name}.{k}": g[k] for k in ("exp_avg", "exp_avg_sq")}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Continues from `state_dict()`. Raises CheckpointError when names or shapes differ."""
        names = {k.rsplit(".", 1)[0] for k in state if "." in k}
        if names != set(self.groups):
            raise CheckpointError(f"The optimiser has parameters {sorted(self.groups)}, the checkpoint {sorted(names)}.")
        for name, g in self.groups.items():
            for k in ("exp_avg", "exp_avg_sq"):
                saved = state.get(f"{name}.{k}")
                if saved is None or saved.shape != g["param"].shape:
                    got, want = "nothing" if saved is None else tuple(saved.shape), tuple(g["param"].shape)
                    raise CheckpointError(f"The checkpoint's optimiser state {name}.{k} is {got}, the parameter {want}.")
                g[k] = saved.to(g["param"]).clone(memory_format=torch.contiguous_format)
            if f"{name}.lr" in state:
                g["lr"] = float(state[f"{name}.lr"])
        self.steps = int(state["steps"])


@torch.no_grad()
def decay_opacity(logits: Float[Tensor, "N"], factor: float, visible: Bool[Tensor, "N"] | None = None) -> None:
    """Multiplies the opacities sigmoid(logits) by `factor` in (0, 1], in place, where `visible` (everywhere when None).

    Opacity decay against floaters in sparse views: Han et al. 2024, "Binocular-Guided 3D Gaussian Splatting", section 3.2.
    """
    if not 0 < factor <= 1:
        raise ValueError(f"decay_opacity: factor must be in (0, 1], got {factor}")
    if factor == 1:
        return
    native = _native_for(logits, visible)
    if native is not None:
        native.decay_opacity(logits.detach(), factor, visible, torch.get_num_threads())
        return
    logits.copy_(_decayed(logits, factor, visible))


def _decayed(logits: Tensor, factor: float, visible: Tensor | None) -> Tensor:
    """logit(factor * sigmoid(x)) = log(factor) - log(1 - factor + exp(-x)), without overflow. The plain-torch twin."""
    tiny = torch.finfo(logits.dtype).tiny
    new = math.log(factor) - torch.logaddexp(torch.full_like(logits, math.log(max(1 - factor, tiny))), -logits)
    return new if visible is None else torch.where(visible, new, logits)
