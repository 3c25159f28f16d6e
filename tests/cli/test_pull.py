"""`pull`, `import` and `hub-export` by the command line, from servers and mirrors on this machine."""

from __future__ import annotations

import functools
import hashlib
import json
import os
import pickle
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from parnet_deploy.artifacts.folders import open_card
from parnet_deploy.models import load_checkpoint
from parnet_deploy.weights.cache import record_path_of
from parnet_deploy.weights.releases import RELEASED
from tests.weights.server import Handler, Proxy, ReleaseServer, breaking_off, page, stalling

ASSET = RELEASED["parnet_l"].asset
HALF = 600_000


@pytest.fixture(autouse=True)
def _nothing_of_this_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide proxies and the user's cache, and work in a folder of its own."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")


@pytest.fixture
def cached(tmp_path: Path) -> Path:
    """Where the asset is cached."""
    return tmp_path / "xdg" / "parnet-deploy" / "weights" / ASSET


@pytest.fixture(scope="session")
def released(data_dir: Path) -> bytes:
    """A file of the authors' format."""
    return (data_dir / "tiny_relu.pth.tar").read_bytes()


@pytest.fixture
def server(released: bytes) -> Iterator[ReleaseServer]:
    """A mirror of the release."""
    with ReleaseServer(released) as running:
        yield running


def left_in(folder: Path) -> list[str]:
    """Names of what is in a folder, locks left out."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock") if folder.exists() else []


def test_pulled_imported_and_right(cli, server: ReleaseServer, cached: Path, released: bytes, data_dir: Path) -> None:
    found = cli("pull", "parnet-l", "--from", server.url)
    assert found.exit_code == 0
    sha256 = hashlib.sha256(released).hexdigest()
    for part in (str(cached), "1.2 MiB", f"sha256 {sha256}, first seen now", "parnet_l.safetensors: parnet, planes"):
        assert part in found.stdout
    assert "activation: relu (the file does not say" in found.stdout
    card = json.loads(Path("parnet_l.json").read_text())
    assert card["parent"] == {"kind": "file", "name": ASSET, "sha256": sha256}
    assert card["origin"] == {
        "made_by": "parnet-deploy pull",
        "release": "https://github.com/imankgoyal/NonDeepNetworks v.0.1.0",
        "source": f"{server.url}/{ASSET}",
        "sha256": sha256,
        "size_bytes": len(released),
        "weight_set": "state_dict_ema",
        "activation_reason": card["origin"]["activation_reason"],
        "epoch": "3",
    }
    golden = np.load(data_dir / "tiny_relu.npz")
    logits = load_checkpoint("parnet_l.safetensors")(torch.from_numpy(golden["input"]))
    wanted = torch.from_numpy(golden["logits_ema"])
    assert (logits.double() - wanted).abs().max() <= 1e-5 * wanted.abs().max()


def test_json_again_offline_and_with_the_importers_options(cli, server: ReleaseServer, cached: Path) -> None:
    first = cli("pull", "ParNet_L", "--raw", "--from", server.url, "--json").json
    assert first["is_new"]
    assert first["path"] == str(cached)
    assert left_in(Path()) == []
    options = ["--no-ema", "--activation", "silu", "-o", "out/l.safetensors", "--json"]
    second = cli("pull", "parnet-l", "--offline", *options).json
    assert second["download"] == first["download"]
    assert not second["is_new"]
    assert second["checkpoint"] == "out/l.safetensors"
    assert second["card"] == open_card(Path("out/l.safetensors")).manifest.model_dump(mode="json")
    assert second["card"]["network"]["activation"] == "silu"
    assert second["card"]["origin"]["weight_set"] == "state_dict"
    assert len(server.requests) == 1


def test_the_352_pixels_of_the_fine_tuned_weights_are_in_the_card(cli, server: ReleaseServer) -> None:
    card = cli("pull", "parnet-xl-352", "--from", server.url, "--json").json["card"]
    assert card["preprocessing"]["input_size"] == [3, 352, 352]
    assert server.requests[0][0] == f"/{RELEASED['parnet_xl_352'].asset}"


def test_a_mirror_that_is_a_folder_and_a_proxy(cli, server: ReleaseServer, tmp_path: Path, released: bytes) -> None:
    mirror = tmp_path / "mirror"
    mirror.mkdir()
    (mirror / ASSET).write_bytes(released)
    assert cli("pull", "parnet-l", "--raw", "--from", mirror, "--cache-dir", tmp_path / "one").exit_code == 0
    assert (tmp_path / "one" / ASSET).read_bytes() == released
    with Proxy(server.url) as proxy, pytest.MonkeyPatch.context() as environment:
        environment.setenv("HTTP_PROXY", proxy.url)
        source = ["--from", "http://release.invalid/parnet", "--cache-dir", tmp_path / "two"]
        assert cli("pull", "parnet-l", "--raw", *source).exit_code == 0
    assert proxy.asked == [f"GET http://release.invalid/parnet/{ASSET}"]


def test_a_change_is_told_and_accepted_on_purpose(cli, server: ReleaseServer, cached: Path, data_dir: Path) -> None:
    pull = ["pull", "parnet-l", "--from", server.url, "--force"]
    assert cli(*pull).exit_code == 0
    before = Path("parnet_l.safetensors").read_bytes()
    server.data, server.etag = (data_dir / "tiny_silu.pth.tar").read_bytes(), '"two"'
    cached.unlink()
    found = cli(*pull)
    assert found.exit_code == 2
    assert "not the one that was first seen on" in found.stderr
    assert "--accept-changed" in found.stderr
    assert Path("parnet_l.safetensors").read_bytes() == before
    assert cli(*pull, "--accept-changed").exit_code == 0
    assert Path("parnet_l.safetensors").read_bytes() != before


def test_import_holds_a_pulled_file_to_its_record(cli, server: ReleaseServer, cached: Path) -> None:
    assert cli("pull", "parnet-l", "--raw", "--from", server.url).exit_code == 0
    assert cli("import", cached, "-o", "a.safetensors").exit_code == 0
    data = bytearray(cached.read_bytes())
    data[-1] ^= 1  # the comment's length, which no reader of weights would miss
    cached.write_bytes(data)
    found = cli("import", cached, "-o", "b.safetensors")
    assert found.exit_code == 2
    assert "not the one that was first seen" in found.stderr
    assert left_in(Path()) == ["a.json", "a.safetensors"]


class Attack:
    """Unpickles by making a folder."""

    def __init__(self, canary: Path) -> None:
        self.canary = canary

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.canary),)


def in_zip(attack: Attack, path: Path) -> None:
    torch.save({"state_dict": {"head.fc.weight": attack}}, path)


def in_old_format(attack: Attack, path: Path) -> None:
    torch.save({"state_dict": attack}, path, _use_new_zipfile_serialization=False)


def bare(attack: Attack, path: Path) -> None:
    path.write_bytes(pickle.dumps(attack, protocol=2))


@pytest.mark.parametrize("write", [in_zip, in_old_format, bare])
def test_a_malicious_pickle_is_refused_and_leaves_nothing(
    cli, server: ReleaseServer, cached: Path, tmp_path: Path, write: Callable[[Attack, Path], None]
) -> None:
    canary = tmp_path / "canary"
    write(Attack(canary), tmp_path / "evil")
    server.data = (tmp_path / "evil").read_bytes()
    found = cli("pull", "parnet-l", "--from", server.url)
    assert found.exit_code == 2
    assert "the pickle asks for" in found.stderr
    assert "Traceback" not in found.stderr
    assert not canary.exists()
    assert left_in(Path()) == []
    assert left_in(cached.parent) == []
    if write is bare:  # it would have
        pickle.loads(server.data)
    else:
        torch.load(tmp_path / "evil", weights_only=False)
    assert canary.exists()


def test_a_wrong_option_costs_no_download(cli, server: ReleaseServer, cached: Path) -> None:
    Path("wrong.yaml").write_text("planes: [1, 2, 3, 4]\nnum_blocks: [5, 6, 6, 1]\n")
    found = cli("pull", "parnet-l", "--from", server.url, "--config", "wrong.yaml")
    assert found.exit_code == 2
    assert "planes is [1, 2, 3, 4]" in found.stderr
    assert left_in(cached.parent) == [ASSET, record_path_of(cached).name]


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        (["parnet-nano"], ["no released weights 'parnet-nano'", "parnet_xl_352", "parnet-deploy init"]),
        (["parnet-l", "--from", "file:///x"], ["not an http or https URL"]),
        (["parnet-l", "--from", "missing"], ["missing: no such file or folder"]),
        (["parnet-l", "--offline"], ["--offline fetches nothing", "--cache-dir"]),
        (["parnet-l", "--offline", "--from", "x"], ["excludes --from"]),
        (["parnet-l", "--sha256", "abc"], ["'abc' is no sha256"]),
        (["parnet-l", "--raw", "-o", "x.safetensors", "--no-ema"], ["--raw imports nothing", "-o, --no-ema"]),
        (["parnet-l", "-o", "there.safetensors"], ["already exists"]),
        (["parnet-l", "-o", "there2.safetensors"], ["there2.json: the output already exists"]),
    ],
)
def test_mistakes_are_told_before_anything_is_fetched(cli, arguments: list[str], parts: list[str]) -> None:
    Path("there.safetensors").touch()
    Path("there2.json").touch()
    found = cli("pull", *arguments)
    assert (found.exit_code, found.stdout) == (2, "")
    assert all(part in found.stderr for part in ("error:", *parts)), found.stderr
    assert left_in(Path()) == ["there.safetensors", "there2.json"]


@pytest.mark.parametrize(
    ("reply", "parts"),
    [
        (page(b"<html>Sign in</html>"), ["a web page (text/html; charset=utf-8), not weights"]),
        (page(b"no", status=404), ["404 Not Found", "releases/tag/v.0.1.0", "--from"]),
        (stalling(HALF), ["the server sent nothing for 0.3 s", "goes on from 600,000 bytes"]),
        (breaking_off(HALF), ["the connection broke off", "goes on from 600,000 bytes"]),
    ],
)
def test_failures_are_told_and_the_next_pull_is_right(
    cli, server: ReleaseServer, cached: Path, released: bytes, reply: Callable[[Handler], None], parts: list[str]
) -> None:
    server.replies.append(reply)
    found = cli("pull", "parnet-l", "--raw", "--from", server.url, "--stall-timeout", "0.3")
    assert (found.exit_code, found.stdout) == (2, "")
    assert all(part in found.stderr for part in ("error:", "remedy:", *parts)), found.stderr
    assert not cached.exists()
    assert cli("pull", "parnet-l", "--raw", "--from", server.url).exit_code == 0
    assert cached.read_bytes() == released


class TestProcesses:
    """Processes of their own, that are started at once and killed."""

    def start(self, server: ReleaseServer) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "parnet_deploy.cli.main", "pull", "parnet-l", "--raw", "--from", server.url]
        # Background jobs of a shell ignore Ctrl-C, and hand that on to whatever they start.
        heeds = functools.partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, preexec_fn=heeds)

    def test_several_at_once_are_all_right(self, server: ReleaseServer, cached: Path, released: bytes) -> None:
        running = [self.start(server) for _ in range(3)]
        assert [(process.communicate()[1], process.returncode) for process in running] == [(b"", 0)] * 3
        assert len(server.requests) == 1
        assert cached.read_bytes() == released
        assert left_in(cached.parent) == [ASSET, f"{ASSET}.json"]

    @pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
    def test_what_was_interrupted_goes_on(
        self, cli, server: ReleaseServer, cached: Path, released: bytes, sent: signal.Signals, code: int
    ) -> None:
        partial = cached.with_name(f"{ASSET}.partial")
        server.replies.append(stalling(HALF))
        process = self.start(server)
        while not (partial.exists() and partial.stat().st_size) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(sent)
        _, told = process.communicate()
        assert process.returncode == code, told
        assert b"Traceback" not in told
        assert not cached.exists()
        kept = partial.read_bytes()
        assert 0 < len(kept) <= HALF
        assert released.startswith(kept)
        assert cli("pull", "parnet-l", "--raw", "--from", server.url).exit_code == 0
        assert cached.read_bytes() == released
        assert server.ranges_asked() == [None, f"bytes={len(kept) - 1}-"]


def test_no_torch_is_needed(server: ReleaseServer, cached: Path, released: bytes) -> None:
    script = (
        "import sys\n"
        "for name in ('torch', 'torchvision', 'timm', 'safetensors', 'huggingface_hub', 'onnx', 'onnxruntime'):\n"
        "    sys.modules[name] = None\n"
        "from parnet_deploy.cli.main import run_app\n"
        f"sys.exit(run_app(['pull', 'parnet-l', '--raw', '--from', {server.url!r}]))\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert hashlib.sha256(released).hexdigest() in done.stdout
    assert cached.read_bytes() == released


def test_without_the_clients_the_extra_is_named(cli, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith("parnet_deploy.weights")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "filelock", None)
    found = cli("pull", "parnet-l", "--raw", "--offline")
    assert found.exit_code == 2
    assert "pip install 'parnet-deploy[pull]'" in found.stderr


class TestHub:
    """A checkpoint to the Hub's layout and back."""

    @pytest.mark.parametrize("name", ["trained", "fused"])
    def test_there_and_back(self, cli, pipeline: dict[str, Path], name: str) -> None:
        found = cli("hub-export", pipeline[name], "-o", "hub", "--license", "bsd-3-clause", "--json").json
        config = json.loads(Path("hub/config.json").read_text())
        assert found == {"folder": "hub", "config": config}
        assert config["model_args"] == ({"form": "fused"} if name == "fused" else {})
        assert "license: bsd-3-clause" in Path("hub/README.md").read_text()
        card = cli("import", "hub", "-o", "back.safetensors", "--json").json
        before = json.loads(pipeline[name].with_suffix(".json").read_text())
        assert card["weights"]["sha256"] == before["weights"]["sha256"]
        for field in ("architecture", "network", "form", "preprocessing", "label_names"):
            assert card[field] == before[field]
        assert cli("verify", pipeline["trained"], "back.safetensors").exit_code == 0

    def test_what_is_printed(self, cli, pipeline: dict[str, Path]) -> None:
        found = cli("hub-export", pipeline["fused"], "-o", "hub")
        assert "hub: timm model parnet_nano with {'form': 'fused'}, 10 classes" in found.stdout
        assert 'timm.create_model("local-dir:hub", pretrained=True)' in found.stdout
        assert "hf upload USER/NAME hub" in found.stdout
        found = cli("import", "hub", "-o", "back.safetensors")
        assert re.search(r"back\.safetensors: parnet_nano, .*10 classes, fused", found.stdout)
        assert "activation: silu (config.json)" in found.stdout

    @pytest.mark.parametrize(
        ("arguments", "parts"),
        [
            (["hub-export", "missing", "-o", "out"], ["no such checkpoint"]),
            (["hub-export", "{trained}", "-o", "hub"], ["already exists", "--force"]),
            (["import", "empty", "-o", "out.safetensors"], ["no config.json here", "model.safetensors"]),
            (["import", "hub", "-o", "out.safetensors", "--no-ema"], ["are for the authors' files", "leave them out"]),
            (["import", "hub", "-o", "out.safetensors", "--activation", "relu"], ["are for the authors' files"]),
            (["import", "hub", "-o", "out.pt"], ["must end in .safetensors"]),
        ],
    )
    def test_mistakes(self, cli, pipeline: dict[str, Path], arguments: list[str], parts: list[str]) -> None:
        cli("hub-export", pipeline["trained"], "-o", "hub")
        Path("empty").mkdir()
        found = cli(*(argument.format(**pipeline) for argument in arguments))
        assert (found.exit_code, found.stdout) == (2, "")
        assert all(part in found.stderr for part in ("error:", *parts)), found.stderr
        assert left_in(Path()) == ["empty", "hub"]
