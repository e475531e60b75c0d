"""Fixtures for all tests: where the real captures are, device, seeds; and a count of skips against an allow-list."""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

ROOT = Path(__file__).resolve().parent.parent

# every reason a test may be skipped for; anything else fails the run
ALLOWED_SKIPS = (
    "needs ../shared", "needs CUDA", "needs compiled kernels", "needs open3d", "needs nerfacc", "needs nerfstudio",
    "needs splat-transform", "needs spark", "needs laspy", "needs pye57", "needs usd-core", "needs kornia 0.8.3", "needs transformers", "needs torchvision", "needs ptlflow", "needs depth_anything_3", "needs an installed package", "needs Chromium", "needs ray", "needs spconv", "needs kiss-icp",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--device", default="cpu", help="device the numeric suites run on: cpu or cuda")


def pytest_configure() -> None:
    # a shell that starts a run in the background makes it ignore Ctrl-C, and so would the commands that the tests start and interrupt
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("-m"):
        slow = [i for i in items if i.get_closest_marker("slow")]
        if slow:
            config.hook.pytest_deselected(items=slow)
            items[:] = [i for i in items if i not in slow]


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo):  # pyright: ignore[reportMissingTypeArgument]
    outcome = yield
    report = outcome.get_result()
    if report.skipped and isinstance(report.longrepr, tuple):
        reason = report.longrepr[2].removeprefix("Skipped: ")
        if not reason.startswith(ALLOWED_SKIPS) and not hasattr(report, "wasxfail"):
            report.outcome = "failed"
            report.longrepr = f"unlisted skip: {reason!r} (allowed: {', '.join(ALLOWED_SKIPS)})"


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of real captures and weights; skips where there is none (a user has neither)."""
    path = Path(os.environ.get("HANDFUL_SHARED", ROOT.parent / "shared"))
    if not (path / "data").is_dir():
        pytest.skip("needs ../shared")
    return path


@pytest.fixture(scope="session")
def shared_data(shared: Path) -> Path:
    return shared / "data"


# WebGL in software, and nothing that goes to the network
CHROMIUM_FLAGS = (
    "--no-sandbox --use-angle=swiftshader --enable-unsafe-swiftshader --ignore-gpu-blocklist --disable-background-networking "
    "--disable-component-update --disable-sync --no-first-run"
).split()


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A headless Chromium (playwright's Browser)."""
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        pytest.skip("needs Chromium and playwright")
    program = os.environ.get("HANDFUL_CHROMIUM") or shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        pytest.skip("needs Chromium")
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=program, args=CHROMIUM_FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def device(request: pytest.FixtureRequest) -> torch.device:
    name = request.config.getoption("--device")
    if name == "cuda" and not torch.cuda.is_available():
        pytest.skip("needs CUDA")
    return torch.device(name)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)
