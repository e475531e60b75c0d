"""Weight files: only the right bytes open, nothing without a digest or against its licence, nothing downloads unasked."""

from __future__ import annotations

import hashlib
import io
from dataclasses import replace

import pytest
import torch
from handful.priors import weight_files as w
from handful.priors import weights as lpips
from handful.priors.weight_table import WEIGHT_FILES, WeightEntry, WeightFile
from handful.priors.weights import PackagedWeights
from handful.recon.errors import BackendUnavailable, ConfigError
from safetensors.torch import save_file


@pytest.fixture
def made_up(no_weights, monkeypatch):
    """`toy`, with its official file in a local folder, one as fp16 and one without a digest; `private` is not for commerce."""
    tensors = {"a": torch.arange(6.0).reshape(2, 3), "n": torch.tensor([3])}
    official = no_weights / "official.pth"
    torch.save({"extractor": tensors}, official)
    half = no_weights / "half.safetensors"
    save_file({"a": tensors["a"].half(), "n": tensors["n"]}, half)
    digests = {p: hashlib.sha256(p.read_bytes()).hexdigest() for p in (official, half)}
    files = (WeightFile("toy_fp16.safetensors", digests[half], 1), WeightFile("toy.pth", digests[official], 1, official.as_uri()))
    monkeypatch.setitem(WEIGHT_FILES, "toy", WeightEntry("MIT", files, inside="extractor"))
    monkeypatch.setitem(WEIGHT_FILES, "nameless", WeightEntry("MIT", (WeightFile("nameless.safetensors", "", 1, half.as_uri()),)))
    monkeypatch.setitem(
        WEIGHT_FILES,
        "private",
        WeightEntry("CC BY-NC 4.0", (WeightFile("private.safetensors", digests[half], 1, half.as_uri()),), commercial=False),
    )
    return no_weights


def test_every_entry_is_whole():
    for name, entry in WEIGHT_FILES.items():
        assert entry.license and entry.files, name
        for file in entry.files:
            assert file.sha256 == "" or (len(file.sha256) == 64 and set(file.sha256) <= set("0123456789abcdef")), name
            assert file.url is None or file.url.startswith("https://"), name
            assert file.package is None or file.package.sha256 == file.sha256, name
        assert any(f.url or f.package or entry.page for f in entry.files), f"{name}: nobody could get it"
        assert entry.commercial != ("NC" in entry.license), name


def test_missing_tells_the_ways(made_up):
    with pytest.raises(
        BackendUnavailable,
        match=r"toy weights are not on this machine: run `handful doctor --fetch toy` \(1 MB from file.*or put toy_fp16.safetensors into",
    ):
        w.load_tensors("toy")
    assert not (made_up / "cache").exists(), "looking writes nothing"
    assert w.files_status()["toy"].startswith("not on this machine") and w.files_status()["toy"].endswith("; MIT") and not w.is_here("toy")
    with pytest.raises(ConfigError, match="no weights 'tow'; choose one of lpips-vgg"):
        w.weight_path("tow")


def test_fetched_proven_and_read_in_float32(made_up):
    path = w.fetch("toy")
    assert path == made_up / "cache/handful/weights/toy.pth" and [p.name for p in path.parent.iterdir()] == ["toy.pth"]
    loaded = w.load_tensors("toy")
    assert (
        loaded["a"].dtype == torch.float32
        and loaded["n"].dtype == torch.int64
        and w.weights_digest("toy") == WEIGHT_FILES["toy"].files[1].sha256
    )
    assert w.fetch("toy") == path and w.files_status()["toy"] == f"available ({path}); MIT"
    path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(BackendUnavailable, match="does not hold the weights it should"):
        w.load_tensors("toy")


def test_own_folder_first_and_any_form_will_do(made_up, monkeypatch):
    w.fetch("toy")
    own = made_up / "own" / "sub"
    own.mkdir(parents=True)
    (own / "toy_fp16.safetensors").write_bytes((made_up / "half.safetensors").read_bytes())
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(made_up / "own"))
    assert w.weight_path("toy") == own / "toy_fp16.safetensors"
    assert w.load_tensors("toy")["a"].dtype == torch.float32


def test_a_changed_download_leaves_nothing(made_up):
    (made_up / "official.pth").write_bytes(b"other")
    with pytest.raises(BackendUnavailable, match="gave another file than expected"):
        w.fetch("toy")
    assert list((made_up / "cache/handful/weights").iterdir()) == []


def test_a_download_that_breaks_off_is_not_vouched_for(made_up, monkeypatch):
    """A closed connection looks like the end of the file, and without a digest nothing else would tell."""

    class Broken(io.BytesIO):
        headers = {"Content-Length": "1000"}

    monkeypatch.setattr(lpips.urllib.request, "urlopen", lambda *args, **kwargs: Broken(b"half"))
    with pytest.raises(BackendUnavailable, match="broke off after 4 of 1000 bytes"):
        w.fetch("nameless", unverified=True)
    assert list((made_up / "cache/handful/weights").iterdir()) == []


def test_weights_in_a_folder_of_their_own_are_fetched_too(made_up, monkeypatch):
    entry = WEIGHT_FILES["nameless"]
    file = replace(entry.files[0], name="family/nameless.safetensors")
    monkeypatch.setitem(WEIGHT_FILES, "nameless", replace(entry, files=(file,)))
    path = w.fetch("nameless", unverified=True)
    assert path == made_up / "cache/handful/weights/family/nameless.safetensors" and w.load_tensors("nameless")["a"].shape == (2, 3)
    assert w.files_status()["nameless"].startswith("available")
    path.with_name("nameless.safetensors.sha256").unlink()
    assert "nobody vouches" in w.files_status()["nameless"], "what would be refused is not called available"


def test_without_a_published_digest_the_user_vouches(made_up):
    with pytest.raises(BackendUnavailable, match="add --unverified"):
        w.fetch("nameless")
    path = w.fetch("nameless", unverified=True)
    assert w.load_tensors("nameless")["a"].shape == (2, 3)
    note = path.with_name("nameless.safetensors.sha256")
    assert note.read_text().strip() == hashlib.sha256(path.read_bytes()).hexdigest()
    note.unlink()
    with pytest.raises(BackendUnavailable, match="writing its sha256 .* into nameless.safetensors.sha256 beside it"):
        w.weight_path("nameless")
    note.write_text("0" * 64)
    with pytest.raises(BackendUnavailable, match="does not hold the weights it should"):
        w.weight_path("nameless")


def test_a_file_put_there_by_hand_is_vouched_for_by_asking(made_up, monkeypatch):
    folder = made_up / "own"
    folder.mkdir()
    (folder / "nameless.safetensors").write_bytes((made_up / "half.safetensors").read_bytes())
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(folder))
    assert not w.is_here("nameless"), "doctor does not call available what would be refused"
    with pytest.raises(BackendUnavailable, match="Nobody publishes"):
        w.fetch("nameless")
    assert w.fetch("nameless", unverified=True) == folder / "nameless.safetensors" and w.is_here("nameless")
    assert w.load_tensors("nameless")["n"].item() == 3


def test_a_file_of_something_else_is_one_sentence(made_up, monkeypatch):
    folder = made_up / "own"
    folder.mkdir()
    for name in ("nameless.safetensors",):
        (folder / name).write_bytes(b"not tensors at all")
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(folder))
    w.fetch("nameless", unverified=True)
    with pytest.raises(BackendUnavailable, match="is no file of tensors"):
        w.load_tensors("nameless")


def test_what_commerce_may_not_use_opens_only_by_name(made_up, monkeypatch):
    for name in ("", "other"):
        monkeypatch.setenv("HANDFUL_NONCOMMERCIAL", name)
        for ask in (w.fetch, w.weight_path):
            with pytest.raises(
                BackendUnavailable, match=r"may not be used commercially \(CC BY-NC 4.0\); .* set HANDFUL_NONCOMMERCIAL=private"
            ):
                ask("private")
    assert not (made_up / "cache").exists() and "NOT for commercial use" in w.files_status()["private"]
    monkeypatch.setenv("HANDFUL_NONCOMMERCIAL", "other, private")
    assert w.fetch("private").is_file() and w.load_tensors("private")


def test_a_pip_package_that_carries_them(made_up, monkeypatch):
    monkeypatch.undo()
    package = made_up / "site" / "toy_weights"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise RuntimeError('imported')")
    (package / "toy.pth").write_bytes((made_up / "official.pth").read_bytes())
    digest = hashlib.sha256((package / "toy.pth").read_bytes()).hexdigest()
    file = WeightFile("toy.pth", digest, 1, None, PackagedWeights("toy-weights==1", "toy_weights", "toy.pth", digest))
    monkeypatch.syspath_prepend(str(made_up / "site"))
    assert w._packaged(file) == package / "toy.pth"


def test_the_real_files_are_the_ones_expected(real_weights):
    for name in ("gmflow", "disk", "lightglue-disk", "aliked"):
        assert w.weight_path(name).is_relative_to(real_weights) and w.load_tensors(name)
