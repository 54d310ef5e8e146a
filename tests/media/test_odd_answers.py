"""Endless answers, and answers that are not HTTP: one clip fails, with bounded resources."""

import resource

import pytest
from fetching import http, hurry, journal, rows
from synthetic import Misbehaving

from clip4vla.media import fetch
from clip4vla.media.fetch import fetch_shard


@pytest.fixture(autouse=True)
def fast(monkeypatch):
    hurry(monkeypatch)


def fetched(tmp_path, site, *files, network=None, rate=(), **times):
    with site.serving() as url:
        dataset = http(url, rate=dict(rate))
        return fetch_shard(rows(*files, **times), dataset, tmp_path / "m", network=network)


def test_an_endless_page_is_not_read(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    table = fetched(tmp_path, site, "endless_page/a.mp4")
    assert list(table.fetch) == ["format_unavailable"] and "page" in table.detail[0]
    assert site.sent < 50e6  # what the sockets hold
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100e3  # kB


@pytest.mark.parametrize("kind", ["endless", "vast"])
def test_a_body_larger_than_a_clip_can_be_is_aborted(tmp_path, clip, kind):
    site = Misbehaving(clip.read_bytes())
    table = fetched(tmp_path, site, f"{kind}/a.mp4", "ok/b.mp4", rate={"clip_bytes": 1_000_000})
    assert list(table.fetch) == ["format_unavailable", "ok"]
    assert "more than 1,000,000 bytes" in table.detail[0] and site.sent < 50e6
    assert [record["clip_id"] for record in journal(tmp_path / "m")] == ["clip_0", "clip_1"]
    assert not (tmp_path / "m" / ".part").exists()


def test_a_cut_from_an_endless_body_is_aborted(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    table = fetched(
        tmp_path, site, "endless/a.mp4", start=0.25, end=0.75, rate={"clip_bytes": 1_000_000}
    )
    assert list(table.fetch) == ["format_unavailable"] and site.sent < 50e6


def test_a_cut_stops_at_the_bytes_that_a_clip_can_have(tmp_path, clip, monkeypatch):
    monkeypatch.setattr("clip4vla.media.direct.most_bytes", lambda seconds: 2000)
    site = Misbehaving(clip.read_bytes())
    table = fetched(tmp_path, site, "ok/a.mp4", start=0.0, end=1.0)
    assert list(table.fetch) == ["cut_failed"] and "more than 2,000 bytes" in table.detail[0]


@pytest.mark.parametrize("kind", ["icy", "headers", "file", "ftp", "odd"])
@pytest.mark.parametrize("times", [{}, {"start": 0.25, "end": 0.75}])
def test_answers_that_are_not_http_are_final(tmp_path, clip, monkeypatch, kind, times):
    """More of them in a row than make an outage: the server is there, and will not change."""
    monkeypatch.setattr(fetch, "OUTAGE", 3)
    site = Misbehaving(clip.read_bytes())
    table = fetched(tmp_path, site, *(f"{kind}/{n}.mp4" for n in range(5)), **times)
    assert set(table.fetch) == {"format_unavailable"}
    assert len(site.asked) == 5


@pytest.mark.parametrize("kind", ["chunked", "badchunk", "truncated", "longer", "reset"])
def test_bodies_that_break_off_are_attempts_and_no_outage(tmp_path, clip, monkeypatch, kind):
    monkeypatch.setattr(fetch, "OUTAGE", 3)
    site = Misbehaving(clip.read_bytes())
    table = fetched(tmp_path, site, *(f"{kind}/{n}.mp4" for n in range(5)))
    assert set(table.fetch) == {"network_transient"}
    assert len(journal(tmp_path / "m")) == 15


@pytest.mark.parametrize(
    ("code", "closed"),
    [(400, False), (404, False), (410, False), (403, True), (429, True), (503, True)],
)
def test_retry_after_closes_a_server_only_where_it_is_about_the_server(
    tmp_path, clip, code, closed
):
    site = Misbehaving(clip.read_bytes())
    site.retry_after = "7200"
    table = fetched(tmp_path, site, f"{code}/a.mp4", "ok/b.mp4", network=tmp_path / "network")
    (host,) = (tmp_path / "network").iterdir()
    assert (host / "refused.json").exists() == closed
    assert table.fetch[0] == ("rate_limited" if closed else "unknown" if code == 400 else "gone")
    if not closed:
        assert table.fetch[1] == "ok"
