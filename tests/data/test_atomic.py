"""Output is whole or not there, and a disk that cannot take it is one sentence."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest
from handful.data import atomic
from handful.data.atomic import atomic_file, atomic_folder, ensure_folder, write_bytes, write_json, write_text
from handful.recon.errors import HandfulError


def leftovers(folder: Path) -> list[str]:
    return sorted(p.name for p in folder.iterdir())


def test_whole_or_not_at_all(tmp_path):
    write_text(tmp_path / "deep" / "er" / "a.txt", "one")
    file = tmp_path / "deep" / "er" / "a.txt"
    with pytest.raises(ZeroDivisionError), atomic_file(file, "w") as f:
        f.write("two")
        raise ZeroDivisionError
    assert file.read_text() == "one" and leftovers(file.parent) == ["a.txt"]
    write_bytes(file, b"three")
    assert file.read_text() == "three" and leftovers(file.parent) == ["a.txt"]


def test_folders(tmp_path):
    target = tmp_path / "model"
    with atomic_folder(target) as folder:
        (folder / "a").write_text("1")
        assert not target.exists()
    with pytest.raises(KeyError), atomic_folder(target) as folder:
        (folder / "b").write_text("2")
        raise KeyError
    assert leftovers(target) == ["a"] and leftovers(tmp_path) == ["model"]
    with atomic_folder(target) as folder:
        (folder / "c").write_text("3")
    assert leftovers(target) == ["c"] and leftovers(tmp_path) == ["model"]


def test_json_without_nan(tmp_path):
    write_json(tmp_path / "a.json", {"x": 1.5})
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"x": float("nan")})
    assert (tmp_path / "a.json").read_text() == '{\n  "x": 1.5\n}\n'


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "disk is full"), (errno.EROFS, "read-only"), (errno.EACCES, "no permission"), (errno.EIO, "choose another")]
)
def test_disks_that_refuse(tmp_path, monkeypatch, number, words):
    write_text(tmp_path / "a.txt", "old")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "x").write_text("old")

    def refuse(*args: object, **kwargs: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(atomic.os, "fsync", refuse)
    with pytest.raises(HandfulError, match=words) as e:
        write_text(tmp_path / "a.txt", "new")
    assert str(tmp_path / "a.txt") in str(e.value) and "\n" not in str(e.value)
    monkeypatch.undo()
    monkeypatch.setattr(atomic.os, "rename", refuse)
    with pytest.raises(HandfulError, match=words), atomic_folder(tmp_path / "model") as folder:
        (folder / "x").write_text("new")
    monkeypatch.undo()
    assert (tmp_path / "a.txt").read_text() == "old" and (tmp_path / "model" / "x").read_text() == "old"
    assert leftovers(tmp_path) == ["a.txt", "model"]


def test_what_a_killed_writer_leaves_is_cleared_by_the_next(tmp_path):
    program = (
        "import os, sys\n"
        "from pathlib import Path\n"
        "from handful.data.atomic import atomic_file, atomic_folder\n"
        "with atomic_folder(Path(sys.argv[1]) / 'model') as m, atomic_file(Path(sys.argv[1]) / 'a.txt', 'w') as f:\n"
        "    (m / 'x').write_text('half'), f.write('half'), f.flush()\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)})
    assert len(leftovers(tmp_path)) == 2
    at_work = atomic.beside(tmp_path / "b.txt")  # of a process that lives: ours
    at_work.write_text("being written")
    write_text(tmp_path / "c.txt", "whole")
    assert len(leftovers(tmp_path)) == 3  # the file has gone; a folder only goes when its successor is in place
    with atomic_folder(tmp_path / "model") as folder:
        (folder / "x").write_text("whole")
    assert leftovers(tmp_path) == [at_work.name, "c.txt", "model"]


def test_a_place_is_proven_without_touching_it(tmp_path):
    write_text(tmp_path / "a.json", "old")
    atomic.ensure_place(tmp_path / "a.json")
    assert (tmp_path / "a.json").read_text() == "old" and leftovers(tmp_path) == ["a.json"]
    for wrong in (tmp_path, tmp_path / "a.json" / "b.json"):
        with pytest.raises(HandfulError, match="Cannot write"):
            atomic.ensure_place(wrong)


def test_things_in_the_way(tmp_path):
    (tmp_path / "file").write_text("x")
    (tmp_path / "folder").mkdir()
    for path in (tmp_path / "file" / "below.txt", tmp_path / "folder"):
        with pytest.raises(HandfulError, match="Cannot write"):
            write_text(path, "y")
    with pytest.raises(HandfulError, match="Cannot write"):
        ensure_folder(tmp_path / "file")
    assert (tmp_path / "file").read_text() == "x"
    assert ensure_folder(tmp_path / "new" / "one").is_dir() and leftovers(tmp_path / "new" / "one") == []


def test_a_really_full_disk(tmp_path):
    """A limit on file size stands for a full disk: the write fails in the middle, the old file stays."""
    program = (
        "import resource, signal, sys\n"
        "from handful.data.atomic import write_bytes\n"
        "from handful.recon.errors import HandfulError\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n    write_bytes(sys.argv[1], b'x' * 1_000_000)\n"
        "except HandfulError as e:\n    print(e)\n"
    )
    file = tmp_path / "a.bin"
    file.write_bytes(b"old")
    done = subprocess.run([sys.executable, "-c", program, str(file)], capture_output=True, text=True, env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}, check=True)
    assert "Cannot write" in done.stdout and "choose another" in done.stdout
    assert file.read_bytes() == b"old" and leftovers(tmp_path) == ["a.bin"]
