"""Every layer of every backend is the dense convolution read at its voxels: values and all gradients."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch
from handful.recon.errors import BackendUnavailable, ConfigError, ShapeError
from handful.recon.voxel import SPARSE_BACKENDS, DownConv, Rulebooks, SparseVoxels, SubMConv, UpConv, backend_status, get_backend
from handful.recon.voxel.protocol import Rulebook, SparseBackend
from handful.recon.voxel.torch_backend import TorchBackend
from torch import Tensor
from torch.nn.functional import conv3d, conv_transpose3d

from .made import dense, read, some_voxels

SEEDS = 20
LAYERS = ("subm 1", "subm 3", "subm 5", "down", "up")
TOLERANCE = {torch.float32: 2e-5, torch.float64: 1e-12}


@pytest.fixture(autouse=True)
def _threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _layer(kind: str, cin: int, cout: int) -> SubMConv | DownConv | UpConv:
    name, _, kernel = kind.partition(" ")
    layer = {"subm": lambda: SubMConv(cin, cout, int(kernel)), "down": lambda: DownConv(cin, cout), "up": lambda: UpConv(cin, cout)}[name]()
    torch.nn.init.normal_(layer.bias)  # pyright: ignore[reportArgumentType]
    return layer


def _input(kind: str, fine: SparseVoxels) -> SparseVoxels:
    """The layer's input: the voxels, or for the way up some features on their parents."""
    if kind != "up":
        return fine
    parents = Rulebooks(fine, "torch").level(2)
    return parents.with_feats(torch.randn(len(parents), fine.channels, dtype=fine.feats.dtype, device=fine.feats.device))


def _dense(kind: str, x: SparseVoxels, weight: Tensor, bias: Tensor, out: SparseVoxels, scenes: int) -> Tensor:
    """In float64 whatever comes in."""
    x, weight, bias = x.with_feats(x.feats.double()), weight.double(), bias.double()
    if kind == "up":
        return read(conv_transpose3d(dense(x, scenes=scenes), weight.permute(4, 0, 1, 2, 3), bias, stride=2), out.coords)
    w = weight.permute(0, 4, 1, 2, 3)
    if kind == "down":
        a, b, c = (n + n % 2 for n in x.shape)
        return read(conv3d(dense(x, (a, b, c), scenes), w, bias, stride=2), out.coords)
    return read(conv3d(dense(x, scenes=scenes), w, bias, padding=weight.shape[1] // 2), out.coords)


def _gradients(out: Tensor, pull: Tensor, inputs: list[Tensor]) -> list[Tensor]:
    return [out, *torch.autograd.grad((out * pull).sum(), inputs)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=["f32", "f64"])
@pytest.mark.parametrize("kind", LAYERS)
def test_equals_dense(kind: str, dtype: torch.dtype, backend: SparseBackend, device: torch.device) -> None:
    """Rows times channels are enough for torch to share the work among threads (but for the largest kernel)."""
    if backend.name == "spconv-cuda" and dtype == torch.float64:
        pytest.skip("needs CUDA kernels of float64, which spconv has none of")
    for seed in range(SEEDS):
        torch.manual_seed(seed)
        small = kind == "subm 5"
        fine = some_voxels((6, 5, 7) if small else (14, 13, 15), 2, 4 if small else 16, 0.45, seed, dtype, device)
        x = _input(kind, fine)
        x = x.with_feats(x.feats.clone().requires_grad_())
        layer = _layer(kind, fine.channels, 12).to(device, dtype)
        assert layer.bias is not None
        inputs = [x.feats, layer.weight, layer.bias]
        got: list[list[Tensor]] = []
        pull = torch.zeros(())
        for threads in (1, 2):
            torch.set_num_threads(threads)
            out = layer(x, Rulebooks(fine, backend))
            pull = pull if got else torch.randn_like(out.feats)
            got.append(_gradients(out.feats, pull, inputs))
        want = _gradients(_dense(kind, x, layer.weight, layer.bias, out, fine.scenes), pull.double(), inputs)
        for threads, values in enumerate(got, 1):
            for name, a, b in zip(("values", "feats", "weight", "bias"), values, want, strict=True):
                worst = float((a - b).detach().abs().max() / b.detach().abs().max().clamp_min(1))
                assert worst < TOLERANCE[dtype], f"{name} of {kind}, seed {seed}, {threads} threads: {worst}"


def test_same_bits_each_time(backend: SparseBackend, device: torch.device) -> None:
    x = some_voxels((14, 13, 15), 2, 16, 0.45, dtype=torch.float32, device=device)
    x = x.with_feats(x.feats.requires_grad_())
    torch.set_num_threads(2)
    layer = SubMConv(16, 12).to(device)
    runs = [_gradients(out := layer(x, Rulebooks(x, backend)).feats, torch.ones_like(out), [x.feats, layer.weight]) for _ in range(6)]
    assert all(torch.equal(a, b) for run in runs[1:] for a, b in zip(run, runs[0], strict=True))


def test_down_has_a_voxel_wherever_a_child_is(backend: SparseBackend, device: torch.device) -> None:
    """Odd grids too: the last cells have parents of their own."""
    x = some_voxels((5, 7, 3), 3, 2, 0.15, device=device)
    books = Rulebooks(x, backend)
    for stride, shape in ((2, (3, 4, 2)), (4, (2, 2, 1)), (8, (1, 1, 1)), (16, (1, 1, 1))):
        level = books.level(stride).validate()
        assert level.shape == shape and level.stride == stride
        want = sorted({(b, i // stride, j // stride, k // stride) for b, i, j, k in x.coords.tolist()})
        assert [tuple(c) for c in level.coords.tolist()] == want


@pytest.mark.parametrize("count", [0, 1])
def test_hardly_any_voxels(count: int, backend: SparseBackend, device: torch.device) -> None:
    x = some_voxels((3, 3, 3), 1, 4, 0.5, dtype=torch.float32, device=device)
    x = replace(x, coords=x.coords[:count], feats=x.feats[:count].clone().requires_grad_())
    books = Rulebooks(x, backend)
    layers = [SubMConv(4, 4), SubMConv(4, 4, 5), DownConv(4, 4), UpConv(4, 4)]
    y = x
    for layer in layers:
        y = layer.to(device)(y, books)
    assert y.feats.shape == (count, 4) and y.coords is x.coords
    y.feats.sum().backward()
    assert layers[0].weight.grad is not None and bool(layers[0].weight.grad.any()) == bool(count)


def test_second_derivatives_are_refused() -> None:
    x = some_voxels()
    x = x.with_feats(x.feats.clone().requires_grad_())
    out = SubMConv(4, 2).double()(x, Rulebooks(x, "torch")).feats
    (g,) = torch.autograd.grad(out.square().sum(), x.feats, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        g.sum().backward()


class _Counting(TorchBackend):
    def __init__(self) -> None:
        self.made: list[str] = []

    def subm(self, coords: Tensor, shape: tuple[int, int, int], kernel: int) -> Rulebook:
        self.made.append(f"subm {len(coords)} {kernel}")
        return super().subm(coords, shape, kernel)

    def down(self, coords: Tensor, shape: tuple[int, int, int]) -> tuple[Rulebook, Tensor, tuple[int, int, int]]:
        self.made.append(f"down {len(coords)}")
        return super().down(coords, shape)


def test_rulebooks_are_made_once() -> None:
    backend, x = _Counting(), some_voxels()
    books = Rulebooks(x, backend)
    for _ in range(3):
        y = DownConv(4, 4).double()(SubMConv(4, 4).double()(x, books), books)
        UpConv(4, 4).double()(SubMConv(4, 4).double()(y, books), books)
    assert backend.made == [f"subm {len(x)} 3", f"down {len(x)}", f"subm {len(y)} 3"]


def test_rulebooks_of_other_voxels_are_refused() -> None:
    x, other = some_voxels(seed=0), some_voxels(seed=1)
    books = Rulebooks(x)
    with pytest.raises(ShapeError, match=f"made for {len(x)} other voxels of stride 1, not for the {len(other)} given"):
        SubMConv(4, 4).double()(other, books)
    same = replace(x, coords=x.coords.clone())
    assert torch.equal(SubMConv(4, 4).double()(same, books).coords, x.coords)
    with pytest.raises(ShapeError, match="begin at stride 1"):
        UpConv(4, 4).double()(x, books)
    with pytest.raises(ShapeError, match="ascending order"):
        Rulebooks(replace(x, coords=x.coords.flip(0)))
    with pytest.raises(ShapeError, match="takes 3 channels; got 4"):
        SubMConv(3, 4).double()(x, books)
    with pytest.raises(ShapeError, match="must be odd; got 2"):
        SubMConv(3, 4, kernel=2)


def test_backends_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    assert get_backend("auto").name == "torch"
    with pytest.raises(ConfigError, match="no sparse backend 'spcon'; choose one of auto, torch, spconv, spconv-cuda"):
        get_backend("spcon")
    monkeypatch.setitem(__import__("sys").modules, "spconv", None)
    monkeypatch.setitem(__import__("sys").modules, "spconv.pytorch", None)
    with pytest.raises(BackendUnavailable, match=r"pip install 'handful\[lidar\]'"):
        get_backend("spconv")
    status = backend_status()
    assert list(status) == list(SPARSE_BACKENDS)
    assert status["torch"] == "available, taken by auto" and "pip install" in status["spconv"]
