"""The GPU check without a GPU: it says so in one sentence; its parts work on any device."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from handful.benchmarks import gpu_check
from handful.recon.raster.registry import get_rasterizer


def test_one_sentence_without_cuda(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_check.main([]) == 2
    out = capsys.readouterr()
    assert out.out == "" and out.err.count("\n") == 1 and "NVIDIA GPU" in out.err


def test_parts(device: torch.device) -> None:
    r = get_rasterizer("reference")
    t = gpu_check.time_step(r, device, n=300, size=(48, 32), repeats=2)
    assert t.step_ms > 0 and t.step_ms >= max(t.forward_ms, t.backward_ms, t.optimiser_ms)
    e = gpu_check.agreement(r, device, n=300, size=(48, 32))
    assert e["median"] < 1e-6 and e["beyond_1e-3"] < 1e-2


def test_rows_that_cannot_run_say_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [gpu_check._suites(tmp_path, "cpu"), gpu_check._scene(None, 3), gpu_check._guarded("x", _broken)]
    assert [r.ok for r in rows] == [None, None, False]
    gpu_check.print_table(rows)
    printed = capsys.readouterr().out
    assert "start from the repository's root" in printed and "--fern DIR" in printed and "RuntimeError: kernel launch failed\n" in printed


def _broken() -> gpu_check.Row:
    raise RuntimeError("kernel launch failed\nand a long trace")
