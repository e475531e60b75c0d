"""The page's help, for people who open it for the first time."""

from __future__ import annotations

__all__ = ["HELP"]

HELP = """
**Moving.** Drag to turn, drag with the right button (two fingers) to shift, scroll (pinch) to come nearer. W A S D and Q E walk, the arrow keys turn.

**Photos.** Click one in the scene to stand where it was taken; then pull *Compare* to draw the photo over the picture.

**Show.** The browser draws the splats; Handful itself draws picture, depth, normals, opacity, and which parts the photos vouch for.

**Scan.** What a range sensor measured, beside the splats: in the colours of the photos, by height, intensity or distance, or by how far the scene is from it.

**Edit.** Crop, drop what floats about, set what is up and how long something is. Edits are kept beside the scene and can be undone.

**Camera path.** Add keyframes, look at the film, save it: `handful render` makes the video.

**Keys.** H help, P photos, C scan, N next photo, L next layer, K keyframe, Z undo.
"""
