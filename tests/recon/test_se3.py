"""Rotations, rigid motions, similarities: group axioms, gradients at the hard places, alignment of point sets and cameras."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from handful.recon.camera import Cameras
from handful.recon.errors import ShapeError
from handful.recon.se3 import (
    Similarity,
    align_cameras,
    hat,
    matrix_from_quat,
    quat_from_matrix,
    quat_multiply,
    rotation_angle,
    se3_exp,
    se3_log,
    sim3_exp,
    sim3_log,
    so3_exp,
    so3_log,
    turn_to,
    umeyama,
)
from scipy.spatial.transform import Rotation

ANGLES = (0.0, 1e-9, 1e-5, 1e-3, 0.1, 1.5, 3.0, math.pi - 1e-3, math.pi - 1e-6)


def rand(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def test_quaternions_equal_scipy() -> None:
    q = rand(100, 4)
    want = torch.tensor(Rotation.from_quat(q[:, [1, 2, 3, 0]].numpy()).as_matrix())
    torch.testing.assert_close(matrix_from_quat(q), want, atol=1e-14, rtol=0)
    back = quat_from_matrix(want)
    assert (back[:, 0] >= 0).all()
    torch.testing.assert_close(matrix_from_quat(back), want, atol=1e-13, rtol=0)
    torch.testing.assert_close(matrix_from_quat(quat_multiply(q, q.flip(0))), want @ want.flip(0), atol=1e-13, rtol=0)


def test_quaternion_of_half_turns_and_float32() -> None:
    for axis in torch.cat([torch.eye(3), torch.nn.functional.normalize(torch.randn(5, 3), dim=-1)]):
        R = 2 * torch.outer(axis, axis) - torch.eye(3)
        torch.testing.assert_close(matrix_from_quat(quat_from_matrix(R)), R, atol=2e-6, rtol=0)


def test_any_length_is_one_rotation() -> None:
    q = rand(10, 4)
    torch.testing.assert_close(matrix_from_quat(q * 1e-6), matrix_from_quat(q))
    assert matrix_from_quat(torch.zeros(4)).isnan().all()


def test_hat_is_the_cross_product() -> None:
    a, b = rand(6, 3), rand(6, 3, seed=1)
    torch.testing.assert_close((hat(a) @ b[..., None])[..., 0], torch.linalg.cross(a, b))


@pytest.mark.parametrize("angle", ANGLES)
def test_exp_and_log_are_inverse(angle: float) -> None:
    axis = torch.nn.functional.normalize(rand(20, 3), dim=-1)
    omega = axis * angle
    R = so3_exp(omega)
    torch.testing.assert_close(R, torch.tensor(Rotation.from_rotvec(omega.numpy()).as_matrix()), atol=1e-13, rtol=0)
    torch.testing.assert_close(so3_log(R), omega, atol=1e-8 if angle > 3.1 else 1e-12, rtol=0)
    torch.testing.assert_close(
        rotation_angle(R), torch.full((20,), angle, dtype=torch.float64), atol=1e-8 if angle > 3.1 else 1e-12, rtol=0
    )
    xi = torch.cat([rand(20, 3, seed=2), omega], -1)
    torch.testing.assert_close(se3_log(se3_exp(xi)), xi, atol=1e-7 if angle > 3.1 else 1e-11, rtol=0)
    for sigma in (0.0, 1e-7, -0.7, 1.2):
        xs = torch.cat([xi, torch.full((20, 1), sigma, dtype=torch.float64)], -1)
        torch.testing.assert_close(sim3_log(sim3_exp(xs)), xs, atol=1e-7 if angle > 3.1 else 1e-11, rtol=0)


def test_tiny_rotations_in_float32() -> None:
    omega = torch.tensor([[1e-5, -2e-5, 3e-6], [1e-3, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(so3_log(so3_exp(omega)), omega, atol=1e-10, rtol=1e-4)


def test_group_axioms() -> None:
    T, S = sim3_exp(0.5 * rand(5, 7)), sim3_exp(0.5 * rand(5, 7, seed=1))
    torch.testing.assert_close(torch.linalg.det((T @ S)[:, :3, :3]), torch.linalg.det(T[:, :3, :3]) * torch.linalg.det(S[:, :3, :3]))
    torch.testing.assert_close(sim3_exp(sim3_log(T @ S)), T @ S, atol=1e-12, rtol=0)
    torch.testing.assert_close(sim3_exp(-sim3_log(T)) @ T, torch.eye(4, dtype=torch.float64).expand(5, 4, 4), atol=1e-12, rtol=0)
    R = se3_exp(rand(5, 6))[:, :3, :3]
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3, dtype=torch.float64).expand(5, 3, 3), atol=1e-13, rtol=0)


@pytest.mark.parametrize("angle", [0.0, 1e-6, 0.4, 2.8])
def test_gradients(angle: float) -> None:
    omega = (torch.nn.functional.normalize(rand(2, 3), dim=-1) * angle).requires_grad_()
    assert torch.autograd.gradcheck(so3_exp, (omega,))
    assert torch.autograd.gradcheck(lambda w: so3_log(so3_exp(w)), (omega,), atol=1e-6)
    xi = torch.cat([rand(2, 3, seed=3), omega.detach(), 0.3 * rand(2, 1)], -1).requires_grad_()
    assert torch.autograd.gradcheck(sim3_exp, (xi,))
    assert torch.autograd.gradcheck(lambda x: sim3_log(sim3_exp(x)), (xi,), atol=1e-5)


def test_gradient_at_the_identity_is_the_generator() -> None:
    xi = torch.zeros(6, dtype=torch.float64)
    J = torch.autograd.functional.jacobian(se3_exp, xi)
    assert torch.equal(J[:3, 3, :3], torch.eye(3, dtype=torch.float64))  # pyright: ignore[reportArgumentType,reportCallIssue]
    torch.testing.assert_close(J[:3, :3, 3:].permute(2, 0, 1), hat(torch.eye(3, dtype=torch.float64)))  # pyright: ignore
    q = torch.tensor([1.0, 0, 0, 0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda v: quat_from_matrix(matrix_from_quat(v)), (q,))


@pytest.mark.parametrize("n", [3, 4, 50])
def test_umeyama_recovers_a_similarity(n: int) -> None:
    source = rand(n, 3)
    true = Similarity(torch.tensor(2.7, dtype=torch.float64), so3_exp(rand(3)), rand(3, seed=5))
    got = umeyama(source, true.apply(source))
    torch.testing.assert_close(got.matrix, true.matrix, atol=1e-12, rtol=0)
    torch.testing.assert_close(got.inverse().apply(true.apply(source)), source, atol=1e-12, rtol=0)
    torch.testing.assert_close(true.matrix[:3, :3] @ source[0] + true.matrix[:3, 3], true.apply(source[0]))


def test_umeyama_is_the_least_squares_minimum() -> None:
    source, target = rand(30, 3), rand(30, 3, seed=1)
    w = torch.rand(30, dtype=torch.float64, generator=torch.Generator().manual_seed(2))
    best = umeyama(source, target, w)

    def cost(s: Similarity) -> float:
        return (w * (target - s.apply(source)).square().sum(-1)).sum().item()

    for k in range(40):
        step = sim3_exp(1e-3 * rand(7, seed=10 + k)) @ best.matrix
        scale = torch.linalg.det(step[:3, :3]) ** (1 / 3)
        assert cost(best) <= cost(Similarity(scale, step[:3, :3] / scale, step[:3, 3]))
    assert umeyama(source, target, with_scale=False).scale == 1


def test_umeyama_gives_no_mirror() -> None:
    source = rand(10, 3)
    mirrored = source * torch.tensor([-1.0, 1.0, 1.0], dtype=torch.float64)
    assert torch.linalg.det(umeyama(source, mirrored).R).item() == pytest.approx(1)


def test_umeyama_of_degenerate_sets_is_finite() -> None:
    line = torch.linspace(0, 1, 5, dtype=torch.float64)[:, None] * torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    for source in (line, line[:1], line[:2], line[:1].expand(4, 3)):
        got = umeyama(source, 2 * source + 1)
        assert torch.isfinite(got.matrix).all()
        torch.testing.assert_close(got.apply(source), 2 * source + 1, atol=1e-9, rtol=0)
    with pytest.raises(ShapeError, match=r"\(4, 3\) and \(5, 3\)"):
        umeyama(line[:4], line)
    with pytest.raises(ShapeError):
        umeyama(line[:0], line[:0])


def _cameras(v: int, seed: int = 0) -> Cameras:
    K = torch.tensor([[50.0, 0, 32], [0, 50, 24], [0, 0, 1]], dtype=torch.float64).expand(v, 3, 3)
    return Cameras(se3_exp(rand(v, 6, seed=seed)), K, 64, 48)


@pytest.mark.parametrize("v", [1, 2, 3, 8])
def test_cameras_follow_a_similarity(v: int) -> None:
    cams, points = _cameras(v), rand(20, 3, seed=4)
    s = Similarity(torch.tensor(0.6, dtype=torch.float64), so3_exp(rand(3, seed=6)), rand(3, seed=7))
    moved = s.apply_to_cameras(cams)
    moved.validate()
    uv, z = cams.project(points)
    uv2, z2 = moved.project(s.apply(points))
    torch.testing.assert_close(uv2, uv, atol=1e-7, rtol=1e-9)
    torch.testing.assert_close(z2, 0.6 * z)
    torch.testing.assert_close(moved.centers, s.apply(cams.centers))
    got = align_cameras(cams, moved)
    if v > 1:
        torch.testing.assert_close(got.matrix, s.matrix, atol=1e-11, rtol=0)
    else:  # one camera leaves the scale open
        torch.testing.assert_close(got.apply_to_cameras(cams).cam_from_world, moved.cam_from_world, atol=1e-11, rtol=0)


def test_cameras_on_a_line_are_aligned() -> None:
    cams = _cameras(3)
    w2c = cams.cam_from_world.clone()
    for i in range(3):  # centres on a line: Umeyama of the centres leaves a turn about it open
        w2c[i, :3, 3] = -(w2c[i, :3, :3] @ torch.tensor([float(i), 2.0 * i, 0.0], dtype=torch.float64))
    cams = replace(cams, cam_from_world=w2c)
    s = Similarity(torch.tensor(3.0, dtype=torch.float64), so3_exp(rand(3, seed=6)), rand(3, seed=7))
    torch.testing.assert_close(align_cameras(cams, s.apply_to_cameras(cams)).matrix, s.matrix, atol=1e-11, rtol=0)
    with pytest.raises(ShapeError, match="3 and 2"):
        align_cameras(cams, cams[[0, 1]])


def test_alignment_of_noisy_cameras() -> None:
    cams = _cameras(9)
    noisy = replace(cams, cam_from_world=se3_exp(0.01 * rand(9, 6, seed=8)) @ cams.cam_from_world)
    s = align_cameras(cams, noisy)
    assert math.degrees(rotation_angle(s.R).item()) < 1 and abs(s.scale.item() - 1) < 0.02
    assert np.allclose(s.apply(cams.centers).numpy(), noisy.centers.numpy(), atol=0.1)


@pytest.mark.parametrize("source", [(0.0, 1.0, 0.0), (0.0, -2.0, 0.0), (0.3, 0.1, -0.5), (0.0, -1.0, 1e-10)])
def test_turn_to_goes_the_shortest_way(source: tuple[float, float, float]) -> None:
    a, b = torch.tensor(source, dtype=torch.float64), torch.tensor([0.0, 1.0, 0.0], dtype=torch.float64)
    R = turn_to(a, (0.0, 1.0, 0.0))
    torch.testing.assert_close(R @ a / a.norm(), b, atol=1e-8, rtol=0)
    torch.testing.assert_close(R @ R.T, torch.eye(3, dtype=torch.float64), atol=1e-12, rtol=0)
    assert float(rotation_angle(R)) == pytest.approx(float(torch.arccos((a @ b / a.norm()).clamp(-1, 1))), abs=1e-6)
