"""What a visitor takes along: the scene in a format, the picture of this view, the link to it. No viser import here."""

from __future__ import annotations

from typing import Any

from ..recon.errors import HandfulError
from .layers import draw_layer
from .page import Page

__all__ = ["TakePanel"]

NONE = "-"


class TakePanel:
    def __init__(self, page: Page, link: Any) -> None:
        self._page, self._link = page, link
        gui = page.gui
        self._names: dict[str, str] = {}
        with gui.add_folder("Take along", expand_by_default=False, visible=page.keeper is not None):
            self._format = gui.add_dropdown("Scene as", (NONE,), hint="With the edits. Sizes are estimates.")
            self._export = gui.add_button("Export", disabled=True)
            picture = gui.add_button("Picture of this view")
            self._scale = gui.add_dropdown("Picture size", ("as the window", "twice", "four times"))
            link_button = gui.add_button("Link to this view")
            self._text = gui.add_text("Link", "", visible=False, hint="Copy it; it opens the page at this view while Handful serves it.")
        self._export.on_click(lambda event: page.in_background(lambda: self._take(event.client), event.client))
        picture.on_click(lambda event: page.in_background(lambda: self._picture(event.client), event.client))
        link_button.on_click(lambda event: self._show_link(event.client))

    def refresh(self) -> None:
        """Formats and sizes for the scene as it is now."""
        shown, keeper = self._page.shown(), self._page.keeper
        if shown is None or keeper is None:
            return
        chosen = self._names.get(self._format.value)
        self._names = {f"{name} ({size})": name for name, size in keeper.formats(shown[0]).items()}
        self._format.options = tuple(self._names)
        self._format.value = next((text for text, name in self._names.items() if name == chosen), next(iter(self._names)))
        self._export.disabled = False

    def _take(self, client: Any) -> None:
        shown, keeper = self._page.shown(), self._page.keeper
        if shown is None or keeper is None:
            return
        self._export.disabled = True
        try:
            name, content = keeper.export(self._names[self._format.value], shown[0])
        finally:
            self._export.disabled = False
        client.send_file_download(name, content, save_immediately=True)
        self._page.tell(client, "Exported", f"{name}: {len(content) / 1e6:.1f} MB; it lies beside the scene, too.")

    def _picture(self, client: Any) -> None:
        shown, keeper, camera = self._page.shown(), self._page.keeper, self._page.camera_of(client)
        if shown is None or keeper is None or camera is None:
            return
        times = {"as the window": 1, "twice": 2, "four times": 4}[self._scale.value]
        if camera.width * camera.height * times**2 > 64_000_000:
            raise HandfulError("That picture would be too large; choose a smaller size.")
        large = camera.resized(camera.width * times, camera.height * times)
        picture = draw_layer(shown[0], large, "color", self._page.rasterizer(), self._page.background)
        client.send_file_download("view.png", keeper.png(picture), save_immediately=True)

    def _show_link(self, client: Any) -> None:
        text = self._link(client)
        if text is not None:
            self._text.value = text
            self._text.visible = True
