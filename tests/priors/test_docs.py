"""docs/priors.md names every prior and the digest of every weight file; the code promises no non-commercial default."""

from __future__ import annotations

from importlib import import_module
from pathlib import Path

from handful.priors import registry
from handful.priors.weight_table import WEIGHT_FILES

DOC = (Path(__file__).resolve().parents[2] / "docs" / "priors.md").read_text()


def classes():
    for kind, names in registry.PRIORS.items():
        for name, where in names.items():
            module, attr = where.split(":")
            yield kind, name, getattr(import_module(f".{module}", registry.__package__), attr)


def test_every_prior_and_every_digest_is_listed():
    missing = [name for _, name, _ in classes() if f"| `{name}` |" not in DOC]
    assert not missing
    for name, entry in WEIGHT_FILES.items():
        assert f"`{name}`" in DOC, name
        for file in entry.files:
            assert file.sha256 in DOC, name


def test_every_prior_says_its_licence_and_needs_only_free_weights_by_default():
    for kind, name, cls in classes():
        if name != "oracle":
            assert getattr(cls, "license", ""), (kind, name)
        for weights in getattr(cls, "weights", ()):
            assert WEIGHT_FILES[weights].commercial, (kind, name)
