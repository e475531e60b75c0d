"""L1 + D-SSIM, value and gradient in one native pass: a few milliseconds where torch takes a hundred."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from ..errors import ShapeError
from ..kernels import native, native_or_none
from .photometric import l1_dssim

__all__ = ["fused_l1_dssim"]


@torch.library.custom_op("handful::l1_dssim", mutates_args=())
def _l1_dssim(pred: Tensor, target: Tensor, weight: Tensor | None, ssim_weight: float, want_grad: bool) -> tuple[Tensor, Tensor]:
    weight = None if weight is None else weight.detach()
    loss, grad = native().l1_dssim(pred.detach(), target.detach(), weight, ssim_weight, want_grad, torch.get_num_threads())
    return torch.tensor(loss, dtype=torch.float32), grad


@torch.library.register_fake("handful::l1_dssim")
def _(pred, target, weight, ssim_weight, want_grad):
    return pred.new_empty(()), pred.new_empty(pred.shape if want_grad else (0,))


def _setup(ctx, inputs, output) -> None:
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(output[1])


def _backward(ctx, v_loss, _):
    (grad,) = ctx.saved_tensors
    if v_loss is None:
        return None, None, None, None, None
    return (grad if float(v_loss) == 1.0 else grad * v_loss), None, None, None, None


torch.library.register_autograd("handful::l1_dssim", _backward, setup_context=_setup)


def fused_l1_dssim(
    pred: Float[Tensor, "*v H W 3"],
    target: Float[Tensor, "*v H W 3"],
    weight: Float[Tensor, "*v H W"] | None = None,
    ssim_weight: float = 0.2,
) -> Float[Tensor, ""]:
    """`photometric.l1_dssim`, natively where that is possible (float32 on the CPU, compiled kernels), else by torch.

    Differentiable in `pred` alone, and once. Besides the gradient it needs some hundred image rows per thread while it runs. Raises ShapeError for shapes that do not fit.
    """
    if pred.shape != target.shape or pred.ndim < 3 or pred.shape[-1] != 3:
        raise ShapeError(f"fused_l1_dssim needs two images (..., H, W, 3) of one size; got {tuple(pred.shape)} and {tuple(target.shape)}.")
    if weight is not None and weight.shape != pred.shape[:-1]:
        raise ShapeError(f"fused_l1_dssim: weight must be {tuple(pred.shape[:-1])}, got {tuple(weight.shape)}.")
    if pred.device.type != "cpu" or pred.dtype != torch.float32 or pred.numel() == 0 or native_or_none() is None:
        return l1_dssim(pred, target, weight, ssim_weight)
    size = pred.shape[-3:]
    p, t = pred.reshape(-1, *size).contiguous(), target.detach().to(torch.float32).reshape(-1, *size).contiguous()
    w = None if weight is None else weight.detach().to(torch.float32).reshape(-1, *size[:2]).contiguous()
    return torch.ops.handful.l1_dssim(p, t, w, ssim_weight, torch.is_grad_enabled() and pred.requires_grad)[0]
