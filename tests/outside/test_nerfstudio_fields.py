"""nerfstudio's samplers, renderers and TensoRF encoding as judges of ours, on the same inputs. Needs the environment of tests/outside/environment.sh."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
import torch
from handful.recon.field.occupancy import march
from handful.recon.field.samples import Samples
from handful.recon.field.space import BoxSpace
from handful.recon.field.vm import VmGrid
from handful.recon.field.volume import composite
from safetensors.torch import load_file, save_file
from torch import Tensor

RAYS, COUNT = 50, 40


@pytest.fixture(scope="module")
def asked(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """What nerfstudio was given, and what it says."""
    python = os.environ.get("HANDFUL_NERFSTUDIO_PYTHON")
    if not python:
        pytest.skip("needs nerfstudio: tests/outside/environment.sh makes its environment")
    rng = torch.Generator().manual_seed(0)
    delta = torch.rand(RAYS, COUNT, 1, generator=rng) * 0.05
    origins = torch.nn.functional.normalize(torch.randn(RAYS, 3, generator=rng), dim=1) * 3
    directions = torch.nn.functional.normalize(0.5 * torch.randn(RAYS, 3, generator=rng) - origins, dim=1)
    segments = BoxSpace(torch.zeros(3), 2.0).segments(origins, directions, directions)
    hit = segments.length > 0
    grid = VmGrid(11, 16, rng)
    given = {
        "starts": delta.cumsum(1) - delta, "delta": delta, "density": 20 * torch.rand(RAYS, COUNT, 1, generator=rng), "rgb": torch.rand(RAYS, COUNT, 3, generator=rng),
        "origins": origins[hit], "directions": directions[hit], "nears": segments.ends[hit, 0], "fars": segments.ends[hit, 1], "count": torch.tensor(COUNT),
        "planes": grid.planes.detach(), "lines": grid.lines.detach(), "places": torch.rand(300, 3, generator=rng) * 2 - 1,
    }  # fmt: skip
    folder = tmp_path_factory.mktemp("fields")
    save_file({k: v.contiguous() for k, v in given.items()}, folder / "in")
    script = Path(__file__).with_name("nerfstudio_renders.py")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run([python, str(script), str(folder / "in"), str(folder / "out")], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]
    return given, load_file(folder / "out")


def test_colour_opacity_and_expected_depth(asked: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    given, said = asked
    delta, middle = given["delta"].reshape(-1), (given["starts"] + given["delta"] / 2).reshape(-1)
    samples = Samples(torch.zeros(RAYS * COUNT, 3), delta, middle, torch.arange(RAYS + 1) * COUNT)
    ours = composite(given["density"].reshape(-1), given["rgb"].reshape(-1, 3), samples)
    # light below 1e-4 is left out here
    torch.testing.assert_close(ours.color, said["color"], rtol=0, atol=2e-4)
    torch.testing.assert_close(ours.alpha[:, None], said["alpha"], rtol=0, atol=2e-4)
    torch.testing.assert_close((ours.place / ours.alpha)[:, None], said["depth"], rtol=0, atol=2e-4)


def test_places_of_even_samples(asked: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    given, said = asked
    box = BoxSpace(torch.zeros(3), 2.0)
    segments = box.segments(given["origins"], given["directions"], given["directions"])
    everywhere = torch.ones(1, 1, 1, dtype=torch.bool)
    for k in range(len(segments)):
        one = segments.select(slice(k, k + 1))
        samples = march(one, everywhere, COUNT / float(one.span.norm()))
        n = min(len(samples), COUNT)  # the last may fall on the face
        assert COUNT - n <= 1
        torch.testing.assert_close(box.to_world(samples.xyz)[:n], said["positions"][k][:n], rtol=0, atol=1e-4)


def test_features_of_a_vm_grid(asked: tuple[dict[str, Tensor], dict[str, Tensor]]) -> None:
    given, said = asked
    grid = VmGrid(11, 16)
    with torch.no_grad():
        grid.planes.copy_(given["planes"])
        grid.lines.copy_(given["lines"])
    ours, theirs = grid((given["places"] + 1) / 2), said["vm"]
    torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
