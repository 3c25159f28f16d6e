"""Names of released weights, and where `--from` leads."""

from __future__ import annotations

from pathlib import Path

import pytest

from parnet_deploy.errors import DownloadError
from parnet_deploy.weights.content import refuse_cut_short
from parnet_deploy.weights.releases import RELEASED, ReleasedWeights, find_released
from parnet_deploy.weights.sources import locate, without_secrets

ASSET = "planes_160_320_640_2560_num_blocks_5_6_6_1_sebv_13_dropout_lin.pth.tar"
BASE = "https://mirror.example/parnet"


@pytest.mark.parametrize("name", ["parnet-l", "parnet_l", "ParNet-L", "PARNET_L"])
def test_names_as_people_write_them(name: str) -> None:
    assert find_released(name).asset == ASSET


@pytest.mark.parametrize("name", ["parnet", "parnet-nano", "l", "", "../parnet_l"])
def test_other_names_are_refused_with_the_list(name: str) -> None:
    with pytest.raises(DownloadError, match="no released weights") as caught:
        find_released(name)
    assert all(known in str(caught.value.remedy) for known in RELEASED)
    assert "parnet-deploy init" in str(caught.value.remedy)


def test_every_asset_is_a_file_of_its_own() -> None:
    assert [weights.name for weights in RELEASED.values()] == list(RELEASED)
    assets = {weights.asset for weights in RELEASED.values()}
    assert len(assets) == len(RELEASED)
    assert all(asset.endswith(".pth.tar") and "/" not in asset for asset in assets)
    assert all(weights.resolution % 32 == 0 for weights in RELEASED.values())


@pytest.mark.parametrize(
    ("source", "found"),
    [
        (None, f"https://github.com/imankgoyal/NonDeepNetworks/releases/download/v.0.1.0/{ASSET}"),
        (BASE, f"{BASE}/{ASSET}"),
        (f"{BASE}/", f"{BASE}/{ASSET}"),
        ("http://mirror.example", f"http://mirror.example/{ASSET}"),
        (f"{BASE}?token=x", f"{BASE}/{ASSET}?token=x"),
        (f"{BASE}/l.pth.tar", f"{BASE}/l.pth.tar"),
        (f"{BASE}/l.pth.tar?token=x", f"{BASE}/l.pth.tar?token=x"),
        ("https://me:pw@mirror.example:8443/a", f"https://me:pw@mirror.example:8443/a/{ASSET}"),
    ],
)
def test_urls(weights: ReleasedWeights, source: str | None, found: str) -> None:
    assert locate(weights, source) == found


@pytest.mark.parametrize(
    "source", ["file:///mnt/parnet", "ftp://host/x", "s3://bucket/x", "http://", "https:///x", "http://[::1", "://x"]
)
def test_urls_that_are_none_of_the_web(weights: ReleasedWeights, source: str) -> None:
    with pytest.raises(DownloadError, match="not an http or https URL") as caught:
        locate(weights, source)
    assert "plain path of a folder" in str(caught.value.remedy)


def test_folders_and_files(weights: ReleasedWeights, tmp_path: Path) -> None:
    with pytest.raises(DownloadError, match=f"the folder holds no {ASSET}") as caught:
        locate(weights, str(tmp_path))
    assert "no .pth.tar at all" in str(caught.value.remedy)
    (tmp_path / "other.pth.tar").touch()
    with pytest.raises(DownloadError, match=r"(?s)holds no .*there is: other\.pth\.tar"):
        locate(weights, str(tmp_path))
    assert locate(weights, str(tmp_path / "other.pth.tar")) == tmp_path / "other.pth.tar"
    (tmp_path / ASSET).touch()
    assert locate(weights, str(tmp_path)) == tmp_path / ASSET
    with pytest.raises(DownloadError, match="no such file or folder"):
        locate(weights, str(tmp_path / "missing"))


def test_what_may_be_secret_is_left_out() -> None:
    url = "https://me:pw@[::1]:8443/a/b.pth.tar?X-Signature=s#part"
    assert without_secrets(url) == "https://[::1]:8443/a/b.pth.tar"


def test_a_zip_archive_without_its_end_is_noticed(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "asset"
    path.write_bytes(data)
    refuse_cut_short(path, where=path)
    for length in (len(data) - 1, len(data) - 22, len(data) // 2, 600):
        path.write_bytes(data[:length])
        with pytest.raises(DownloadError, match=f"cut short: a zip archive of {length} bytes"):
            refuse_cut_short(path, where=path)
    path.write_bytes(b"\x80\x02" + bytes(100))  # torch before 1.6: a bare pickle, which the importer reads
    refuse_cut_short(path, where=path)


def test_the_documentation_names_the_same_files() -> None:
    text = (Path(__file__).parents[2] / "docs" / "weights.md").read_text()
    rows = [
        f"| `{weights.name.replace('_', '-')}` | `{weights.asset}` | `{weights.named_in.removeprefix('imagenet/')}` |"
        for weights in RELEASED.values()
    ]
    assert [row for row in rows if row not in text] == []
    assert text.count(".pth.tar` |") == len(rows)
