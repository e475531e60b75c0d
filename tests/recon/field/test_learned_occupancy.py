"""The classifier of occupied places: its losses against closed forms, what it learns of a known field, and what it says of cells."""

from __future__ import annotations

import math

import pytest
import torch
from handful.recon.field.decoder import Decoder
from handful.recon.field.learned_occupancy import BAKE_EVERY, BALANCE, EMPTY, LearnedOccupancy, empty_loss, imbalance_loss
from handful.recon.field.occupancy import cell_centers
from handful.recon.field.radiance import RadianceField
from handful.recon.field.vm import VmGrid
from torch import Tensor


def test_imbalance_in_closed_form() -> None:
    """Two of four places occupied, mean probability .5: .5 .5 / .1 + .5 .5 / .9, and the slope in each is (.5 / .1 - .5 / .9) / 4."""
    p = torch.tensor([0.9, 0.8, 0.1, 0.2], dtype=torch.float64, requires_grad=True)
    loss = imbalance_loss(p, 0.1)
    loss.backward()
    assert float(loss) == pytest.approx(0.25 / 0.1 + 0.25 / 0.9)
    assert p.grad is not None
    assert p.grad.tolist() == pytest.approx([(0.5 / 0.1 - 0.5 / 0.9) / 4] * 4)


@pytest.mark.parametrize(("occupied", "slope"), [(1, -1), (2, 0), (3, 1)])
def test_imbalance_pulls_towards_the_share(occupied: int, slope: int) -> None:
    p = torch.cat([torch.full((occupied,), 0.7), torch.full((10 - occupied,), 0.3)]).requires_grad_()
    loss = imbalance_loss(p, 0.2)
    loss.backward()
    assert p.grad is not None
    assert (p.grad.sign() * (p.grad.abs() > 1e-6)).tolist() == [slope] * 10
    assert (occupied != 2) or float(loss) == pytest.approx(1.0)


def test_empty_in_closed_form() -> None:
    p = torch.tensor([1.0, 0.25], dtype=torch.float64, requires_grad=True)
    opacity = torch.tensor([0.5, 0.4], dtype=torch.float64, requires_grad=True)
    loss = empty_loss(p, opacity)
    loss.backward()
    assert float(loss) == pytest.approx(0.15)
    assert p.grad is not None and opacity.grad is not None
    assert p.grad.tolist() == pytest.approx([-0.25, -0.2]) and opacity.grad.tolist() == pytest.approx([0.0, 0.375])
    assert torch.autograd.gradcheck(empty_loss, (p, opacity))


@pytest.mark.parametrize("twin", [False, True])
def test_opacity_of_places(twin: bool) -> None:
    """Of known density, and its slope: d/dlog(density) of 1 - exp(-density l) is density l exp(-density l)."""
    field = RadianceField(VmGrid(8, 16), Decoder(48, 16))
    with torch.no_grad():
        field.decoder.w2.zero_()
        field.decoder.b2[0] = math.log(3.0)
    opacity = field.ready(twin).opacity(torch.rand(5, 3), 0.2)
    assert opacity.tolist() == pytest.approx([1 - math.exp(-0.6)] * 5, rel=1e-5)
    opacity.sum().backward()
    assert field.decoder.b2.grad is not None
    assert float(field.decoder.b2.grad[0]) == pytest.approx(5 * 0.6 * math.exp(-0.6), rel=1e-4)


def test_cells_are_what_it_says_at_their_centres() -> None:
    net = LearnedOccupancy(12, rng=torch.Generator().manual_seed(1))
    assert bool(net.cells.all()), "all is occupied before the first bake"
    with torch.no_grad():
        net.weights[2].mul_(20)
        net.biases[2].fill_(0.0)
        logits = net(cell_centers(12)).view(12, 12, 12)
    net.bake()
    clear = logits.abs() > 1e-4
    assert torch.equal(net.cells[clear], (logits > 0)[clear]) and 0.1 < float(net.cells.float().mean()) < 0.9


def taught(share: float, opaque: float, rng: torch.Generator) -> tuple[LearnedOccupancy, Tensor]:
    """After 600 steps on a still field: a ball of radius .3 in which a step of the march is as opaque as that; and which cells lie well in it (1) or out of it (-1)."""
    net = LearnedOccupancy(24, share, 0, rng)
    optimiser = torch.optim.Adam(net.parameters(), 4e-3)
    for step in range(600):
        loss = net.loss(step, lambda xyz: opaque * ((xyz - 0.5).norm(dim=1) < 0.3).float(), rng)
        assert loss is not None
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    net.bake()
    away = (cell_centers(24) - 0.5).norm(dim=1).view(24, 24, 24)
    return net, (away < 0.25).int() - (away > 0.38).int()


def test_it_learns_where_matter_is() -> None:
    """The ball fills 11 % of the cube."""
    net, there = taught(0.1, 0.5, torch.Generator().manual_seed(0))
    assert float(net.cells[there == 1].float().mean()) > 0.98 and float(net.cells[there == -1].float().mean()) < 0.02


def test_the_share_gives_way_to_matter_but_not_to_haze() -> None:
    """Drawn to 2 % while the ball fills 11 %: what is more opaque than the threshold its docstring tells is kept, what is far less so is not."""
    rng = torch.Generator().manual_seed(0)
    threshold = BALANCE / EMPTY * (0.113 / 0.02 - 0.887 / 0.98)
    clear, there = taught(0.02, 10 * threshold, rng)
    haze, _ = taught(0.02, threshold / 10, rng)
    assert float(clear.cells[there == 1].float().mean()) > 0.95
    assert float(haze.cells.float().mean()) < 0.05


def test_nothing_is_learned_or_baked_while_it_warms_up() -> None:
    net = LearnedOccupancy(8, warm_up=10)
    with torch.no_grad():
        net.biases[2].fill_(-9.0)
    rng = torch.Generator()
    assert net.loss(9, lambda xyz: xyz[:, 0], rng) is None and net.loss(10, lambda xyz: xyz[:, 0], rng) is not None
    for step, occupied in ((10, True), (10 + BAKE_EVERY - 1, True), (10 + BAKE_EVERY, False)):
        net.after_step(step, lambda xyz: xyz[:, 0], rng)
        assert bool(net.cells.all()) is occupied and bool(net.cells.any()) is occupied
