"""spconv (Yan et al. 2018 and later; Apache-2.0) under our layers. The only file that imports spconv or spconv_triton.

On a CPU only its pair tables are used: in its CPU wheel (2.3.8) backward raises, and the scatter of forward races between threads (docs/voxels.md), so
rows are gathered, multiplied and added by torch. With CUDA its own kernels run.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from importlib import import_module
from types import ModuleType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.func import functional_call

from ..errors import BackendUnavailable
from .protocol import Rulebook, Shape3
from .tensors import voxel_keys
from .torch_backend import TorchBackend, gather_multiply_add

__all__ = ["SpconvCuda", "SpconvTables", "make_cpu", "make_cuda"]


def make_cpu() -> SpconvTables:
    """Raises BackendUnavailable where spconv cannot be imported."""
    try:
        import spconv.pytorch.ops as ops
        from spconv.core import ConvAlgo
    except Exception as e:  # a wheel for another Python or another libstdc++ fails in many ways
        raise BackendUnavailable(f"spconv cannot be imported ({e}); run `pip install 'handful[lidar]'`.") from e
    return SpconvTables(ops, ConvAlgo.Native)


def make_cuda() -> SpconvCuda:
    """Takes spconv of a CUDA build where there is one, spconv_triton otherwise. Raises BackendUnavailable where neither works."""
    if not torch.cuda.is_available():
        raise BackendUnavailable("spconv-cuda needs a GPU and a PyTorch built for it; the `torch` and `spconv` backends need none.")
    reasons: list[str] = []
    for name in ("spconv", "spconv_triton"):
        try:
            package = import_module(f"{name}.pytorch")
            if name == "spconv" and import_module("spconv.cppconstants").CPU_ONLY_BUILD:
                reasons.append("spconv is the build for CPUs")
                continue
            return SpconvCuda(package)
        except Exception as e:
            reasons.append(f"{name} cannot be imported ({e})")
    raise BackendUnavailable(f"{'; '.join(reasons)}; run `pip install 'handful[lidar-gpu]'`.")


class SpconvTables:
    """Rulebooks by spconv's hash tables, arithmetic by torch."""

    name = "spconv"

    def __init__(self, ops: ModuleType, algorithm: Any) -> None:
        self._ops, self._algorithm = ops, algorithm

    def subm(self, coords: Int[Tensor, "M 4"], shape: Shape3, kernel: int) -> Rulebook:
        if not len(coords):
            return TorchBackend().subm(coords, shape, kernel)
        _, pair, count = self._tables(coords, shape, kernel, 1, kernel // 2, True)
        half = kernel**3 // 2
        # spconv counts the first half of the places; the others are theirs the other way round, and the middle one is the identity
        src = [pair[0, t, :n] for t, n in enumerate(count[:half])]
        dst = [pair[1, t, :n] for t, n in enumerate(count[:half])]
        same = torch.arange(len(coords), device=coords.device)
        return Rulebook((*src, same, *dst[::-1]), (*dst, same, *src[::-1]), len(coords), len(coords), half)

    def down(self, coords: Int[Tensor, "M 4"], shape: Shape3) -> tuple[Rulebook, Int[Tensor, "L 4"], Shape3]:
        if not len(coords):
            return TorchBackend().down(coords, shape)
        half, even = _halved(shape)
        out, pair, count = self._tables(coords, even, 2, 2, 0, False)
        order = voxel_keys(out, half).argsort()  # spconv numbers outputs as it meets them
        rank = torch.empty_like(order).index_copy_(0, order, torch.arange(len(order), device=order.device))
        src = tuple(pair[0, t, :n] for t, n in enumerate(count))
        dst = tuple(rank[pair[1, t, :n]] for t, n in enumerate(count))
        return Rulebook(src, dst, len(coords), len(out)), out[order], half

    def convolve(self, feats: Float[Tensor, "M C"], weight: Float[Tensor, "K r s t C"], book: Rulebook) -> Float[Tensor, "L K"]:
        return gather_multiply_add(feats, weight, book)

    def _tables(
        self, coords: Tensor, shape: Shape3, kernel: int, stride: int, padding: int, subm: bool
    ) -> tuple[Tensor, Tensor, list[int]]:
        """spconv's axes (z, y, x) are our (i, j, k): both are slowest first."""
        out, pair, count = self._ops.get_indice_pairs(
            coords.int().cpu().contiguous(),
            int(coords[:, 0].max()) + 1,
            list(shape),
            self._algorithm,
            *([n] * 3 for n in (kernel, stride, padding, 1, 0)),  # the last two: dilation, padding of the output
            subm=subm,
        )
        return out.to(coords), pair.to(coords), count.tolist()


@dataclass
class _Native:
    """What spconv needs to find its tables again."""

    indices: Tensor  # M,4 int32, the finer voxels
    shape: Shape3  # even along each axis where the stride is 2
    scenes: int
    kernel: int
    subm: bool
    known: dict[str, Any] = field(default_factory=dict)  # spconv's own cache of pair tables
    coarse: Any = None  # of a down convolution: spconv's outputs without features
    order: Tensor | None = None  # row of spconv's outputs for each of ours


class SpconvCuda:
    """spconv's own kernels, by its public layers with our weights put in."""

    name = "spconv-cuda"

    def __init__(self, package: Any) -> None:
        self._package = package

    def subm(self, coords: Int[Tensor, "M 4"], shape: Shape3, kernel: int) -> Rulebook:
        native = _Native(coords.int().contiguous(), shape, _scenes(coords), kernel, True)
        return Rulebook((), (), len(coords), len(coords), native=native)

    def down(self, coords: Int[Tensor, "M 4"], shape: Shape3) -> tuple[Rulebook, Int[Tensor, "L 4"], Shape3]:
        book, out, half = TorchBackend().down(coords, shape)
        native = _Native(coords.int().contiguous(), _halved(shape)[1], _scenes(coords), 2, False)
        return replace(book, native=native), out, half

    def convolve(self, feats: Float[Tensor, "M C"], weight: Float[Tensor, "K r s t C"], book: Rulebook) -> Float[Tensor, "L K"]:
        if not len(feats):
            return gather_multiply_add(feats, weight, replace(book, src=(), dst=()))
        native: _Native = book.native
        if native.subm:
            return self._layer("SubMConv3d", native, weight)(self._tensor(native, feats)).features
        if not book.inverted:
            out = self._layer("SparseConv3d", native, weight)(self._tensor(native, feats))
            return out.features[self._order(native, out)]
        if native.order is None:  # spconv makes its tables going down
            with torch.no_grad():
                self._order(
                    native,
                    self._layer("SparseConv3d", native, weight.new_zeros(1, 2, 2, 2, 1))(
                        self._tensor(native, feats.new_zeros(book.outputs, 1))
                    ),
                )
        assert native.order is not None
        x = native.coarse.replace_feature(torch.empty_like(feats).index_copy(0, native.order, feats))
        return self._layer("SparseInverseConv3d", native, weight)(x).features

    def _tensor(self, native: _Native, feats: Tensor) -> Any:
        x = self._package.SparseConvTensor(feats, native.indices, list(native.shape), native.scenes)
        x.indice_dict = native.known
        return x

    def _layer(self, kind: str, native: _Native, weight: Tensor) -> Any:
        """A layer of spconv's that computes with `weight`; always as in training, for only then are the tables of backward made."""
        options: dict[str, Any] = {"bias": False, "indice_key": "ours"}
        if kind == "SubMConv3d":
            options["padding"] = native.kernel // 2
        if kind == "SparseConv3d":
            options["stride"] = 2
        with torch.device("meta"):
            layer: nn.Module = getattr(self._package, kind)(weight.shape[-1], weight.shape[0], native.kernel, **options)
        return lambda x: functional_call(layer, {"weight": weight}, (x,))

    @staticmethod
    def _order(native: _Native, out: Any) -> Tensor:
        if native.order is None:
            native.order = voxel_keys(out.indices.long(), _halved(native.shape)[0]).argsort()
            native.coarse = out.replace_feature(out.features.new_zeros(len(out.features), 0))
        return native.order


def _scenes(coords: Tensor) -> int:
    return int(coords[-1, 0]) + 1 if len(coords) else 0


def _halved(shape: Shape3) -> tuple[Shape3, Shape3]:
    """Cells of twice the size, rounded up, and the even shape they cover: spconv drops the last voxels of an odd one."""
    a, b, c = (-(-n // 2) for n in shape)
    return (a, b, c), (2 * a, 2 * b, 2 * c)
