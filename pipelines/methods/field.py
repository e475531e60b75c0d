"""A set of Gaussians that learns: its rows with their optimiser, and what else travels with each row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...recon.gaussians import Gaussians
from ...recon.optim import SparseAdam, decay_opacity
from .motion.protocol import Motion
from .refine.protocol import Edit

__all__ = ["PACE", "Column", "Field"]

PARAMETERS = tuple(f.name for f in fields(Gaussians))
PACE = "pace"  # the column that scales each row's steps


@dataclass(frozen=True)
class Column:
    """A value per Gaussian beside those that make the picture.

    Attributes:
        start: values of new rows, whenever they come.
        lr: learning rate; 0 = it stays as it started.
    """

    start: Callable[[Gaussians], Tensor]
    lr: float = 0.0


class Field:
    """Rows under their names: the fields of `Gaussians`, and the columns. `rates` are the learning rates of the former; those of the
    spherical-harmonic bands above the first are `sh_pace` of it."""

    def __init__(
        self, gaussians: Gaussians, rates: Mapping[str, float], columns: Mapping[str, Column], motion: Motion | None = None, sh_pace: float = 1.0
    ) -> None:
        self.columns, self.motion, self.sh_pace = dict(columns), motion, sh_pace
        self.rates = dict(rates) | {name: c.lr for name, c in columns.items() if c.lr > 0}
        self.started = len(gaussians)
        self._set({name: getattr(gaussians, name) for name in PARAMETERS} | {name: c.start(gaussians) for name, c in columns.items()})

    def __len__(self) -> int:
        return len(self.rows["means"])

    def gaussians(self) -> Gaussians:
        """Those of this step, with gradients to the rows and to the motion's own parameters."""
        stored = Gaussians(*(self.rows[name] for name in PARAMETERS))
        return stored if self.motion is None else self.motion.move(stored, self.rows)

    @torch.no_grad()
    def placed(self) -> Gaussians:
        """The same without gradients, as the last step drew them."""
        stored = Gaussians(*(self.rows[name].detach() for name in PARAMETERS))
        return stored if self.motion is None else self.motion.move(stored, self.rows, again=True)

    @torch.no_grad()
    def step(self, drawn: Bool[Tensor, "N"], visible: Bool[Tensor, "N"], lr_means: float, opacity_decay: float, progress: float) -> None:
        """Moves what any render of this step drew along its gradients, and clears them. Opacity decays for what the photo shows (`visible`)."""
        self.adam.set_lr("means", lr_means)
        self.adam.step(drawn, self.rows.get(PACE))
        self.adam.zero_grad()
        if self.motion is not None:
            self.motion.step(progress)
        if opacity_decay < 1:
            decay_opacity(self.rows["logit_opacities"], opacity_decay, visible)

    @torch.no_grad()
    def record_pull(self, means2d_grad: Float[Tensor, "N 2"], visible: Bool[Tensor, "N"], width: int, height: int) -> None:
        half = 0.5 * torch.tensor([width, height], device=means2d_grad.device)
        self.pull += torch.stack([(means2d_grad * half).norm(dim=-1) * visible, visible.float()], -1)

    @torch.no_grad()
    def apply(self, edit: Edit) -> None:
        for name in self.rows:
            trained = name in self.rates
            rows = self.rows[name].detach()[edit.keep].clone().requires_grad_(trained)
            if trained:
                self.adam.select(name, rows, edit.keep)
            if edit.new is not None:
                new = getattr(edit.new, name) if name in PARAMETERS else self.columns[name].start(edit.new)
                rows = torch.cat([rows.detach(), new]).requires_grad_(trained)
                if trained:
                    self.adam.append(name, rows)
            self.rows[name] = rows
        self.pull = self.pull[edit.keep] if edit.new is None else torch.zeros(len(self), 2, device=self.pull.device)

    def state(self) -> dict[str, Tensor]:
        tensors = {f"rows.{name}": t.detach().clone() for name, t in self.rows.items()}
        tensors |= {f"adam.{k}": v.clone() for k, v in self.adam.state_dict().items()}
        tensors["pull"], tensors["started"] = self.pull.clone(), torch.tensor(self.started)
        if self.motion is not None:
            tensors |= {f"motion.{k}": v for k, v in self.motion.state().items()}
        return tensors

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Raises KeyError for what is missing."""
        device = self.pull.device
        self._set({name: tensors[f"rows.{name}"].to(device) for name in self.rows})
        self.adam.load_state_dict({k[5:]: v.to(device) for k, v in tensors.items() if k.startswith("adam.")})
        self.pull, self.started = tensors["pull"].to(device), int(tensors["started"])
        if self.motion is not None:
            self.motion.restore({k[7:]: v for k, v in tensors.items() if k.startswith("motion.")})

    def _set(self, rows: Mapping[str, Tensor]) -> None:
        """Makes trainable copies and a fresh optimiser."""
        self.rows = {name: t.detach().clone().requires_grad_(name in self.rates) for name, t in rows.items()}
        bands = torch.ones(self.rows["sh"].shape[1:], device=self.rows["sh"].device, dtype=self.rows["sh"].dtype)
        bands[1:] = self.sh_pace
        self.adam = SparseAdam({name: self.rows[name] for name in self.rates}, self.rates, column_lr={"sh": bands} if len(bands) > 1 else None)
        self.pull = torch.zeros(len(self), 2, device=self.rows["means"].device)  # sum and number of the gradients to the projected centres
