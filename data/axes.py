"""Other people's camera conventions, each turned into ours by a function that says what it expects.

Ours: `cam_from_world` with OpenCV axes (x right, y down, z forward), pixel centres at +0.5. All in float64 numpy.
"""

from __future__ import annotations

import numpy as np

from ..recon.errors import CaptureError

__all__ = [
    "FARTHEST",
    "cam_from_world_of_llff",
    "cam_from_world_of_opengl",
    "cam_from_world_of_projection",
    "centers_at_half",
    "opengl_of_cam_from_world",
    "quat_wxyz_of_rotation",
    "rigid",
    "rigid_inverse",
    "rigid_of_scanner",
    "rotation_of_quat_wxyz",
]

FARTHEST = 1e9  # world units: no survey has coordinates beyond, and float32 squares stay finite
_SCALE = (0.97, 1.03)  # of a rotation that was written with few digits
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0])


def rigid(R: np.ndarray, t: np.ndarray, what: str) -> np.ndarray:
    """4x4 from a rotation that may be a little off (rounding) or uniformly scaled, and a translation.

    Raises CaptureError, naming `what`, when a number is not finite or R is no rotation (mirrored, sheared).
    """
    return _rigid(R, t, f"The camera of {what}")


def rigid_of_scanner(R: np.ndarray, t: np.ndarray, what: str) -> np.ndarray:
    """As `rigid`, for a pose that moves measured metres: one that scales them, or puts them nowhere near, is refused, too."""
    T = _rigid(R, t, f"The pose of {what}")
    scale = float(np.linalg.det(np.asarray(R, np.float64))) ** (1 / 3)
    if not _SCALE[0] < scale < _SCALE[1]:
        raise CaptureError(f"The pose of {what} scales by {scale:.4g}, but a scan keeps its size; take the scale out of its rotation.")
    if np.abs(T[:3, 3]).max() > FARTHEST:
        raise CaptureError(f"The pose of {what} lies {np.abs(T[:3, 3]).max():.3g} units away from the origin, too far to compute with; export it again.")
    return T


def _rigid(R: np.ndarray, t: np.ndarray, whose: str) -> np.ndarray:
    R, t = np.asarray(R, np.float64), np.asarray(t, np.float64).reshape(3)
    if not (np.isfinite(R).all() and np.isfinite(t).all()):
        raise CaptureError(f"{whose} holds a number that is not finite (NaN or Inf); remove it or calibrate again.")
    u, s, vt = np.linalg.svd(R)
    if s[2] <= 0 or s[0] / s[2] > 1.02 or np.linalg.det(R) <= 0:
        raise CaptureError(f"{whose} is not a rotation and a translation (mirrored or sheared); check its axes.")
    out = np.eye(4)
    out[:3, :3], out[:3, 3] = u @ vt, t
    return out


def rigid_inverse(T: np.ndarray) -> np.ndarray:
    out = np.eye(4)
    out[:3, :3] = T[:3, :3].T
    out[:3, 3] = -T[:3, :3].T @ T[:3, 3]
    return out


def cam_from_world_of_opengl(world_from_cam: np.ndarray, what: str) -> np.ndarray:
    """From nerfstudio, instant-ngp, Blender: camera-to-world, camera axes x right, y up, z backwards."""
    M = np.asarray(world_from_cam, np.float64)
    return rigid_inverse(rigid(M[:3, :3] @ _OPENCV_FROM_OPENGL, M[:3, 3], what))


def opengl_of_cam_from_world(cam_from_world: np.ndarray) -> np.ndarray:
    """The inverse of `cam_from_world_of_opengl`: 4x4 camera-to-world, x right, y up, z backwards."""
    M = rigid_inverse(np.asarray(cam_from_world, np.float64))
    M[:3, :3] = M[:3, :3] @ _OPENCV_FROM_OPENGL
    return M


def cam_from_world_of_llff(world_from_cam: np.ndarray, what: str) -> np.ndarray:
    """From LLFF's poses_bounds.npy: 3x4 camera-to-world, columns down, right, backwards, centre."""
    M = np.asarray(world_from_cam, np.float64)
    R = np.stack([M[:, 1], M[:, 0], -M[:, 2]], axis=1)
    return rigid_inverse(rigid(R, M[:, 3], what))


def cam_from_world_of_projection(P: np.ndarray, what: str) -> tuple[np.ndarray, np.ndarray]:
    """A 3x4 projection K [R | t] of any scale and sign to (K with K[2,2] = 1, cam_from_world). World units are kept.

    Hartley & Zisserman, Multiple View Geometry, 2nd edition, section 6.2.4: RQ decomposition of the left 3x3.
    """
    P = np.asarray(P, np.float64)
    if not np.isfinite(P).all() or abs(np.linalg.det(P[:, :3])) <= 1e-12 * max(np.abs(P[:, :3]).max(), 1e-300) ** 3:
        raise CaptureError(f"The projection matrix of {what} holds a number that is not finite or has no inverse; calibrate again.")
    P = P * np.sign(np.linalg.det(P[:, :3]))  # so that R comes out as a rotation, not a reflection
    flip = np.eye(3)[::-1]
    q, r = np.linalg.qr((flip @ P[:, :3]).T)
    K, R = flip @ r.T @ flip, flip @ q.T
    signs = np.diag(np.where(np.diag(K) < 0, -1.0, 1.0))
    K, R = K @ signs, signs @ R
    return K / K[2, 2], rigid(R, np.linalg.solve(K, P[:, 3]), what)


def centers_at_half(K: np.ndarray) -> np.ndarray:
    """Intrinsics of a source whose pixel centres are integers (OpenCV, Matlab-free C code) to ours, where they are at +0.5."""
    out = np.array(K, np.float64)
    out[:2, 2] += 0.5
    return out


def rotation_of_quat_wxyz(q: np.ndarray) -> np.ndarray:
    """... x 4 quaternions of any non-zero length to ... x 3 x 3."""
    w, x, y, z = np.moveaxis(np.asarray(q, np.float64) / np.linalg.norm(q, axis=-1, keepdims=True), -1, 0)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return np.stack([np.stack(r, axis=-1) for r in rows], axis=-2)


def quat_wxyz_of_rotation(R: np.ndarray) -> np.ndarray:
    """3x3 to a unit quaternion with w >= 0: the main eigenvector of a symmetric 4x4 (Bar-Itzhack 2000), which never divides by zero."""
    m = np.asarray(R, np.float64)
    q = np.array(
        [
            [m[0, 0] - m[1, 1] - m[2, 2], 0, 0, 0],
            [m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], 0, 0],
            [m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1], 0],
            [m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1], m.trace()],
        ]
    )
    _, vectors = np.linalg.eigh(q / 3.0)  # reads the lower triangle
    x, y, z, w = vectors[:, 3]
    out = np.array([w, x, y, z])
    return -out if out[0] < 0 else out
