"""Settings of where cameras come from, as part of a method's."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["InitConfig"]


@dataclass(frozen=True)
class InitConfig:
    """How photos without cameras get some, and what is triangulated where they have them. Cameras that come with a capture stay.

    Attributes:
        matchers: names of match priors (`priors/registry.py`); their matches are joined.
        pointmap: name of a point map prior that says where photos without cameras were taken; None = found by matching.
    """

    matchers: tuple[str, ...] = ("xfeat", "sift")
    pointmap: str | None = None
