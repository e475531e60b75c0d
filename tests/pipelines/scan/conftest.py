"""Made-up scenes that several files of tests hold scans against: photos are drawn and matched once."""

from __future__ import annotations

import pytest

from .scenes import Scene, made


@pytest.fixture(scope="session")
def tabletop() -> Scene:
    return made("tabletop")


@pytest.fixture(scope="session")
def room() -> Scene:
    return made("room")


@pytest.fixture(params=["tabletop", "room"])
def scene(request: pytest.FixtureRequest) -> Scene:
    return request.getfixturevalue(request.param)
