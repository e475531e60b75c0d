"""The page around its panels: the line at the top, and at the bottom help, keys and colours. No viser import here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from .help import HELP

__all__ = ["Key", "Shell"]

Key = tuple[str, str, Callable[[Any], None]]
"""(the key, what it does for people, what it does to the page of a browser)"""
# viser opens its sheet for narrow screens unfolded, three fifths high; a tap on its bar folds it, but Python cannot: a third leaves the scene to be seen
NARROW = (
    "<style>@media (max-width: 36em) "
    "{ .mantine-Paper-root:has(.handful-narrow) { max-height: min(60%, max(33%, 12em)) !important; } }</style><span class='handful-narrow'></span>"
)


class Shell:
    """Made before the panels, which come between; `finish` adds what is below them."""

    def __init__(self, gui: Any) -> None:
        self._gui = gui
        gui.configure_theme(dark_mode=True, show_logo=False, show_share_button=False)
        gui.add_html(NARROW)
        self._status = gui.add_markdown("Waiting for the scene ...")
        self._progress = gui.add_progress_bar(0.0, visible=False)

    @property
    def status(self) -> str:
        return self._status.content

    def tell(self, text: str, done: float | None = None) -> None:
        """A line (Markdown), and a progress bar when `done` is a share in [0, 1]."""
        self._status.content = text
        self._progress.visible = done is not None
        if done is not None:
            self._progress.value = 100.0 * min(max(done, 0.0), 1.0)

    def finish(self, keys: tuple[Key, ...]) -> None:
        """Help is added to the keys."""
        gui = self._gui
        dark = gui.add_checkbox("Dark page", True)
        dark.on_update(lambda _: gui.configure_theme(dark_mode=dark.value, show_logo=False, show_share_button=False))
        gui.add_button("Help").on_click(lambda event: show_help(event.client))
        for key, label, action in (("H", "Help", show_help), *keys):
            gui.add_command(label, hotkey=key).on_trigger(lambda event, action=action: action(event.client))


def show_help(client: Any) -> None:
    if client is not None:
        with client.gui.add_modal("What can be done here") as modal:
            client.gui.add_markdown(HELP)
            client.gui.add_button("Close").on_click(lambda _: modal.close())
