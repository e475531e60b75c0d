"""The native optimiser against torch.optim.Adam and its own torch twin."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from handful.recon import optim
from handful.recon.errors import CheckpointError, ShapeError
from handful.recon.kernels import native_or_none
from handful.recon.optim import SparseAdam, decay_opacity

from .raster.gsplat_on_cpu import adam

SHAPES = {"means": (307, 3), "logits": (307,), "sh": (307, 4, 3), "cameras": (5, 6)}
LR = {"means": 1e-2, "logits": 5e-2, "sh": 3e-3, "cameras": 1e-3}


@pytest.fixture(params=["native", "torch", "gsplat"])
def backend(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    if request.param in ("torch", "gsplat"):
        monkeypatch.setattr(optim, "native_or_none", lambda: None)
        monkeypatch.setattr(optim, "_gsplat_for", lambda *_: adam if request.param == "gsplat" else None)
    elif native_or_none() is None:
        pytest.skip("needs compiled kernels")
    yield request.param


def params(seed: int = 0) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    return {k: torch.randn(s, generator=g).requires_grad_() for k, s in SHAPES.items()}


def give_gradients(p: dict[str, torch.Tensor], step: int) -> None:
    g = torch.Generator().manual_seed(100 + step)
    for t in p.values():
        t.grad = (torch.randn(t.shape, generator=g) * 10 ** torch.randint(-6, 2, t.shape, generator=g)).to(t.device)


def test_all_visible_is_adam(backend: str) -> None:
    mine, theirs = params(), params()
    opt = SparseAdam(mine, LR, eps=1e-8)
    want = torch.optim.Adam([{"params": [theirs[k]], "lr": LR[k]} for k in theirs], eps=1e-8)
    for step in range(5):
        give_gradients(mine, step), give_gradients(theirs, step)
        opt.step(torch.ones(307, dtype=torch.bool) if step % 2 else None)
        want.step()
    for k in mine:
        assert torch.allclose(mine[k], theirs[k], rtol=1e-5, atol=1e-6), k


def test_rows_that_are_not_visible_stay(backend: str) -> None:
    p = params()
    opt = SparseAdam(p, LR)
    give_gradients(p, 0)
    opt.step()
    before = {k: (v.detach().clone(), opt.groups[k]["exp_avg"].clone(), opt.groups[k]["exp_avg_sq"].clone()) for k, v in p.items()}
    visible = torch.rand(307) > 0.5
    give_gradients(p, 1)
    opt.step(visible)
    for k, old in before.items():
        for now, then in zip((p[k].detach(), opt.groups[k]["exp_avg"], opt.groups[k]["exp_avg_sq"]), old, strict=True):
            if k == "cameras":
                assert (now != then).any()
            else:
                assert torch.equal(now[~visible], then[~visible]) and (now[visible] != then[visible]).any()


@pytest.mark.skipif(native_or_none() is None, reason="needs compiled kernels")
def test_native_equals_its_twin(monkeypatch: pytest.MonkeyPatch) -> None:
    columns = {"sh": torch.tensor([1.0, 0.05, 0.05, 0.5])[:, None].expand(4, 3).contiguous()}
    a, b = params(), params()
    fast, slow = SparseAdam(a, LR, column_lr=columns), SparseAdam(b, LR, column_lr=columns)
    for step in range(6):
        visible = torch.rand(307) > 0.4
        give_gradients(a, step), give_gradients(b, step)
        fast.step(visible)
        with monkeypatch.context() as m:
            m.setattr(optim, "native_or_none", lambda: None)
            slow.step(visible)
    for k in a:
        assert torch.allclose(a[k], b[k], rtol=1e-5, atol=1e-6), k
        assert torch.allclose(fast.groups[k]["exp_avg"], slow.groups[k]["exp_avg"], rtol=1e-4, atol=1e-6), k


@pytest.mark.parametrize("real", [False, True], ids=["formulas", "gpu"])
def test_gsplat_step_equals_its_twin(monkeypatch: pytest.MonkeyPatch, device: torch.device, real: bool) -> None:
    if real and device.type != "cuda":
        pytest.skip("needs CUDA")
    on = device if real else torch.device("cpu")
    columns = {"sh": torch.tensor([1.0, 0.05, 0.05, 0.5], device=on)[:, None].expand(4, 3).contiguous()}
    a, b = ({k: v.detach().to(on).requires_grad_() for k, v in params().items()} for _ in range(2))
    fast, slow = SparseAdam(a, LR, column_lr=columns), SparseAdam(b, LR, column_lr=columns)
    kernel = optim._gsplat_adam() if real else adam
    assert kernel is not None
    monkeypatch.setattr(optim, "native_or_none", lambda: None)
    for step in range(6):
        visible = (torch.rand(307) > 0.4).to(on)
        for p, opt, used in ((a, fast, kernel), (b, slow, None)):
            give_gradients(p, step)
            monkeypatch.setattr(optim, "_gsplat_for", lambda *_, used=used: used)
            opt.step(visible)
    for k in a:
        assert torch.allclose(a[k], b[k], rtol=1e-5, atol=1e-6), k
        assert torch.allclose(fast.groups[k]["exp_avg"], slow.groups[k]["exp_avg"], rtol=1e-4, atol=1e-6), k


def test_same_result_every_time_and_after_a_checkpoint(backend: str) -> None:
    def run(opt: SparseAdam, p: dict[str, torch.Tensor], steps: range) -> None:
        for step in steps:
            give_gradients(p, step)
            opt.step(torch.arange(307) % (step + 2) != 0)

    a, b = params(), params()
    whole, half = SparseAdam(a, LR), SparseAdam(b, LR)
    run(whole, a, range(6))
    run(half, b, range(3))
    saved: dict[str, Any] = half.state_dict()
    c = {k: v.detach().clone().requires_grad_() for k, v in b.items()}
    resumed = SparseAdam(c, 1.0)
    resumed.load_state_dict(saved)
    run(resumed, c, range(3, 6))
    for k in a:
        assert torch.equal(a[k], c[k]), k


def test_rows_come_and_go() -> None:
    p = params()
    opt = SparseAdam(p, LR)
    give_gradients(p, 0)
    opt.step()
    rows = torch.arange(307) % 3 == 0
    fewer = p["means"].detach()[rows].requires_grad_()
    old = opt.groups["means"]["exp_avg"]
    opt.select("means", fewer, rows)
    assert torch.equal(opt.groups["means"]["exp_avg"], old[rows])
    opt.append("means", torch.cat([fewer.detach(), torch.zeros(4, 3)]).requires_grad_())
    assert opt.groups["means"]["exp_avg"].shape == (int(rows.sum()) + 4, 3) and not opt.groups["means"]["exp_avg"][-4:].any()
    with pytest.raises(ShapeError, match="means"):
        opt.append("means", torch.zeros(2, 3))


def test_a_checkpoint_of_something_else() -> None:
    state = SparseAdam(params(), LR).state_dict()
    with pytest.raises(CheckpointError, match="parameters"):
        SparseAdam({"means": torch.zeros(3, 3)}, 1.0).load_state_dict(state)
    other = params() | {"means": torch.zeros(2, 3)}
    with pytest.raises(CheckpointError, match="means"):
        SparseAdam(other, LR).load_state_dict(state)


def test_column_lr_must_fit() -> None:
    with pytest.raises(ShapeError, match="column_lr"):
        SparseAdam(params(), LR, column_lr={"sh": torch.ones(3)})


@pytest.mark.parametrize("factor", [0.5, 0.995, 1.0])
def test_opacity_decay(backend: str, factor: float) -> None:
    logits = torch.cat([torch.linspace(-12, 9, 300), torch.tensor([-95.0, 80.0, 0.0])])
    visible = torch.arange(len(logits)) % 4 != 0
    now = logits.clone()
    decay_opacity(now, factor, visible)
    want = torch.logit(torch.sigmoid(logits.double()) * factor)
    moderate = visible & (logits.abs() < 15)
    assert torch.allclose(now[moderate].double(), want[moderate], rtol=1e-5, atol=2e-6 if factor < 1 else 1e-5)
    assert torch.equal(now[~visible], logits[~visible]) and torch.isfinite(now).all()
    decay_opacity(now, factor)
    assert (now[~visible] <= logits[~visible] + 1e-5).all()


def test_opacity_decay_refuses_growth() -> None:
    with pytest.raises(ValueError, match="factor"):
        decay_opacity(torch.zeros(3), 1.5)


@pytest.mark.parametrize("native", [True, False])
def test_pace_gives_each_row_its_own_learning_rate(native: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As torch.optim.Adam with a parameter group per row."""
    if not native:
        monkeypatch.setattr("handful.recon.optim.native_or_none", lambda: None)
    rng = torch.Generator().manual_seed(0)
    start, pace = torch.randn(5, 3, generator=rng), torch.tensor([0.0, 0.25, 1.0, 1.5, 4.0])
    ours = start.clone().requires_grad_(True)
    rows = [r.clone().requires_grad_(True) for r in start]
    whole, alone = torch.zeros(2).requires_grad_(True), torch.zeros(2).requires_grad_(True)  # say, a camera: it has no rows to pace
    adam, other = SparseAdam({"x": ours, "camera": whole}, 0.1), SparseAdam({"camera": alone}, 0.1)
    theirs = torch.optim.Adam([{"params": [r], "lr": 0.1 * float(p)} for r, p in zip(rows, pace, strict=True)], eps=1e-15)
    for _ in range(4):
        grad = torch.randn(5, 3, generator=rng)
        ours.grad = grad.clone()
        for r, g in zip(rows, grad, strict=True):
            r.grad = g.clone()
        whole.grad = alone.grad = torch.ones(2)
        adam.step(None, pace)
        other.step()
        theirs.step()
    assert torch.allclose(ours, torch.stack(rows), atol=2e-4)
    assert torch.equal(ours[0], start[0]) and torch.equal(whole, alone)
