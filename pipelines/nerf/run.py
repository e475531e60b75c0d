"""The NeRF run: one loop for every method; what differs lies in the config, the grid and the terms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...recon.errors import CheckpointError, ShapeError
from ...recon.field.decoder import Decoder
from ...recon.field.frequency import FrequencyEncoding
from ...recon.field.hull import cells_in_hull
from ...recon.field.occupancy import Occupancy, march
from ...recon.field.radiance import RadianceField
from ...recon.field.samples import Segments
from ...recon.field.scene import FieldScene, pixel_segments
from ...recon.field.space import BoxSpace, FrustumSpace, Space, space_from_tensors, space_to_tensors
from ...recon.muon import Muon
from ...recon.optim import SparseAdam
from ...recon.raster.registry import get_rasterizer
from ...recon.scene import SplatScene
from ..events import Event, StageProgress, StepDone
from ..methods.photos import Photos, background_of
from ..pace import Paced
from ..protocol import Start
from .config import FieldConfig, FieldOptimConfig, FieldTermsConfig, GridConfig
from .convert import seeded_splats
from .grids import make_grid
from .layout import choose_space, seen_surface, tightened
from .occupancies import make_occupancy
from .terms import FIELD_TERMS, FieldContext, Request, Shown

__all__ = ["FieldMethod", "FieldRun"]

COARSEST = 1 / 8  # of the resolution, at the start of a run from coarse to fine
BOX_STEPS, OPEN_STEPS = 256, 128  # samples to an edge of the cube; what is open runs in disparity, where half of them are enough
FIRST_SIDE, FIRST_STEPS = 64, 128  # grid and samples to an edge of the first look
FOG, FOG_STEPS = 100, 64  # in the first steps, while no cell is passed over, all is fog: so many samples to an edge are enough, and more would take half of a short run
BETAS, EPS = (0.9, 0.99), 1e-15


class FieldMethod:
    def __init__(self, config: FieldConfig) -> None:
        self.config = config

    def start(self, start: Start, max_seconds: float | None = None) -> FieldRun:
        return FieldRun(self.config, start, max_seconds)


class FieldRun(Paced):
    """See `Run` in pipelines/protocol.py. Results depend on config, start and thread count only, not on interruptions."""

    def __init__(self, config: FieldConfig, start: Start, max_seconds: float | None = None) -> None:
        super().__init__(config.optim.steps, max_seconds)
        self.config, self.device = config, start.device
        self.names, self._start = start.init.capture.names, start
        self.photos, self.pictures = Photos.of(start), Shown.of(start.pictures, start.device)
        self.guide = self._guide() if config.terms.rank > 0 or config.terms.continuity > 0 else None
        white = start.init.capture.white_background
        self.background = background_of(self.photos, white, config.background)
        self.space: Space = choose_space(self.photos, config.sampling.space, white or self.photos.cut_out).to(start.device)
        self._wants_surface = config.grid.kind == "trivec" and config.grid.surface != "depth"
        self._seen: Tensor | None = None  # surfaces found at the first look, in the world
        self._looked = config.sampling.first_look == 0 or not (isinstance(self.space, BoxSpace) or self._wants_surface)
        self._build()

    def _build(self) -> None:
        """The field as it is before the first step, in the space as it is now."""
        config = self.config
        self.samples = config.sampling.steps or (BOX_STEPS if isinstance(self.space, BoxSpace) else OPEN_STEPS)
        self.rng = torch.Generator().manual_seed(self._start.seed)
        grid = make_grid(config.grid, self.rng, self._surface() if config.grid.kind == "trivec" else None)
        decoder = Decoder(grid.features, config.grid.hidden, config.grid.degree, config.grid.density, self.rng)
        self.field = RadianceField(grid, decoder).to(self.device)
        self.occupancy: Occupancy = make_occupancy(config.sampling, grid, self.rng, self.device)
        self.hull = self._hull()
        rate = {"vm-prior": config.optim.lr_prior, "frequency": config.optim.lr_decoder}.get(config.grid.kind, config.optim.lr_grid)
        learned = dict(self.field.named_parameters()) | {f"occupancy.{n}": p for n, p in self.occupancy.named_parameters()}
        self.rates = {n: config.optim.lr_decoder if n.startswith(("decoder.", "occupancy.")) else rate for n in learned}
        layers = {n: p for n, p in learned.items() if config.grid.kind == "vm-prior" and config.optim.prior == "muon" and n.startswith("encoding.") and p.ndim > 1}
        self.optimiser = SparseAdam({n: p for n, p in learned.items() if n not in layers}, self.rates, betas=BETAS, eps=EPS)
        self.muon = Muon(layers, config.optim.lr_muon)

    def events(self) -> Iterator[Event]:
        """A first look, where one is due, then one event per step."""
        if not self._looked:
            yield from self._look()
        yield from super().events()

    @property
    def size(self) -> int:
        return 0

    @property
    def images(self) -> Tensor:
        return self.photos.images

    @property
    def parameters(self) -> int:
        """Numbers that are learned."""
        return sum(p.numel() for p in self.field.parameters())

    def snapshot(self) -> FieldScene:
        with self._lock, torch.no_grad():
            field = self.field.ready(side=self._side(self.step / self.steps)).copied()
            cells = self.cells().clone()
        return FieldScene(field, self.space, cells, self.samples, self.photos.cameras, self.names, self.background)

    def shown(self) -> SplatScene:
        """The scene so far as splats, to look at."""
        scene = self.snapshot()
        gaussians = seeded_splats(scene, self._start.init.capture)
        return SplatScene(gaussians, scene.cameras, scene.names, get_rasterizer("auto", self.device), scene.background)

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        with self._lock:
            tensors = {"rng": self.rng.get_state()}
            tensors |= {f"occupancy.{k}": v.detach().clone() for k, v in self.occupancy.state_dict().items()}
            tensors |= {f"field.{k}": v.detach().clone() for k, v in self.field.state_dict().items()}
            tensors |= {f"optimiser.{k}": v.clone() for k, v in self.optimiser.state_dict().items()}
            tensors |= {f"muon.{k}": v.clone() for k, v in self.muon.state_dict().items()}
            tensors |= {f"space.{k}": v for k, v in space_to_tensors(self.space).items()}
            if self._seen is not None:
                tensors["seen"] = self._seen.clone()
            return tensors, {**self.pace(), "looked": self._looked}

    def restore(self, tensors: dict[str, Tensor], meta: dict[str, Any]) -> None:
        try:
            self.space = space_from_tensors({k.removeprefix("space."): v for k, v in tensors.items() if k.startswith("space.")}).to(self.device)
            self._looked, self._seen = bool(meta["looked"]), tensors.get("seen")
            self._build()
            own = {k.removeprefix("field."): v for k, v in tensors.items() if k.startswith("field.")}
            self.field.load_state_dict(own)
            self.optimiser.load_state_dict({k.removeprefix("optimiser."): v for k, v in tensors.items() if k.startswith("optimiser.")})
            self.muon.load_state_dict({k.removeprefix("muon."): v for k, v in tensors.items() if k.startswith("muon.")})
            self.occupancy.load_state_dict({k.removeprefix("occupancy."): v for k, v in tensors.items() if k.startswith("occupancy.")})
            self.rng.set_state(tensors["rng"])
            self.restore_pace(meta)
        except (KeyError, RuntimeError, ShapeError, CheckpointError) as e:
            raise CheckpointError(f"The checkpoint does not fit this field ({str(e).splitlines()[0]}); delete it to start anew.") from e

    def cells(self) -> Bool[Tensor, "G G G"]:
        """Those that may hold something."""
        return self.occupancy.cells if self.hull is None else self.occupancy.cells & self.hull

    def _hull(self) -> Bool[Tensor, "G G G"] | None:
        """Cells that the outlines of an object allow; None where nothing is cut out, or the method does without."""
        if not self.config.sampling.hull or self.photos.hull is None or not isinstance(self.space, BoxSpace):
            return None
        return cells_in_hull(self.photos.hull, self.space, self.config.sampling.cells)

    def _surface(self) -> Float[Tensor, "N 3"]:
        """Places in the cube to lay tensors at: the photos' confident depth, what the first look found, or both. Before that look the middle stands for all."""
        depth = torch.stack([d.depth for d in self.photos.depth])
        valid = torch.stack([d.valid for d in self.photos.depth])
        found = [self.photos.cameras.unproject_depth(depth)[valid]] if self.config.grid.surface != "look" else []
        if self._wants_surface and self._seen is not None:
            found.append(self._seen.to(self.device))
        xyz = self.space.to_cube(torch.cat(found)) if found else torch.zeros(0, 3, device=self.device)
        xyz = xyz[((xyz >= 0) & (xyz <= 1)).all(1)]
        return xyz if len(xyz) or self._looked else xyz.new_full((1, 3), 0.5)

    def _guide(self) -> tuple[Tensor, Tensor, float]:
        """Values of the coarse depth map, how far they are to be trusted, and -1 where larger ones are nearer."""
        maps = self.photos.guide
        trust = torch.stack([torch.where(d.valid, d.confidence, 0.0) for d in maps])
        return torch.stack([d.depth for d in maps]), trust, -1.0 if maps[0].kind == "affine_inverse" else 1.0

    def _look(self) -> Iterator[Event]:
        """A quick field without a prior. A box is drawn tight around what it finds, as grid points beyond that would be wasted; tensors are laid on it."""
        box = isinstance(self.space, BoxSpace)
        sampling = replace(self.config.sampling, first_look=0, space="box" if box else self.config.sampling.space, steps=FIRST_STEPS, occupancy="grid")
        terms = FieldTermsConfig(pictures=self.config.terms.pictures, pictures_final=self.config.terms.pictures_final)
        quick = FieldConfig(GridConfig(side=FIRST_SIDE, degree=0), sampling, FieldOptimConfig(steps=self.config.sampling.first_look), terms, self.config.background)
        run = FieldRun(quick, self._start)
        for event in run.events():
            if self._stop.is_set():
                return
            if isinstance(event, StepDone):
                yield StageProgress("taking a first look", event.step / event.steps)
        seen = seen_surface(run.snapshot())
        with self._lock:
            if isinstance(self.space, BoxSpace):
                self.space = tightened(seen, self.space)
            self._seen, self._looked = seen if self._wants_surface else None, True
            self._build()

    # -- one step ------------------------------------------------------------------------------------------------

    def _one_step(self) -> None:
        optim = self.config.optim
        progress = self.step / self.steps
        fall = optim.lr_final**progress
        for name in self.optimiser.groups:
            self.optimiser.set_lr(name, self.rates[name] * fall)
        for name in self.muon.params:
            self.muon.set_lr(name, optim.lr_muon * fall)
        if isinstance(self.field.encoding, FrequencyEncoding):
            self.field.encoding.share.fill_(min(1.0, progress / optim.fine_from) if optim.fine_from else 1.0)
        field = self.field.ready(side=self._side(progress))
        background = torch.tensor(self.background, device=self.device)
        context = FieldContext(self.photos, self.guide, background, progress, isinstance(self.space, FrustumSpace), self.rng, optim.rays, self.pictures)
        asked = [(term, request) for term in FIELD_TERMS if (request := term.draw(context, self.config.terms)) is not None]
        segments = Segments.joined([self._segments(request) for _, request in asked])
        jitter = torch.rand(len(segments), generator=self.rng).to(self.device)
        cells = self.cells()
        samples = min(self.samples, FOG_STEPS) if self.step < FOG and bool(cells.all()) else self.samples
        seen = field.rays(march(segments, cells, samples, jitter), segments.directions)
        losses, at = [], 0
        for term, request in asked:
            part = slice(at, at + len(request.index))
            losses.append(term.loss(context, self.config.terms, request, seen.select(part), segments.select(part)))
            at = part.stop
        own = self.occupancy.loss(self.step, lambda xyz: field.opacity(xyz, 1 / self.samples), self.rng)
        loss = torch.stack(losses if own is None else [*losses, own]).sum()
        self.optimiser.zero_grad()
        self.muon.zero_grad()
        loss.backward()
        if optim.weight_decay:
            with torch.no_grad():
                for name, p in self.field.named_parameters():
                    p.mul_(1 - optim.weight_decay * self.rates[name] * fall)
        self.optimiser.step()
        self.muon.step()
        with torch.no_grad():
            self.occupancy.after_step(self.step, lambda xyz: self.field.ready(side=self._side(progress)).density(xyz), self.rng)
        self.step += 1
        if self.due_to_report:
            self._readings.append((float(loss.detach()), context.psnr()))

    def _segments(self, request: Request) -> Segments:
        segments = pixel_segments(self.space, self.photos.cameras if request.cameras is None else request.cameras, request.index, request.uv)
        return segments if request.reach == 1 else segments.cut(request.reach)

    def _side(self, progress: float) -> int | None:
        """Resolution of the grid in this step (as Chen et al. 2022, TensoRF, section 4.1, but of the same planes); None = the whole."""
        whole, share = self.config.grid.side, self.config.optim.fine_from
        return None if progress >= share else max(8, round(whole * COARSEST ** (1 - progress / share)))
