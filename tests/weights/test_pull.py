"""Pulling into the cache: recorded at first sight, checked ever after, and never two processes in each other's way."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from parnet_deploy.errors import ArtifactError, DownloadError
from parnet_deploy.weights.cache import WeightsCache, check_download, record_path_of
from parnet_deploy.weights.pull import PulledWeights, PullOptions, pull
from parnet_deploy.weights.releases import ReleasedWeights
from tests.weights.server import Handler, ReleaseServer, announcing, breaking_off

HALF = 100_000


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def names(folder: Path) -> list[str]:
    """The names of a cache's files, the asset's own cut off."""
    return sorted(re.sub(r"^.*\.pth\.tar", "", path.name) for path in folder.iterdir() if path.suffix != ".lock")


class TestFirstSight:
    """What is fetched is recorded."""

    def test_size_hash_source_release_and_time(
        self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache, data: bytes
    ) -> None:
        source = server.url.replace("://", "://me:secret@") + "/mirror?key=hidden"
        found = pull(weights, cache, PullOptions(source=source))
        assert found.is_new
        assert found.path == cache.folder / weights.asset
        assert found.path.read_bytes() == data
        assert names(cache.folder) == ["", ".json"]
        record = json.loads(record_path_of(found.path).read_text())
        seen = datetime.fromisoformat(record.pop("first_seen"))
        assert abs((datetime.now(UTC) - seen).total_seconds()) < 3600
        assert record == {
            "schema_version": 1,
            "kind": "download",
            "file": {"name": weights.asset, "sha256": sha256(data), "size_bytes": len(data)},
            "source": f"{server.url}/mirror/{weights.asset}",
            "release": "v.0.1.0",
        }

    def test_a_second_pull_asks_nobody(
        self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache
    ) -> None:
        first = pull(weights, cache, PullOptions(source=server.url))
        for options in (PullOptions(source=server.url), PullOptions(), PullOptions(offline=True)):
            found = pull(weights, cache, options)
            assert not found.is_new
            assert found.record == first.record
        assert len(server.requests) == 1

    def test_from_a_folder_and_from_a_file(
        self, weights: ReleasedWeights, cache: WeightsCache, tmp_path: Path, data: bytes
    ) -> None:
        mirror = tmp_path / "mirror"
        mirror.mkdir()
        (mirror / weights.asset).write_bytes(data)
        found = pull(weights, cache, PullOptions(source=str(mirror)))
        assert found.path.read_bytes() == data
        assert found.record.source == str(mirror / weights.asset)
        assert names(cache.folder) == ["", ".json"]
        other = WeightsCache(tmp_path / "other")
        (mirror / weights.asset).rename(mirror / "l.pth.tar")
        assert pull(weights, other, PullOptions(source=str(mirror / "l.pth.tar"))).path.name == weights.asset

    @pytest.mark.parametrize("kind", ["url", "folder"])
    def test_a_file_cut_short_in_good_order_is_not_kept(
        self,
        server: ReleaseServer,
        weights: ReleasedWeights,
        cache: WeightsCache,
        tmp_path: Path,
        data: bytes,
        kind: str,
    ) -> None:
        """The server announces fewer bytes than the file has, and sends so many; or a mirror's copy is cut short."""
        server.replies.append(announcing(len(data) - 10))
        (tmp_path / "l.pth.tar").write_bytes(data[:-10])
        source = server.url if kind == "url" else str(tmp_path / "l.pth.tar")
        with pytest.raises(DownloadError, match=f"cut short: a zip archive of {len(data) - 10} bytes"):
            pull(weights, cache, PullOptions(source=source))
        assert names(cache.folder) == []

    def test_a_file_without_a_record_is_no_download(
        self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache, data: bytes
    ) -> None:
        cache.folder.mkdir()
        cache.path_of(weights.asset).write_bytes(b"put there by someone")
        with pytest.raises(DownloadError, match="--offline fetches nothing"):
            pull(weights, cache, PullOptions(offline=True))
        assert pull(weights, cache, PullOptions(source=server.url)).path.read_bytes() == data


class TestEverAfter:
    """What was recorded is what is taken."""

    @pytest.fixture
    def pulled(self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache) -> PulledWeights:
        return pull(weights, cache, PullOptions(source=server.url))

    @pytest.mark.parametrize("change", ["a bit", "the end", "all of it"])
    def test_a_file_changed_on_disk(
        self, pulled: PulledWeights, cache: WeightsCache, data: bytes, other_data: bytes, change: str
    ) -> None:
        flipped = data[:50] + bytes([data[50] ^ 1]) + data[51:]
        now = {"a bit": flipped, "the end": data[:-1], "all of it": other_data}[change]
        pulled.path.write_bytes(now)
        for look in (
            lambda: pull(pulled.weights, cache, PullOptions(offline=True)),
            lambda: check_download(pulled.path),
        ):
            with pytest.raises(DownloadError, match="not the one that was first seen") as caught:
                look()
            text = str(caught.value)
            assert pulled.record.first_seen in text
            assert pulled.record.source in text
            assert f"{len(data):,} bytes, sha256 {sha256(data)}" in text
            assert f"{len(now):,} bytes, sha256 {sha256(now)}" in text
            assert "--accept-changed" in text
        assert pulled.path.read_bytes() == now

    def test_a_file_that_was_removed_comes_back_the_same(
        self, pulled: PulledWeights, server: ReleaseServer, cache: WeightsCache, data: bytes
    ) -> None:
        pulled.path.unlink()
        found = pull(pulled.weights, cache, PullOptions(source=f"{server.url}/elsewhere"))
        assert not found.is_new
        assert found.record == pulled.record
        assert found.path.read_bytes() == data

    def test_a_file_that_changed_at_the_source(
        self, pulled: PulledWeights, server: ReleaseServer, cache: WeightsCache, other_data: bytes
    ) -> None:
        pulled.path.unlink()
        server.data, server.etag = other_data, '"two"'
        options = PullOptions(source=server.url)
        for _ in range(2):
            with pytest.raises(DownloadError, match="not the one that was first seen") as caught:
                pull(pulled.weights, cache, options)
            assert sha256(other_data) in str(caught.value)
            assert "--accept-changed" in str(caught.value.remedy)
            assert not pulled.path.exists()
        found = pull(pulled.weights, cache, PullOptions(source=server.url, accept_changed=True))
        assert found.is_new
        assert found.record.file.sha256 == sha256(other_data)
        assert found.path.read_bytes() == other_data
        assert names(cache.folder) == ["", ".json"]
        # Fetched once; the second time and the third it was whole, and one byte confirmed it.
        end = f"bytes={len(other_data) - 1}-"
        assert server.ranges_asked() == [None, None, end, end]
        assert not pull(pulled.weights, cache, PullOptions(offline=True)).is_new

    def test_accepting_fetches_again_even_if_nothing_changed(
        self, pulled: PulledWeights, server: ReleaseServer, cache: WeightsCache
    ) -> None:
        assert pull(pulled.weights, cache, PullOptions(source=server.url, accept_changed=True)).is_new
        assert len(server.requests) == 2

    def test_a_failure_while_accepting_leaves_what_was_there(
        self, pulled: PulledWeights, server: ReleaseServer, cache: WeightsCache
    ) -> None:
        server.replies.append(breaking_off(HALF))
        with pytest.raises(DownloadError, match="broke off"):
            pull(pulled.weights, cache, PullOptions(source=server.url, accept_changed=True))
        assert pull(pulled.weights, cache, PullOptions(offline=True)).record == pulled.record

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("{", "not valid JSON"),
            ("[]", "of kind None"),
            ('{"kind": "download", "schema_version": 2}', "schema version 2"),
            ('{"kind": "download", "schema_version": 1}', "field 'file'"),
        ],
    )
    def test_a_damaged_record_trusts_nothing(
        self, pulled: PulledWeights, server: ReleaseServer, cache: WeightsCache, text: str, message: str
    ) -> None:
        record_path_of(pulled.path).write_text(text)
        with pytest.raises(ArtifactError, match=message) as caught:
            pull(pulled.weights, cache, PullOptions(source=server.url))
        assert "--accept-changed" in str(caught.value.remedy)
        assert pull(pulled.weights, cache, PullOptions(source=server.url, accept_changed=True)).is_new


class TestAskedFor:
    """`--sha256`: what a user knows is checked too, at first sight and later."""

    def test_the_right_one(
        self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache, data: bytes
    ) -> None:
        options = PullOptions(source=server.url, sha256=sha256(data).upper())
        assert [pull(weights, cache, options).is_new for _ in range(2)] == [True, False]

    def test_another_one(
        self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache, data: bytes, tmp_path: Path
    ) -> None:
        (tmp_path / "l.pth.tar").write_bytes(data)
        for source in (server.url, str(tmp_path / "l.pth.tar")):
            with pytest.raises(DownloadError, match=f"the sha256 is {sha256(data)}, not {'0' * 64} as asked for"):
                pull(weights, cache, PullOptions(source=source, sha256="0" * 64))
            assert not cache.path_of(weights.asset).exists()
            assert not record_path_of(cache.path_of(weights.asset)).exists()
        assert names(cache.folder) == []
        pull(weights, cache, PullOptions(source=server.url))
        with pytest.raises(DownloadError, match="as asked for"):
            pull(weights, cache, PullOptions(offline=True, sha256="0" * 64))

    @pytest.mark.parametrize("text", ["", "abc", "g" * 64, "0" * 63, "0" * 65])
    def test_none_at_all(self, text: str) -> None:
        with pytest.raises(DownloadError, match="is no sha256"):
            PullOptions(sha256=text)


@pytest.mark.parametrize("options", [{"source": "x"}, {"accept_changed": True}])
def test_offline_excludes_what_needs_a_source(options: dict[str, object]) -> None:
    with pytest.raises(DownloadError, match="--offline reads the cache only"):
        PullOptions(offline=True, **options)


def test_offline_with_nothing_there_touches_nothing(weights: ReleasedWeights, cache: WeightsCache) -> None:
    with pytest.raises(DownloadError, match=r"is not there, and --offline fetches nothing"):
        pull(weights, cache, PullOptions(offline=True))
    assert not cache.folder.exists()


class TestUnwritable:
    """A cache that cannot be written is said so, and one that can be read only is read."""

    def test_the_cache_is_a_file(self, server: ReleaseServer, weights: ReleasedWeights, tmp_path: Path) -> None:
        (tmp_path / "cache").write_text("")
        for folder in ("cache", "cache/below"):
            with pytest.raises(ArtifactError, match="cannot be written"):
                pull(weights, WeightsCache(tmp_path / folder), PullOptions(source=server.url))
        assert server.requests == []

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
    def test_the_cache_may_not_be_written(
        self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache
    ) -> None:
        cache.folder.mkdir(mode=0o500)
        with pytest.raises(ArtifactError, match=r"cannot be written \(Permission denied\)"):
            pull(weights, cache, PullOptions(source=server.url))

    def test_a_shared_cache_is_read_without_a_lock(
        self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        pull(weights, cache, PullOptions(source=server.url))
        monkeypatch.setattr(WeightsCache, "locked", None)
        assert not pull(weights, cache, PullOptions()).is_new

    def test_the_place_of_the_partial_file_is_taken(
        self, server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache, tmp_path: Path, data: bytes
    ) -> None:
        cache.partial_of(weights.asset).mkdir(parents=True)
        (tmp_path / "l.pth.tar").write_bytes(data)
        for source in (server.url, str(tmp_path / "l.pth.tar")):
            with pytest.raises(ArtifactError, match=r"cannot be (written|copied)"):
                pull(weights, cache, PullOptions(source=source))


def test_two_at_once_fetch_it_once(
    server: ReleaseServer, weights: ReleasedWeights, cache: WeightsCache, data: bytes
) -> None:
    """The first is held by the server until the second waits for it."""
    at_half, second_waits = threading.Event(), threading.Event()

    def reply(handler: Handler) -> None:
        handler.start(200, len(data))
        handler.wfile.write(data[:HALF])
        handler.wfile.flush()
        at_half.set()
        second_waits.wait(60)
        handler.wfile.write(data[HALF:])

    found: list[PulledWeights] = []

    def tell(what: str, _done: int, _total: int | None) -> None:
        if what == "waiting for another process":
            second_waits.set()

    server.replies.append(reply)
    options = PullOptions(source=server.url)
    first = threading.Thread(target=lambda: found.append(pull(weights, cache, options)))
    first.start()
    assert at_half.wait(60)
    found.append(pull(weights, cache, options, progress=tell))
    first.join()
    assert [each.is_new for each in found] == [True, False]
    assert len(server.requests) == 1
    assert cache.path_of(weights.asset).read_bytes() == data
