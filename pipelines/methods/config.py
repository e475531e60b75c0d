"""Every setting of the Gaussian methods."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal

from ...recon.errors import ConfigError
from ..init.config import InitConfig

__all__ = ["MotionConfig", "OptimConfig", "RefineConfig", "SeedConfig", "SplatConfig", "TermsConfig", "check_settings"]


@dataclass(frozen=True)
class SeedConfig:
    """First Gaussians from depth maps.

    Attributes:
        budget: about so many Gaussians on what the photos show, extra on what none shows; both are thinned evenly to reach it. None = by the photos, see
            budget_for.
        size: standard deviation in units of the spacing between neighbouring seeds.
        thickness: of what a photo shows, across its surface, as a share of `size`; tilt: how many times longer than wide it may be to cover a surface seen
            obliquely. Both 1: balls.
        opacity: of pixels whose depth is confident; faint_opacity: of all others.
        surround: width of the ring drawn around each photo, as a share of its longer side (0 = none).
        surround_opacity: opacity of the ring and of the layer behind depth edges.
        behind: width of the band, in percent of the longer side, that continues the background behind each depth edge (0 = none).
        guesses: seed what only one photo shows or nothing confirms, too, from completed depth; without, only what was measured.
        guess_spacing: how many times further apart, and larger, splats of guessed depth are where another photo looks, too, and vouches for nothing.
        hull: depth beyond the hull of an object that masks cut out is replaced by that of the hull's front (recon/hull.py).
        merge: skip pixels that an earlier photo's confident depth already explains.
        sh_degree: highest spherical-harmonic degree; None = by the number of photos (0 up to 5, 1 up to 12, then 2).
    """

    budget: int | None = None
    extra: int = 80_000
    size: float = 0.6
    thickness: float = 0.3
    tilt: float = 3.0
    opacity: float = 0.6
    faint_opacity: float = 0.1
    surround: float = 0.4
    surround_opacity: float = 0.5
    behind: float = 4.0
    guesses: bool = True
    guess_spacing: float = 3.0
    hull: bool = False
    merge: bool = True
    sh_degree: int | None = None

    def budget_for(self, pixels: int) -> int:
        """As set; else somewhat more than one for every second pixel of all photos, but 320,000 (three photos of 504x378) to 640,000."""
        return self.budget if self.budget is not None else min(640_000, max(320_000, round(0.56 * pixels)))


@dataclass(frozen=True)
class OptimConfig:
    """Optimiser and schedule. Learning rates are per step of Adam; positions are in units of the scene's median depth.

    Attributes:
        steps: optimisation steps with one photo each. None = by the photos, see steps_for.
        lr_means .. lr_sh: learning rates; lr_means decays exponentially to lr_means * lr_decay.
        sh_pace: rate of the spherical-harmonic bands above the first, as a share of lr_sh (a twentieth in the code of Kerbl et al. 2023).
        opacity_decay: opacity of every visible Gaussian is multiplied by this after each step (Han et al. 2024, Binocular3DGS, 3.2). None = by the photos,
            see decay_for.
        dropout: share of Gaussians left out of each training render (Chen et al. 2025, Co-Adaptation; opacity is scaled by 1 - dropout when rendering).
        dropout_rises: the share grows evenly from 0 to `dropout` over the run (Park et al. 2025, DropGaussian, 3.2).
        lr_camera: learning rate of the camera corrections (radians and median depths), only for estimated cameras.
        lr_uncertainty: of each Gaussian's uncertainty, where a term uses it.
        pace: Gaussians that no measured depth vouches for take steps this much longer, certain ones this much shorter (1 = all alike).
        move_given_cameras: correct cameras that came with the capture, too; the scene then leaves their frame a little.
    """

    steps: int | None = None
    lr_means: float = 4.8e-5
    lr_decay: float = 0.01
    lr_quats: float = 1e-3
    lr_scales: float = 2e-2
    lr_opacities: float = 3e-2
    lr_sh: float = 1e-2
    sh_pace: float = 1.0
    opacity_decay: float | None = None
    dropout: float = 0.2
    dropout_rises: bool = False
    lr_camera: float = 2e-4
    pace: float = 1.0
    move_given_cameras: bool = False
    lr_uncertainty: float = 2e-2

    def decay_for(self, photos: int) -> float:
        """As set; else .99 up to three photos, and as much over the whole run when more photos mean more steps."""
        return self.opacity_decay if self.opacity_decay is not None else 1 - 10 / replace(self, steps=None).steps_for(photos)

    def steps_for(self, photos: int) -> int:
        """As set; else 1000 up to three photos, then 1000 more for every three, but 2000 at most."""
        return self.steps if self.steps is not None else min(2000, max(1000, 1000 * photos // 3))


@dataclass(frozen=True)
class TermsConfig:
    """Weights of the loss terms (0 = left out). See pipelines/methods/terms/.

    Attributes:
        ssim: share of D-SSIM in the photometric loss.
        smooth: edge-aware smoothness of rendered inverse depth.
        depth: agreement of rendered with stereo depth, by confidence; falls to depth_final of its weight.
        scan: agreement of rendered depth with what a range sensor measured there, for the whole run; without the share scan_trim that fits worst.
        opaque: pixels of the photos should be covered. silhouette: where masks cut an object out, those beyond them should not.
        virtual: consistency between a photo and a render from a shifted camera; every virtual_every-th step from virtual_from on.
        virtual_shift: largest shift as a share of the distance to the nearest other photo.
        correlation: Pearson's correlation of rendered and prior depth at the photo; pseudo_correlation: at a camera between it and its neighbour.
        pseudo_every, pseudo_from: such cameras come every so many steps, from this share of the run on.
        motion_variation: total variation of what a motion changes; structure: a chart's normals and bends stay those of the measured depth; flow: pixels that show one thing, by the flow, belong to one point (see MotionConfig).
        camera: squared length of a camera's correction.
        surface: rendered normals agree with those of the depth, less where the Gaussians are uncertain; from surface_from of the run on.
        normals: they agree, as they are; distortion: surfels of a pixel lie together (needs SplatConfig.surfels); both from surface_from on, too.
        agreement: two fields (SplatConfig.fields) look alike from cameras between photos (pseudo_every, pseudo_from).
        rank: of two nearby pixels, the one nearer in the prior should be rendered nearer; continuity: neighbours on one surface in the prior stay so.
    """

    ssim: float = 0.4
    smooth: float = 0.3
    depth: float = 0.3
    depth_final: float = 0.05
    scan: float = 0.3
    scan_trim: float = 0.05
    opaque: float = 0.01
    silhouette: float = 0.3
    virtual: float = 0.0
    virtual_every: int = 2
    virtual_from: float = 0.3
    virtual_shift: float = 0.4
    correlation: float = 0.0
    pseudo_correlation: float = 0.0
    pseudo_every: int = 2
    pseudo_from: float = 0.2
    rank: float = 0.0
    continuity: float = 0.0
    motion_variation: float = 0.0
    structure: float = 0.0
    flow: float = 0.0
    camera: float = 0.0
    surface: float = 0.0
    surface_from: float = 0.2
    normals: float = 0.0
    distortion: float = 0.0
    agreement: float = 0.0


@dataclass(frozen=True)
class RefineConfig:
    """What is added and dropped during the run. See pipelines/methods/refine/.

    Attributes:
        prune_opacity: Gaussians fainter than this are dropped at the end of each tenth of the run.
        densify_pull: Gaussians whose projected centre is pulled harder than this (in half image sizes) are cloned or split (0 = none).
        densify_every: steps between two rounds; densify_until: share of the run after which none follows; densify_most: Gaussians
            there may be in the end, or half as many again as at the start where that is more.
        split_above: the size, in median depths, above which a Gaussian is split instead of cloned.
        co_prune: Gaussians that another field has nothing this near to, in median depths, are dropped at every co_prune_every-th round (0 = none).
        hull_every: steps between two rounds in which those are dropped that lie beyond an object's hull (recon/hull.py; 0 = none).
        unpool_gap: Gaussians whose unpool_neighbours nearest are further than this on the mean, in median depths, get new ones half way to each (0 = none).
    """

    prune_opacity: float = 0.005
    densify_pull: float = 0.0
    densify_every: int = 100
    densify_until: float = 0.5
    densify_most: int = 500_000
    split_above: float = 0.01
    unpool_gap: float = 0.0
    unpool_neighbours: int = 3
    co_prune: float = 0.0
    co_prune_every: int = 2
    hull_every: int = 0


@dataclass(frozen=True)
class MotionConfig:
    """What moves Gaussians together. See pipelines/methods/motion/.

    Attributes:
        kind: "free" lets each go its own way; "decoder" moves those of a photo along their pixels' rays, as a small network says; "charts" as coarse grids over picture and
            depth say, and turns them with the surface (their own steps come on top, see optim.lr_means).
        lr: learning rate of the network, falling to a tenth; channels: its width. Of the charts: lr_charts.
        reach: largest change of inverse depth, natural logarithm.
    """

    kind: Literal["free", "decoder", "charts"] = "free"
    lr: float = 3e-4
    lr_charts: float = 1e-4
    channels: int = 16
    reach: float = 0.3


@dataclass(frozen=True)
class SplatConfig:
    """A Gaussian splatting method: cameras, seed, optimiser, loss terms, refinement.

    Attributes:
        background: behind everything, for captures that are not objects on white: the mean colour of what is far ("far"), or black.
        depth_prior, flow_prior: by name (`priors/registry.py`); flow is measured only where a part asks for it.
        fields: sets of Gaussians that learn from the same photos, one watching the other; the first becomes the scene.
        scan: take depth from scans and depth sensors where the capture has them.
        moving: leave out of the photos what moved between scans of at least three moments.
        surfels: draw flat discs that the rays meet instead of ellipsoids (2D Gaussians).
        guide_prior: depth that ranking, continuity and correlation compare with, possibly only up to scale and shift; None = that of depth_prior.
    """

    seed: SeedConfig = field(default_factory=SeedConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    terms: TermsConfig = field(default_factory=TermsConfig)
    refine: RefineConfig = field(default_factory=RefineConfig)
    depth_prior: str = "stereo"
    background: Literal["far", "black"] = "far"
    rasterizer: str = "auto"
    flow_prior: str = "dis"
    guide_prior: str | None = None
    motion: MotionConfig = field(default_factory=MotionConfig)
    fields: int = 1
    surfels: bool = False
    scan: bool = True
    moving: bool = True
    init: InitConfig = field(default_factory=InitConfig)

    @property
    def wants_flow(self) -> bool:
        return self.terms.flow > 0

    def wants_depth(self, alone: bool) -> bool:
        return True


def check_settings(config: SplatConfig) -> None:
    """Raises ConfigError, one sentence, for settings that no run can have."""
    counts = {
        "optim.steps": config.optim.steps, "fields": config.fields, "terms.virtual_every": config.terms.virtual_every,
        "terms.pseudo_every": config.terms.pseudo_every, "refine.densify_every": config.refine.densify_every,
        "refine.co_prune_every": config.refine.co_prune_every, "refine.unpool_neighbours": config.refine.unpool_neighbours,
        "motion.channels": config.motion.channels,
    }  # fmt: skip
    if not config.init.matchers:
        raise ConfigError("init.matchers names no match prior; without matches nothing is known of where things are.")
    for name, value in counts.items():
        if value is not None and value < 1:
            raise ConfigError(f"{name} must be at least 1, got {value}.")
    seed, optim = config.seed, config.optim
    ranges = {
        "seed.size": (seed.size, 1e-3, 100), "seed.guess_spacing": (seed.guess_spacing, 1, 100), "seed.opacity": (seed.opacity, 0, 1),
        "seed.faint_opacity": (seed.faint_opacity, 0, 1), "seed.surround_opacity": (seed.surround_opacity, 0, 1), "seed.surround": (seed.surround, 0, 4),
        "seed.behind": (seed.behind, 0, 100), "seed.extra": (seed.extra, 0, 10**9), "seed.budget": (seed.budget, 1, 10**9),
        "seed.sh_degree": (seed.sh_degree, 0, 3), "optim.opacity_decay": (optim.opacity_decay, 1e-3, 1), "optim.dropout": (optim.dropout, 0, 0.99),
        "optim.sh_pace": (optim.sh_pace, 0, 1), "terms.ssim": (config.terms.ssim, 0, 1), "terms.scan_trim": (config.terms.scan_trim, 0, 0.9),
    }  # fmt: skip
    for name, (value, least, most) in ranges.items():
        if value is not None and not least <= value <= most:
            raise ConfigError(f"{name} must be from {least:g} to {most:g}, got {value:g}.")
    if not (config.seed.thickness > 0 and config.seed.tilt >= 1):
        raise ConfigError(f"seed.thickness must be more than 0 and seed.tilt at least 1, got {config.seed.thickness} and {config.seed.tilt}.")
    if config.terms.distortion > 0 and not config.surfels:
        raise ConfigError("terms.distortion is of surfels: set surfels=true, or terms.distortion to 0.")
    if config.terms.structure > 0 and config.motion.kind != "charts":
        raise ConfigError("terms.structure is of charts: set motion.kind=charts, or terms.structure to 0.")
    if not config.motion.lr_charts > 0:
        raise ConfigError(f"motion.lr_charts must be more than 0, got {config.motion.lr_charts}.")
    if not config.motion.reach > 0:
        raise ConfigError(f"motion.reach must be more than 0, got {config.motion.reach}.")
    if config.motion.kind != "free" and (config.refine.densify_pull > 0 or config.refine.unpool_gap > 0):
        raise ConfigError(f"With motion.kind={config.motion.kind} every Gaussian belongs to a pixel, so none can be added: set refine.densify_pull and refine.unpool_gap to 0.")
