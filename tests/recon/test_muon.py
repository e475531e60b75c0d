"""Muon: against its definition by singular values, and torch's own."""

from __future__ import annotations

import pytest
import torch
from handful.recon.errors import CheckpointError, ShapeError
from handful.recon.muon import ADAM_RMS, Muon, orthogonalised


@pytest.mark.parametrize("shape", [(16, 144), (64, 64), (90, 20), (1, 7)])
def test_directions_stay_and_lengths_become_one(shape: tuple[int, int]) -> None:
    rng = torch.Generator().manual_seed(0)
    u, _, vt = torch.linalg.svd(torch.randn(shape, generator=rng, dtype=torch.float64), full_matrices=False)
    s = torch.logspace(0, -1.5, min(shape), dtype=torch.float64)  # thirty times apart
    found = u.T @ orthogonalised((u * s) @ vt) @ vt.T
    size = found.diagonal()
    assert float(size.min()) > 0.6 and float(size.max()) < 1.25
    torch.testing.assert_close(found - size.diag(), torch.zeros_like(found), atol=1e-9, rtol=0)
    assert not orthogonalised(torch.zeros(3, 4)).any()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch has none before 2.9")
def test_steps_as_torch_does() -> None:
    """Which works in bfloat16."""
    rng = torch.Generator().manual_seed(0)
    start = torch.randn(12, 40, generator=rng)
    mine, theirs = (start.clone().requires_grad_() for _ in range(2))
    a, b = Muon({"w": mine}, 0.01), torch.optim.Muon([theirs], lr=0.01, weight_decay=0.0, adjust_lr_fn="match_rms_adamw")
    for _ in range(6):
        gradient = torch.randn(12, 40, generator=rng)
        mine.grad, theirs.grad = gradient.clone(), gradient.clone()
        a.step()
        b.step()
    moved = theirs - start
    assert float((mine - theirs).norm() / moved.norm()) < 0.03


def test_a_step_is_as_large_as_adams_and_convolutions_are_matrices() -> None:
    rng = torch.Generator().manual_seed(0)
    kernel = torch.zeros(8, 5, 3, 3, requires_grad=True)
    optimiser = Muon({"w": kernel}, 1.0)
    kernel.grad = torch.randn(8, 5, 3, 3, generator=rng)
    optimiser.step()
    assert float(kernel.detach().square().mean().sqrt()) == pytest.approx(ADAM_RMS, rel=0.25)
    optimiser.zero_grad()
    before = kernel.detach().clone()
    optimiser.step()
    assert torch.equal(kernel, before), "without a gradient nothing moves"


def test_state_goes_on_and_what_does_not_fit_is_refused() -> None:
    rng = torch.Generator().manual_seed(0)
    gradients = [torch.randn(4, 6, generator=rng) for _ in range(4)]

    def run(first: int, state: dict[str, torch.Tensor] | None, w: torch.Tensor) -> Muon:
        optimiser = Muon({"w": w}, {"w": 0.1})
        if state is not None:
            optimiser.load_state_dict(state)
        for gradient in gradients[first:]:
            w.grad = gradient.clone()
            optimiser.step()
        return optimiser

    whole = torch.zeros(4, 6, requires_grad=True)
    run(0, None, whole)
    half = torch.zeros(4, 6, requires_grad=True)
    del gradients[2:]
    kept = {n: t.clone() for n, t in run(0, None, half).state_dict().items()}
    rng = torch.Generator().manual_seed(0)
    gradients[:] = [torch.randn(4, 6, generator=rng) for _ in range(4)]
    run(2, kept, half)
    assert torch.equal(half, whole)
    with pytest.raises(CheckpointError, match="of other shapes"):
        Muon({"w": torch.zeros(6, 4)}, 0.1).load_state_dict(kept)
    with pytest.raises(ShapeError, match="'b' is \\(3,\\)"):
        Muon({"b": torch.zeros(3)}, 0.1)
