"""Edits on the page: crop, floaters, what is up, how large. Each becomes a named step that can be undone. No viser import here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..recon.edits import CropBox, DropFaint, DropFar, DropLarge, DropLoose, EditStep, Move, dropped_by
from ..recon.se3 import quat_from_matrix, turn_to
from .newest import NewestWins
from .page import Page
from .picker import Picker
from .plain import plain
from .splats import SCENE_DEPTH, faded, tinted

__all__ = ["EditPanel", "upright"]

REACH = 0.02  # of the scene's depth: nearer than this belongs together
BOX = (235, 140, 60)
OFF_SIZE, OFF_FAR = 2.0, 50.0  # ends of the sliders: nothing is dropped


def upright(up: Float[Tensor, "3"], floor: Float[Tensor, "3"] | None = None, what: str = "up") -> Move:
    """The move after which `up` is z, by the shortest turn, and the point `floor` lies at height 0."""
    R = turn_to(up, (0.0, 0.0, 1.0))
    w, a, b, c = quat_from_matrix(R).tolist()
    height = 0.0 if floor is None else -float((R @ floor.double())[2])
    return Move((w, a, b, c), (0.0, 0.0, height), 1.0, what, upright=True)


class EditPanel:
    def __init__(self, page: Page) -> None:
        self._page, self._picker = page, Picker(page)
        self._undone: list[EditStep] = []
        self._box: tuple[Any, Any] | None = None  # the gizmo, and the edges it carries
        self._pair: Tensor | None = None  # two points whose distance is to be set, world frame
        self._moves: list[Move] = []  # of the edits when the page was last refreshed
        self._counter = NewestWins("handful-floaters")
        gui = page.gui
        with gui.add_folder("Edit", expand_by_default=False):
            self._list = gui.add_markdown("No edits.")
            self._undo = gui.add_button("Undo", disabled=True)
            self._redo = gui.add_button("Redo", disabled=True)
            self._build_crop(gui)
            self._build_floaters(gui)
            self._build_world(gui)
        self._undo.on_click(lambda event: page.in_background(lambda: self.undo(event.client), event.client))
        self._redo.on_click(lambda event: page.in_background(lambda: self.redo(event.client), event.client))

    # -- the list ------------------------------------------------------------------------------------------------

    def add(self, steps: list[EditStep], client: Any = None) -> None:
        if steps:
            self._page.edit((*self._page.steps(), *steps))
            self._undone.clear()
            self.refresh()

    def undo(self, client: Any = None) -> None:
        steps = self._page.steps()
        if steps:
            self._page.edit(steps[:-1])
            self._undone.append(steps[-1])
            self.refresh()

    def redo(self, client: Any = None) -> None:
        if self._undone:
            self._page.edit((*self._page.steps(), self._undone[-1]))
            self._undone.pop()
            self.refresh()

    def refresh(self) -> None:
        """Says what the list is, and how many splats it leaves."""
        steps, shown = self._page.steps(), self._page.shown()
        lines = [f"{i + 1}. {plain(step.title)}" for i, step in enumerate(steps)]
        left = "" if shown is None else f"{len(shown[0]):,} splats are left.\n\n"
        self._list.content = left + "\n".join(lines) if lines else "No edits. They are kept beside the scene, which itself stays as it is."
        self._undo.disabled, self._redo.disabled = not steps, not self._undone
        moves = [step for step in steps if isinstance(step, Move)]
        if moves != self._moves:  # what was clicked or placed was so in another world
            self._moves, self._pair = moves, None
            self._length.visible = self._scale.visible = False
            self._picker.cancel()
            if self._box is not None:
                self._toggle_box(True)
        self._counter.submit(self._tell_floaters)

    def close(self) -> None:
        self._counter.close()

    # -- crop ----------------------------------------------------------------------------------------------------

    def _build_crop(self, gui: Any) -> None:
        with gui.add_folder("Crop", expand_by_default=False):
            self._show_box = gui.add_checkbox("Show the box", False, hint="Drag its arrows and rings in the scene.")
            self._size = gui.add_vector3("Size", (1.0, 1.0, 1.0), min=(1e-4, 1e-4, 1e-4), step=0.01, hint="Edges of the box, in units of the scene.")
            keep = gui.add_button("Keep what is inside")
            cut = gui.add_button("Remove what is inside")
        self._show_box.on_update(lambda event: self._page.in_background(lambda: self._toggle_box(self._show_box.value), event.client))
        self._size.on_update(lambda _: self._resize_box())
        keep.on_click(lambda event: self._page.in_background(lambda: self._crop("inside", event.client), event.client))
        cut.on_click(lambda event: self._page.in_background(lambda: self._crop("outside", event.client), event.client))

    def _toggle_box(self, show: bool) -> None:
        if self._box is not None:
            for handle in self._box[::-1]:
                handle.remove()
            self._box = None
            self._page.preview(None)
        shown, frame = self._page.shown(), self._page.frame
        if not show or shown is None or len(shown[0]) == 0:
            return
        g = shown[0]
        solid = g.means[(g.opacities > 0.3) & torch.isfinite(g.means).all(-1)]
        solid = (solid if len(solid) else g.means)[:: max(1, len(g) // 100_000)]
        low, high = (torch.quantile(solid.double(), q, dim=0) for q in (0.1, 0.9))
        size = (high - low).clamp(min=1e-3 * SCENE_DEPTH / frame.scale)
        self._size.value = tuple(float(f"{v:.4g}") for v in size.tolist())
        gizmo = self._page.scene.add_transform_controls(
            "/crop", scale=0.25 * SCENE_DEPTH, position=frame.apply(((low + high) / 2)[None])[0].numpy(), depth_test=False
        )
        self._box = (gizmo, self._edges())
        gizmo.on_update(lambda _: self._preview_box())
        self._preview_box()

    def _edges(self) -> Any:
        corners = np.array([[x, y, z] for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) * np.asarray(self._size.value) * self._page.frame.scale
        pairs = [(i, j) for i in range(8) for j in range(i) if bin(i ^ j).count("1") == 1]
        return self._page.scene.add_line_segments("/crop/edges", corners[np.array(pairs)], BOX, thickness=3.0, thickness_units="screen")

    def _resize_box(self) -> None:
        if self._box is not None:
            self._box[1].remove()
            self._box = (self._box[0], self._edges())
            self._preview_box()

    def _box_step(self, keep: Any = "inside") -> CropBox | None:
        if self._box is None:
            return None
        x, y, z = self._page.frame.undo(torch.tensor(np.asarray(self._box[0].position), dtype=torch.float64)[None])[0].tolist()
        w, a, b, c = map(float, self._box[0].wxyz)
        sx, sy, sz = self._size.value
        return CropBox((x, y, z), (sx / 2, sy / 2, sz / 2), (w, a, b, c), keep)

    def _preview_box(self) -> None:
        """What lies outside is nearly clear."""
        step = self._box_step()
        self._page.preview(None if step is None else lambda g: faded(g, dropped_by(g, [step])))

    def _crop(self, keep: Any, client: Any) -> None:
        step = self._box_step(keep)
        if step is None:
            self._show_box.value = True
            self._toggle_box(True)
            self._page.tell(client, "The box is shown", "Drag it to where you want it, then click again.")
            return
        self._show_box.value = False
        self._toggle_box(False)
        self.add([step], client)

    # -- floaters ------------------------------------------------------------------------------------------------

    def _build_floaters(self, gui: Any) -> None:
        with gui.add_folder("Floaters", expand_by_default=False):
            self._faint = gui.add_slider("Faintest", 0.0, 0.6, 0.01, 0.0, hint="Drop splats of less opacity.")
            self._large = gui.add_slider("Largest", 0.01, OFF_SIZE, 0.01, OFF_SIZE, hint="Drop larger splats; 1 is the distance from the photos to the scene.")
            self._far = gui.add_slider("Farthest", 0.5, OFF_FAR, 0.5, OFF_FAR, hint="Drop splats further from the middle; same unit.")
            self._loose = gui.add_slider("Smallest part", 0, 2000, 10, 0, hint="Drop parts of fewer splats that hang together with nothing else.")
            self._would = gui.add_markdown("")
            apply = gui.add_button("Drop them")
        for slider in (self._faint, self._large, self._far, self._loose):
            slider.on_update(lambda _: self._counter.submit(self._tell_floaters))
        apply.on_click(lambda event: self._page.in_background(lambda: self._drop(event.client), event.client))

    def _floaters(self) -> list[EditStep]:
        frame = self._page.frame
        depth = SCENE_DEPTH / frame.scale
        steps: list[EditStep] = []
        if self._faint.value > 0:
            steps.append(DropFaint(float(self._faint.value)))
        if self._large.value < OFF_SIZE:
            steps.append(DropLarge(float(self._large.value) * depth))
        if self._far.value < OFF_FAR:
            steps.append(DropFar(frame.origin, float(self._far.value) * depth))
        if self._loose.value > 0:
            steps.append(DropLoose(int(self._loose.value), REACH * depth))
        return steps

    def _tell_floaters(self) -> None:
        shown, steps = self._page.shown(), self._floaters()
        if shown is None or not steps:
            self._would.content = "Move a slider to see what would go, in pink."
            self._preview_box()
            return
        scene, gone = shown[0], dropped_by(shown[0], steps)
        self._would.content = f"**{int(gone.sum()):,}** of {len(scene):,} splats would go."
        self._page.preview(lambda g: tinted(g, gone if g is scene else dropped_by(g, steps)))

    def _drop(self, client: Any) -> None:
        steps = self._floaters()
        self._faint.value, self._large.value, self._far.value, self._loose.value = 0.0, OFF_SIZE, OFF_FAR, 0
        self.add(steps, client)

    # -- the world -----------------------------------------------------------------------------------------------

    def _build_world(self, gui: Any) -> None:
        with gui.add_folder("Up and size", expand_by_default=False):
            level = gui.add_button("Up is up in this view")
            floor = gui.add_button("Click three points of the floor")
            measure = gui.add_button("Click two points to measure")
            self._length = gui.add_number("Their distance", 1.0, min=1e-9, step=0.001, visible=False, hint="In the unit you like: metres, say.")
            self._scale = gui.add_button("Set their distance", visible=False)
        level.on_click(lambda event: self._page.in_background(lambda: self._level(event.client), event.client))
        floor.on_click(lambda event: self._ask(event.client, 3, "The floor", self._floor))
        measure.on_click(lambda event: self._ask(event.client, 2, "A known distance", self._measured))
        self._scale.on_click(lambda event: self._page.in_background(lambda: self._rescale(event.client), event.client))

    def _ask(self, client: Any, count: int, prompt: str, then: Callable[[Tensor, Any], None]) -> None:
        self._page.in_background(lambda: self._picker.ask(client, count, prompt, lambda points: then(points, client)), client)

    def _level(self, client: Any) -> None:
        camera = self._page.camera_of(client)
        if camera is not None:
            self.add([upright(-camera.cam_from_world[0, 1, :3], None, "up is up in a view")], client)

    def _floor(self, points: Float[Tensor, "3 3"], client: Any) -> None:
        shown = self._page.shown()
        normal = torch.linalg.cross(points[1] - points[0], points[2] - points[0])
        if shown is None or float(normal.norm()) < 1e-9 * float((points - points.mean(0)).norm()) ** 2:
            self._page.tell(client, "These points lie on a line", "Click three points that span the floor.", bad=True)
            return
        eyes = shown[1] if len(shown[1]) else self._page.camera_of(client)
        if eyes is None:
            return
        towards = eyes.centers.double().mean(0) - points.mean(0)  # photos are taken, and floors looked at, from above
        self.add([upright(normal if float(normal @ towards) > 0 else -normal, points.mean(0), "the floor by three points")], client)

    def _measured(self, points: Float[Tensor, "2 3"], client: Any) -> None:
        length = float((points[1] - points[0]).norm())
        if length <= 0:
            self._page.tell(client, "These points are one", "Click two different points.", bad=True)
            return
        self._pair = points
        self._length.value = float(f"{length:.6g}")
        self._length.visible = self._scale.visible = True
        self._page.tell(client, "Measured", f"They are {length:.4g} apart. Type their true distance, then click 'Set their distance'.")

    def _rescale(self, client: Any) -> None:
        if self._pair is None:
            return
        length, wanted = float((self._pair[1] - self._pair[0]).norm()), float(self._length.value)
        self._pair = None
        self._length.visible = self._scale.visible = False
        self.add([Move(scale=wanted / length, what=f"two points are {wanted:g} apart")], client)
