"""The built wheel, installed without torch, takes a bundle through the whole target side."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import pytest

from parnet_deploy.datasets.digits import digits_split

# The requirement is half of this; torch alone takes ten times as much.
MOST_BYTES = 500e6


def test_the_wheel_holds_the_package_alone(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    folders = {name.split("/")[0] for name in names}
    assert len(folders) == 2  # the package and its metadata
    assert {name for name in names if name.startswith("parnet_deploy/")} >= {
        "parnet_deploy/py.typed",
        "parnet_deploy/cli/main.py",
        "parnet_deploy/runtime/session.py",
    }
    assert not [name for name in names if name.endswith((".pyc", ".safetensors"))]


@pytest.mark.parametrize("constraints", ["constraints.txt", "constraints-oldest.txt"])
def test_target_side(constraints: str, install, bundle: Path, tmp_path: Path) -> None:
    environment = install(constraints)
    absent = "import importlib.util as u; print([n for n in ('torch', 'timm', 'sklearn') if u.find_spec(n)])"
    assert environment.python(absent) == "[]"
    home = environment.python("import parnet_deploy; print(parnet_deploy.__file__)")
    assert Path(home).is_relative_to(environment.folder)

    def ask(*arguments: str | Path) -> object:
        done = environment.run(*arguments, "--json", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    plan = ask("build", bundle, "-o", "plan")
    assert [engine["stage"] for engine in plan["engines"]] == ["stream1", "stream2", "stream3", "join"]
    assert ask("inspect", "plan")["manifest"] == plan
    verified = ask("verify", bundle, "plan", "--per-stage")
    assert verified["passed"]
    assert verified["comparisons"][0]["logits"]["relative"] < 1e-5
    images, labels = digits_split("test")
    for index in range(10):
        images[index].save(tmp_path / f"{index}.png")
    found = ask("run", "plan", *(f"{index}.png" for index in range(10)), "--top", "1")
    assert [answer["top"][0]["label"] for answer in found] == [str(label) for label in labels[:10]]
    measured = ask("serve-bench", "plan", "--rounds", "1", "--duration", "0.01", "--min-queries", "8", "-o", "report")
    assert [entry["label"] for entry in measured["contenders"]] == ["plan"]
    assert {"report.html", "report.json"} <= {path.name for path in (tmp_path / "report").iterdir()}
    assert environment.size_bytes < MOST_BYTES


def test_what_is_missing_is_named(install, tmp_path: Path) -> None:
    environment = install("constraints.txt")
    done = environment.run("init", "parnet_nano", "-o", "n.safetensors", cwd=tmp_path)
    assert done.returncode == 2
    assert "pip install 'parnet-deploy[author]'" in done.stderr
    assert "Traceback" not in done.stderr
