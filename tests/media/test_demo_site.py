"""The demo's web site, and clips cut from its film through yt-dlp."""

import http.client
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.datasets.plan import plan
from clip4vla.media.decode import decode_audio, decode_frames
from clip4vla.media.fetch import fetch_shard
from clip4vla.media.probe import probe_file

DEMO = Path(__file__).parents[2] / "demo"
_spec = importlib.util.spec_from_file_location("demo_serve", DEMO / "serve.py")
serve = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(serve)
demo_world = sys.modules["demo_world"]


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    with serve.DemoSite(tmp_path_factory.mktemp("site"), 0) as running:
        yield running


def ask(site, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    connection.request(method, path, headers=headers)
    response = connection.getresponse()
    body = response.read()
    connection.close()
    return response.status, body, response.headers


def test_whole_files_heads_and_ranges(site):
    content = (DEMO / "clips" / "tp_frog.mp4").read_bytes()
    assert ask(site, "/clips/tp_frog.mp4")[:2] == (200, content)
    status, body, headers = ask(site, "/clips/tp_frog.mp4", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", str(len(content)))
    for asked, part in [
        ("bytes=5-9", content[5:10]),
        ("bytes=5-", content[5:]),
        ("bytes=-7", content[-7:]),
        ("bytes=5-99999999", content[5:]),
    ]:
        status, body, headers = ask(site, "/clips/tp_frog.mp4", Range=asked)
        assert (status, body) == (206, part)
        assert headers["Content-Range"].endswith(f"/{len(content)}")
    assert ask(site, "/clips/tp_frog.mp4", Range="bytes=99999999-")[0] == 416
    assert ask(site, "/clips/tp_frog.mp4", Range="lines=1-2")[0] == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/clips/lost_owl.mp4", 404), ("/clips/lost_train.mp4", 410), ("/clips/lost_whale.mp4", 403),
        ("/clips.tsv", 404), ("/", 404), ("/clips/../clips.tsv", 404), ("/clips/", 404),
        ("/clips/%2e%2e/clips.tsv", 404), ("//etc/passwd", 404), ("/clips/none.mp4", 404),
        ("/world/world_256.mp4", 404), ("/world/../world.csv", 404), ("/world.csv", 404),
        ("/../../../../etc/passwd", 404), ("http://x/clips/tp_frog.mp4", 404),
    ],
)  # fmt: skip
def test_missing_and_forbidden_paths(site, path, status):
    assert ask(site, path)[:2] == (status, b"")


def test_the_world_is_made_when_it_is_asked_for(site, tmp_path):
    demo_world.write_clip(37, tmp_path / "clip.mp4")
    content = (tmp_path / "clip.mp4").read_bytes()
    assert ask(site, "/world/world_037.mp4")[:2] == (200, content)
    samples, rate = decode_audio(tmp_path / "clip.mp4")
    assert 1.5 < samples.shape[-1] / rate < 1.8
    (frame,) = decode_frames(tmp_path / "clip.mp4", 1.0, 1.0)
    assert frame.shape == (224, 224, 3)


def test_its_table_names_every_kind_once_in_the_test_split():
    assert (DEMO / "world.csv").read_text() == demo_world.table()
    test = [n for n in range(demo_world.CLIPS) if demo_world.split_of(n) == "test"]
    assert len({demo_world.colour_and_thing(n) for n in test}) == len(test) == demo_world.KINDS


def test_a_port_in_use_is_one_line(site, tmp_path):
    (tmp_path / "film.mp4").write_bytes(site.film.read_bytes())
    with pytest.raises(UserError, match=rf"^port {site.port} of 127.0.0.1 .*choose another"):
        serve.DemoSite(tmp_path, site.port)


def test_the_film_is_made_of_whole_clips_and_equal_each_time(site, tmp_path):
    serve.join_film(
        [DEMO / "clips" / f"{clip}.mp4" for clip in serve.FILM_CLIPS], tmp_path / "again.mp4"
    )
    assert (tmp_path / "again.mp4").read_bytes() == site.film.read_bytes()
    probe = probe_file(site.film)
    assert (probe.video, probe.audio) == ("ok", "ok")
    assert probe.duration == pytest.approx(10 * len(serve.FILM_CLIPS), abs=0.2)


def test_cuts_from_the_film_equal_the_clips(site, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", "")  # no other ffmpeg is needed
    dataset = Dataset(reader="demo", annotations=DEMO, source="http", url=site.url + "/{file}")
    clips, _ = plan("demo", dataset)
    chosen = clips[(clips.source_id == "film") | clips.clip_id.str.startswith("lost_")]
    table = fetch_shard(chosen, dataset, tmp_path / "a").set_index("clip_id")
    again = fetch_shard(chosen, dataset, tmp_path / "b").set_index("clip_id")
    assert table.drop(columns="path").equals(again.drop(columns="path"))
    assert table.fetch.value_counts().to_dict() == {"ok": 6, "gone": 3, "rate_limited": 1}
    for clip_id, path in table.path[table.fetch == "ok"].items():
        original = DEMO / "clips" / f"{clip_id}.mp4"
        ours = list(decode_frames(path, 1, 10.0))
        theirs = list(decode_frames(original, 1))
        assert len(ours) == len(theirs) == 10
        assert all(np.array_equal(a, b) for a, b in zip(ours, theirs, strict=True))
        _same_sound(decode_audio(path), decode_audio(original))


def _same_sound(ours, theirs):
    assert ours[1] == theirs[1] == 16000
    a, b = ours[0][0], theirs[0][0]
    assert len(a) == pytest.approx(len(b), abs=0.15 * 16000)
    piece = a[20000:52000]
    lags = [np.corrcoef(piece, b[20000 + k : 52000 + k])[0, 1] for k in range(-1024, 1025, 64)]
    assert max(lags) > 0.99
