"""`parnet-deploy doctor` where there are GPUs: what it finds of them, and the link that `plan` then reads."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest

from parnet_deploy.cli.main import run_app
from parnet_deploy.planning.links import Link
from tests.cuda_sim.inside.host_engine import reach

COUNT = int(os.environ["CUDASIM_DEVICES"])
DEVICES = [f"cuda:{ordinal}" for ordinal in range(COUNT)]
APART = ("cuda:0", DEVICES[-1])
# A copy of 1 MiB takes longest from device to device where it is staged: 6 and 8 us, 20 and 25 GB/s.
DOWN, UP, PEER = (6.0, 20.0), (8.0, 25.0), (2.0, 50.0)


def path_of(source: str, target: str) -> str:
    return "staged" if {source, target} == set(APART) else "peer"


@pytest.fixture
def cli(sim: Any, capsys: pytest.CaptureFixture[str]) -> Iterator[Callable[..., tuple[int, str, str]]]:
    """A function that runs a command on devices of which the first and the last do not reach each other."""
    sim.clock(on=True)
    for device in DEVICES:
        sim.link("cpu", device, *UP)
        sim.link(device, "cpu", *DOWN)
    for source, target in permutations(DEVICES, 2):
        sim.link(source, target, *PEER)
    sim.set_peer(0, COUNT - 1, reach=False)

    def run(*arguments: str | Path) -> tuple[int, str, str]:
        capsys.readouterr()
        code = run_app([str(argument) for argument in arguments])
        return code, *capsys.readouterr()

    yield run
    reach(sim, True)


def test_gpus_and_what_they_reach_are_told(cli: Any) -> None:
    code, out, _ = cli("doctor", "--json")
    machine = json.loads(out)["machine"]
    assert code == 0
    assert machine["gpus"] == [
        {
            "device": device,
            "ordinal": ordinal,
            "name": "Host Memory GPU",
            "compute_capability": "86",
            "memory_bytes": 1 << 30,
        }
        for ordinal, device in enumerate(DEVICES)
    ]
    assert (machine["gpu_problem"], machine["cuda_driver"]) == (None, "13.0")
    assert machine["paths"] == [
        {"source": source, "target": target, "path": path_of(source, target)}
        for source, target in permutations(DEVICES, 2)
    ]
    assert machine["cuda_adapter"]["name"] in ("cuda-bindings", "pycuda")
    code, out, _ = cli("doctor")
    assert code == 0
    assert "for CUDA up to 13.0" in out
    assert out.count("Host Memory GPU  8.6") == COUNT
    rows = [line.split() for line in out.splitlines()]
    for source in DEVICES:
        told = {"peer": "yes", "staged": "staged"}
        cells = ["-" if source == target else told[path_of(source, target)] for target in DEVICES]
        assert ([source, *cells] in rows) == (COUNT > 1)


def test_measured_links_are_what_plan_reads(
    cli: Any, sim: Any, bundles: Path, tmp_path: Path, counts: Counter[str]
) -> None:
    output = tmp_path / "link.json"
    code, out, _ = cli("doctor", "--links", "-o", output, "--json")
    assert code == 0
    assert sim.live() == {}
    found = json.loads(out)
    assert len(found["links"]["links"]) == COUNT * (COUNT + 1)
    for link in found["links"]["links"]:
        ends = link["source"], link["target"]
        expected = UP if ends[0] == "cpu" else DOWN if ends[1] == "cpu" else PEER
        if "cpu" not in ends and path_of(*ends) == "staged":
            expected = DOWN[0] + UP[0], 1 / (1 / DOWN[1] + 1 / UP[1])
        assert link["path"] == ("host" if "cpu" in ends else path_of(*ends))
        assert (link["latency_us"], link["bandwidth_gb_s"]) == pytest.approx(expected, rel=1e-4)
        counts["links measured"] += 1
    written = json.loads(output.read_text())
    assert written == found["planner_link"]
    assert written["peer"] is False
    slowest = (14.0, 100 / 9) if COUNT > 1 else (12.0, 10.0)
    assert (written["latency_us"], written["bandwidth_gb_s"]) == pytest.approx(slowest, rel=1e-4)
    # To the host 1 MiB takes 6 + 52.4 us, from there 8 + 41.9.
    assert (written["host_latency_us"], written["host_bandwidth_gb_s"]) == pytest.approx(DOWN, rel=1e-4)

    code, out, _ = cli("plan", bundles / "streams", "--devices", "3", "--link", output, "--json")
    assert code == 0
    assert json.loads(out)["link"] == written
    code, out, _ = cli("plan", bundles / "streams", "--devices", "3", "--link", output)
    assert code == 0
    assert f"link measured on {COUNT} x Host Memory GPU: {Link.model_validate(written).description}" in out


def test_links_are_shown_as_a_table(cli: Any) -> None:
    code, out, _ = cli("doctor", "--links")
    assert code == 0
    rows = [line.split() for line in out.splitlines()]
    assert ["from", "to", "path", "latency", "us", "bandwidth", "GB/s"] in rows
    assert ["cpu", "cuda:0", "host", "8.00", "25.00"] in rows
    assert ["cuda:0", "cpu", "host", "6.00", "20.00"] in rows
    assert (["cuda:0", APART[1], "staged", "14.00", "11.11"] in rows) == (COUNT > 1)
    assert (["cuda:0", "cuda:1", "peer", "2.00", "50.00"] in rows) == (COUNT > 2)
    assert "for the planner, the slowest of each: between GPUs through the host 1" in out


def test_nothing_is_written_unless_all_is_measured(cli: Any, sim: Any, tmp_path: Path) -> None:
    output = tmp_path / "link.json"
    output.write_text("mine")
    code, out, err = cli("doctor", "--links", "-o", output)
    assert (code, out) == (2, "")
    assert "already exists" in err
    sim.fail_at(400, 719)
    code, out, err = cli("doctor", "--links", "-o", output, "--force")
    assert (code, out) == (2, "")
    assert "CUDA_ERROR_LAUNCH_FAILED" in err
    assert sim.live() == {}
    assert [path.name for path in tmp_path.iterdir()] == ["link.json"]
    assert output.read_text() == "mine"
    sim.fail_at(0)
    assert cli("doctor", "--links", "-o", output, "--force")[0] == 0
    assert Link.model_validate_json(output.read_bytes()).name == f"measured on {COUNT} x Host Memory GPU"


def test_a_process_of_its_own_finds_the_same() -> None:
    command = [sys.executable, "-m", "parnet_deploy.cli.main", "doctor", "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert len(json.loads(done.stdout)["machine"]["gpus"]) == COUNT
