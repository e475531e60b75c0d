"""The same jobs on a Ray cluster: a machine that goes away in mid-run loses nothing."""

from __future__ import annotations

import builtins
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from handful.pipelines.bench import runner
from handful.pipelines.bench.plan import read_plan
from handful.pipelines.bench.store import read_listed
from handful.pipelines.cli.main import _run

from .bench_captures import TINY, write_capture, write_file


@pytest.fixture
def cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """Two local nodes of one core each; the second is what the test may kill."""
    monkeypatch.setenv("HANDFUL_WEIGHTS", str(tmp_path / "none"))  # before the nodes start, which hand it on; LPIPS wants larger photos
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
        from ray.cluster_utils import Cluster
    except ImportError:
        pytest.skip("needs ray")
    small = {"num_cpus": 1, "object_store_memory": 80 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**small, "include_dashboard": False})
    second = cluster.add_node(**small)
    cluster.wait_for_nodes()
    ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def _descendants(pid: int) -> list[str]:
    """Command lines of all processes that descend from `pid`."""
    table = [line.split(None, 2) for line in subprocess.run(["ps", "-eo", "pid,ppid,args"], capture_output=True, text=True).stdout.splitlines()[1:]]
    family, found = {pid}, []
    for _ in range(6):
        for one, parent, args in table:
            if int(parent) in family and int(one) not in family:
                family.add(int(one))
                found.append(args)
    return found


@pytest.mark.slow
def test_a_killed_node_loses_nothing(cluster: tuple[Any, Any], tmp_path: Path) -> None:
    write_capture(tmp_path / "table", 5)
    plan = read_plan(write_file(tmp_path / "b.json", seeds=[0, 1], methods=[{"label": "one", "set": TINY}, {"label": "two", "set": [*TINY, "terms.depth=0"]}]))
    killed: list[bool] = []

    def say(text: str, stays: bool) -> None:
        if not text.startswith("[1/") or killed:
            return
        raylet = cluster[1].all_processes["raylet"][0].process.pid
        deadline = time.monotonic() + 30
        while not any("bench.worker" in c for c in _descendants(raylet)) and time.monotonic() < deadline:
            time.sleep(0.05)
        killed.append(any("bench.worker" in c for c in _descendants(raylet)))
        cluster[0].remove_node(cluster[1], allow_graceful=False)

    outcome = runner.run_plan(plan, tmp_path / "out", "command", say, ray_address="auto")
    assert killed == [True], "the node was at work on a job when it was killed"
    assert outcome.troubles == () and outcome.done == 4
    done = read_listed(tmp_path / "out").done
    assert {(r["label"], r["seed"]) for r in done} == {("one", 0), ("one", 1), ("two", 0), ("two", 1)}
    assert all(r["scores"]["psnr"] > 8 and not r["training"]["timed_alone"] and r["training"]["threads"] == 1 for r in done)
    assert all((tmp_path / "out" / p["render"]).is_file() for r in done for p in r["pictures"])


def test_without_ray_it_is_said_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = builtins.__import__

    def missing(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "ray" or name.startswith("ray."):
            raise ImportError("No module named 'ray'")
        return real(name, *args, **kwargs)

    write_capture(tmp_path / "table", 4)
    monkeypatch.setattr(builtins, "__import__", missing)
    assert _run(["benchmark", "run", str(write_file(tmp_path / "b.json")), "-o", str(tmp_path / "out"), "--ray", "auto"]) == 2
    err = capsys.readouterr().err
    assert "pip install 'handful[ray]'" in err and err.count("\n") == 1
