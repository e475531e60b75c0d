"""All capture formats. A new one is one file and one line here."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from ..recon.capture import Capture
from ..recon.errors import CaptureError, ConfigError
from .protocol import CaptureAdapter, LoadOptions
from .scans.beside import with_scans_beside
from .scene_mark import is_scene_folder

__all__ = ["ADAPTERS", "get_adapter", "load_capture", "specific_adapters"]

# name -> ("module:Class", what it looks like); the module is imported when first asked
ADAPTERS: dict[str, tuple[str, str]] = {
    "photos": ("images_folder:ImagesFolder", "a folder of photos (.jpg .png .tif .webp .heic), or one with an images/ folder"),
    "llff": ("llff:Llff", "poses_bounds.npy with images_4/ or images_8/"),
    "nerfstudio": ("nerfstudio_json:Nerfstudio", "transforms.json (nerfstudio, instant-ngp)"),
    "colmap": ("colmap:Colmap", "sparse/0/ with cameras and images (.bin or .txt) beside images/"),
    "blender": ("blender:Blender", "transforms_train.json and transforms_test.json (NeRF synthetic)"),
    "dtu": ("dtu:Dtu", "cameras_sphere.npz with image/ and mask/ (DTU as in NeuS)"),
    "middlebury": ("middlebury:Middlebury", "NAME_par.txt with its photos"),
    "strecha": ("strecha:Strecha", "PHOTO.camera files (fountain-P11, Herz-Jesu)"),
    "rgbd": ("posed_rgbd:PosedRgbd", "condition.npz with poses and depths, and rgb/"),
    "kitti": ("kitti:Kitti", "image_02/ (image_2/) with velodyne_points/ (velodyne/) and calib.txt (KITTI)"),
    "nuscenes": ("nuscenes:NuScenes", "v1.0-*/ with the tables of nuScenes beside samples/"),
    "polycam": ("polycam:Polycam", "keyframes/ with images, cameras and depth (Polycam, raw data)"),
    "record3d": ("record3d:Record3D", "a .r3d file of Record3D, or its metadata and rgbd/"),
    "stray": ("stray:Stray", "rgb.mp4 with odometry.csv, depth/ and confidence/ (Stray Scanner)"),
    "scannerapp": ("scanner_app:ScannerApp", "frame_*.jpg and .json with depth_*.png (3D Scanner App)"),
    "arkitscenes": ("arkitscenes:ARKitScenes", "lowres_wide.traj with lowres_wide/ and lowres_depth/ (ARKitScenes)"),
    "video": ("video:Video", "a video (.mp4 .mov .mkv .webm .avi .m4v), or a folder with one"),
}

# what to give instead of the folder, where a folder holds several formats
ENTRIES: dict[str, tuple[str, ...]] = {
    "llff": ("poses_bounds.npy",),
    "nerfstudio": ("transforms.json",),
    "colmap": ("sparse/0", "sparse"),
    "blender": ("transforms_train.json",),
    "dtu": ("cameras_sphere.npz", "cameras.npz"),
    "rgbd": ("condition.npz",),
    "kitti": ("calib.txt",),
}

IN_PARTS = ("blender", "nuscenes")


def get_adapter(name: str) -> CaptureAdapter:
    """Raises ConfigError for a name that is not there."""
    if name not in ADAPTERS:
        raise ConfigError(f"There is no capture format {name!r}; choose one of {', '.join(ADAPTERS)}.")
    module, attr = ADAPTERS[name][0].split(":")
    return getattr(import_module(f".{module}", __package__), attr)()


def specific_adapters(but: str) -> list[CaptureAdapter]:
    """All formats except the one named."""
    return [get_adapter(n) for n in ADAPTERS if n != but]


def load_capture(path: str | Path, options: LoadOptions | None = None, adapter: str | None = None) -> Capture:
    """The capture at `path`: a folder, or the one file that describes it; with the scans that lie beside it (`data/scans/beside.py`).

    Args:
        adapter: a name of `ADAPTERS`, to choose where two formats lie in one folder; None = the one that recognises the path.

    Raises CaptureError in one sentence when nothing or more than one format recognises the path, or the content cannot be used.
    """
    path, options = Path(path), options or LoadOptions()
    if not path.exists():
        raise CaptureError(f"There is no file or folder {path}.")
    if adapter is not None:
        return with_scans_beside(_loaded(get_adapter(adapter), path, options), path)
    found = [a for a in map(get_adapter, ADAPTERS) if a.recognises(path)]
    if len(found) > 1 and is_scene_folder(path):
        # Handful's own result holds the same cameras twice; COLMAP's files have the points as well
        found = [a for a in found if a.name == "colmap"] or found
    if len(found) > 1:
        names = " and ".join(a.name for a in found)
        files = [path / e for a in found for e in ENTRIES.get(a.name, ()) if (path / e).exists()]
        raise CaptureError(f"{path} can be read as {names}; give the one that is meant: {' or '.join(map(str, files))}.")
    if not found:
        raise CaptureError(_unrecognised(path))
    return with_scans_beside(_loaded(found[0], path, options), path)


def _loaded(adapter: CaptureAdapter, path: Path, options: LoadOptions) -> Capture:
    if options.split is not None and adapter.name not in IN_PARTS:
        raise ConfigError(f"{path} ({adapter.name}) does not come in parts, so there is no {options.split!r} of it; leave --part away.")
    return adapter.load(path, options)


def _unrecognised(path: Path) -> str:
    from .images_folder import photo_trouble, single_photo

    trouble = photo_trouble(path) if path.is_dir() else single_photo(path)
    if trouble is not None:
        return trouble
    kinds = "; ".join(f"{name}: {what}" for name, (_, what) in ADAPTERS.items())
    return f"{path} holds nothing Handful can read; it reads {kinds}."
