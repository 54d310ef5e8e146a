"""The server of the page: searches, media, and one sentence for whatever is wrong."""

import errno
import io
import json
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import av
import pytest
from app_client import JSON, ODD
from app_files import FILM
from PIL import Image

from clip4vla.common.errors import UserError
from clip4vla.search.app import site as site_module
from clip4vla.search.query import Query, find

PICTURE = io.BytesIO()
Image.new("RGB", (64, 48), "green").save(PICTURE, format="PNG")


def test_the_page_is_served_with_its_policy(client):
    for address, start in {
        "/": b"<!doctype html>",
        "/page.css": b":root",
        "/page.js": b"const ",
    }.items():
        answer = client.get(address)
        assert answer.status == 200 and answer.body.startswith(start)
        assert "default-src 'none'" in answer.headers["content-security-policy"]
        assert answer.headers["x-content-type-options"] == "nosniff"


def test_the_page_loads_nothing_from_elsewhere():
    for name in ("page.html", "page.css", "page.js"):
        text = (Path(site_module.__file__).parent / name).read_text()
        assert (
            "http:" not in text.replace("http://www.w3.org/2000/svg", "") and "https:" not in text
        )


def test_the_facts_name_the_model_and_say_what_a_tiny_one_can(client):
    facts = client.get("/api/about").json
    assert facts["files"] == 5 and facts["windows"] == len(client.site.index)
    assert facts["model"].endswith("/model.safetensors")
    assert "tiny model" in facts["notice"]
    assert facts["mixes"] == {"sound_weight": 0.5, "nonverbal_share": 0.5}
    assert 0 < len(facts["samples"]) <= 8 and "score" not in facts["samples"][0]


@pytest.mark.parametrize(
    "mix", [{}, {"sound_weight": 1.0}, {"sound_weight": 0.3, "nonverbal_share": 0.8}]
)
def test_words_find_what_the_command_finds(client, mix):
    answer = client.search(words="  a dog\n barks ", top=5, **mix).json
    wanted = find(client.site.index, Query(text="a dog barks", **mix), top=5)
    assert [hit["row"] for hit in answer["hits"]] == [hit.window.row for hit in wanted]
    for shown, hit in zip(answer["hits"], wanted, strict=True):
        assert (shown["score"], shown["sound"], shown["picture"]) == pytest.approx(
            (hit.score, hit.sound, hit.picture)
        )
        assert shown["path"] == hit.window.path and shown["start"] == hit.window.start


def test_a_window_is_most_like_itself(client):
    row = client.rows("bbb_040.mp4")[1]
    assert client.search(like=row, top=1).json["hits"][0]["row"] == row


def test_words_and_a_window_are_one_query(client):
    row = client.rows("bbb_040.mp4")[1]
    answer = client.search(words="a dog", like=row).json
    wanted = find(client.site.index, Query(text="a dog", like=row), top=12)
    assert [hit["row"] for hit in answer["hits"]] == [hit.window.row for hit in wanted]


@pytest.mark.parametrize("kind", ["audio", "image", "video"])
def test_a_file_finds_what_the_command_finds(client, tmp_path, kind):
    path = tmp_path / "query"
    shutil.copy(client.site.index.media / ODD if kind == "audio" else FILM, path)
    if kind == "image":
        Image.new("RGB", (64, 48), "green").save(path, format="PNG")
    answer = client.upload(
        path.read_bytes(), "/api/search/file?name=a.mp4&words=a+dog&sound_weight=0.4"
    ).json
    wanted = find(client.site.index, Query("a dog", **{kind: path}, sound_weight=0.4), top=12)
    assert [hit["row"] for hit in answer["hits"]] == [hit.window.row for hit in wanted]


def test_nothing_is_left_of_an_upload(client):
    client.upload(FILM.read_bytes())
    client.upload(b"broken")
    assert [
        path.name for path in client.site.folder.iterdir() if path.name.startswith("upload")
    ] == []


def test_odd_searches_are_one_sentence(client):
    assert "no words" in client.search(words=" \n").error
    assert "no words" in client.search().error
    assert "10,000 characters" in client.search(words="x" * 10_000).error
    assert client.search(words="x " * 499).status == 200
    assert "window 77" in client.search(like=77).error
    for asked in (
        {"top": 0},
        {"top": 10**9},
        {"sound_weight": 2},
        {"words": 3},
        {"path": "/etc/passwd"},
    ):
        assert client.search(**{"words": "a dog"} | asked).error.startswith(next(iter(asked)))
    for body in (b"{", b"[]", b'{"words": "a", "sound_weight": NaN}', b"\xff"):
        assert client.ask("POST", "/api/search", body, **JSON).error
    assert "sound_weight" in client.upload(b"", "/api/search/file?name=a&sound_weight=nan").error


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"top": 0}, "top: '0' is not valid: it should be greater than or equal to 1"),
        ({"sound_weight": "x"}, "sound_weight: 'x' is not valid: it should be a valid number"),
        ({"path": "/etc/passwd"}, "path: not known to this server"),
        ([], "request: its body is not a JSON object"),
    ],
)
def test_invalid_requests_are_sentences(client, asked, sentence):
    answer = client.ask("POST", "/api/search", json.dumps(asked), **JSON)
    assert answer.error.startswith(sentence) and "Input" not in answer.error


def test_addresses_that_are_none_are_sentences(client):
    assert client.get("/none").error == "/none: no such address. Fix: open / for the page"
    answer = client.ask("DELETE", "/api/about")
    assert answer.status == 405 and "answers no DELETE requests" in answer.error


def test_heads_are_those_of_the_answers(client):
    row = client.rows("bbb_040.mp4")[0]
    for address in ("/", f"/windows/{row}/file", f"/windows/{row}/thumbnail.jpg", "/api/about"):
        answer, head = client.get(address), client.ask("HEAD", address)
        assert (head.status, head.body) == (200, b"")
        assert head.headers["content-length"] == str(len(answer.body))
        assert head.headers["content-type"] == answer.headers["content-type"]


def test_a_huge_picture_is_to_be_made_smaller(client):
    Image.new("1", (20_000, 10_000)).save(picture := io.BytesIO(), format="PNG")
    answer = client.upload(picture.getvalue(), "/api/search/file?name=sky.png")
    assert answer.error.startswith("sky.png: a picture of more than 178 megapixels. Fix: make it")


def test_a_full_disk_is_one_sentence(client, monkeypatch):
    def full(*given, **named):
        raise OSError(errno.ENOSPC, "No space left on device", "/tmp/upload-x")

    monkeypatch.setattr(site_module.tempfile, "NamedTemporaryFile", full)
    answer = client.upload(PICTURE.getvalue())
    assert answer.status == 507 and "the disk is full. Fix: free some space" in answer.error


@pytest.mark.parametrize(
    "content",
    [b"text", b"", FILM.read_bytes()[:3000], PICTURE.getvalue()[:40], b"RIFF\0\0\0\0WAVEfmt "],
)
def test_broken_uploads_are_one_sentence_with_the_name_of_the_file(client, content):
    answer = client.upload(content, "/api/search/file?name=../../my%20dog.wav")
    assert answer.error.startswith("my dog.wav: ") and str(client.site.folder) not in answer.error


def test_an_upload_that_is_too_large_is_refused(client, monkeypatch):
    monkeypatch.setattr(site_module, "MOST_BYTES", 10_000)
    answer = client.upload(FILM.read_bytes())
    assert answer.status == 413 and "query.bin: larger than" in answer.error


def test_a_file_is_played_in_ranges(client):
    row = client.rows("bbb_040.mp4")[1]
    play = client.get(f"/api/windows/{row}/play").json
    assert play == {"url": f"/windows/{row}/file", "from": 4.0, "to": 8.0, "converted": False}
    content = FILM.read_bytes()
    whole = client.get(play["url"])
    assert (whole.status, whole.body, whole.headers["content-type"]) == (200, content, "video/mp4")
    part = client.get(play["url"], Range="bytes=1000-1999")
    assert (part.status, part.body) == (206, content[1000:2000])
    assert part.headers["content-range"] == f"bytes 1000-1999/{len(content)}"
    assert client.get(play["url"], Range="bytes=-10").body == content[-10:]
    assert client.get(play["url"], Range=f"bytes={len(content)}-").status == 416


@pytest.mark.parametrize("name, converted", [("old.avi", False), ("bbb_040.mp4", True)])
def test_other_formats_are_played_as_mp4(client, name, converted):
    row = client.rows(name)[1]
    play = client.get(f"/api/windows/{row}/play?converted={converted}").json
    assert play == {"url": f"/windows/{row}/clip.mp4", "from": 0, "to": 4.0, "converted": True}
    clip = client.get(play["url"])
    assert clip.headers["content-type"] == "video/mp4"
    with av.open(io.BytesIO(clip.body)) as movie:
        assert {stream.type for stream in movie.streams} == {"video", "audio"}
        assert movie.duration / av.time_base == pytest.approx(4, abs=0.2)
    assert client.get(play["url"], Range="bytes=0-99").body == clip.body[:100]


def test_only_the_last_converted_windows_are_kept(client, monkeypatch):
    monkeypatch.setattr(site_module, "CLIPS", 1)
    rows = client.rows("old.avi")[:2]
    bodies = [client.get(f"/windows/{row}/clip.mp4").body for row in rows]
    assert [path.name for path in client.site.folder.glob("*.mp4")] == [f"{rows[1]}.mp4"]
    assert len(client.get(f"/windows/{rows[0]}/clip.mp4").body) == len(bodies[0])


def test_pictures_of_a_window(client):
    row = client.rows("bbb_040.mp4")[0]
    for name, format, size in [
        ("thumbnail.jpg", "JPEG", None),
        ("picture.jpg", "JPEG", None),
        ("spectrogram.png", "PNG", (640, 96)),
    ]:
        answer = client.get(f"/windows/{row}/{name}")
        image = Image.open(io.BytesIO(answer.body))
        assert image.format == format and size in (None, image.size)
    silent = client.rows("bbb_030.mp4")[0]
    assert (
        "bbb_030.mp4: cannot be decoded" in client.get(f"/windows/{silent}/spectrogram.png").error
    )


@pytest.mark.parametrize(
    "row", ["-1", "999999", "9" * 30, "1e3", "abc", "%00", "0x1", "../0", "1;2"]
)
@pytest.mark.parametrize("what", ["file", "clip.mp4", "picture.jpg"])
def test_a_row_that_is_none_is_one_sentence(client, row, what):
    assert client.get(f"/windows/{row}/{what}").error


@pytest.mark.parametrize(
    "address",
    [
        *("/../../../../etc/passwd", "/windows/../../../etc/passwd", "/page.css/../server.py"),
        *("/windows/0/..%2f..%2f..%2fetc%2fpasswd", "/%2e%2e/%2e%2e/etc/passwd", "//etc/passwd"),
        *("/windows/0/file/../../../../etc/passwd", "/server.py", "/docs", "/openapi.json"),
    ],
)
def test_a_path_opens_no_file(client, address):
    answer = client.get(address)
    assert answer.status in (404, 422) and answer.error and b"root:" not in answer.body


def test_foreign_pages_are_refused(client):
    assert client.get("/api/about", Host="evil.example").status == 403
    assert client.get("/", Host="evil.example:8350").status == 403
    answer = client.ask(
        "POST", "/api/search", json.dumps({"words": "a"}), Origin="http://evil.example"
    )
    assert answer.status == 403 and "another page" in answer.error


def test_an_upload_needs_no_form(client):
    """A form of another page cannot send JSON, so that nothing but the page itself searches."""
    answer = client.ask(
        "POST", "/api/search", "words=a", **{"Content-Type": "application/x-www-form-urlencoded"}
    )
    assert answer.status == 422 and answer.error


@pytest.mark.parametrize("change", ["vanished", "changed", "link"])
def test_a_file_that_is_not_as_it_was_is_one_sentence(own, change):
    client, clips = own
    row = client.rows("bbb_040.mp4")[0]
    path = clips / "bbb_040.mp4"
    path.unlink()
    if change == "changed":
        path.write_bytes(b"other content")
    elif change == "link":
        path.symlink_to("/etc/passwd")
    for address in (
        "api/windows/{}/play",
        "windows/{}/file",
        "windows/{}/clip.mp4",
        "windows/{}/picture.jpg",
    ):
        answer = client.get("/" + address.format(row))
        assert "bbb_040.mp4: the file " in answer.error and b"root:" not in answer.body
    assert client.get(f"/windows/{row}/thumbnail.jpg").status == 200
    assert client.search(words="a dog").status == 200


def test_a_file_that_vanishes_while_it_is_played_ends_its_own_request_alone(own):
    client, clips = own
    row = client.rows("bbb_040.mp4")[0]
    assert client.get(f"/windows/{row}/file", Range="bytes=0-9").status == 206
    os.rename(clips / "bbb_040.mp4", clips / "gone.mp4")
    assert client.get(f"/windows/{row}/file", Range="bytes=10-19").status == 410
    assert client.get(f"/windows/{client.rows('old.avi')[0]}/clip.mp4").status == 200


def test_several_users_get_their_own_answers_one_after_another(client, monkeypatch):
    at_once, most = [0], [0]

    def slow(index, query, top):
        at_once[0] += 1
        most[0] = max(most[0], at_once[0])
        time.sleep(0.05)
        at_once[0] -= 1
        return find(index, query, top=top)

    monkeypatch.setattr(site_module, "find", slow)
    rows = client.rows("bbb_040.mp4") + client.rows("old.avi")
    found = {}

    def user(row):
        found[row] = client.search(like=row, top=1).json["hits"][0]["row"]

    threads = [threading.Thread(target=user, args=(row,)) for row in rows]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {row: row for row in rows} and most[0] == 1 < len(rows)


def test_too_many_searches_at_once_are_refused(client, monkeypatch):
    monkeypatch.setattr(site_module, "WAITING", 1)
    go, answers = threading.Event(), []

    def waiting(index, query, top):
        go.wait(60)
        return []

    monkeypatch.setattr(site_module, "find", waiting)
    threads = [
        threading.Thread(target=lambda: answers.append(client.search(words="a dog")))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    while len(answers) < 2:
        time.sleep(0.01)
    go.set()
    for thread in threads:
        thread.join()
    refused = [answer for answer in answers if answer.status != 200]
    assert [answer.status for answer in refused] == [503, 503] and "too many" in refused[0].error


def test_a_search_that_nobody_waits_for_is_left_out(client, monkeypatch):
    go, asked = threading.Event(), []

    def waiting(index, query, top):
        asked.append(query.text)
        go.wait(60)
        return []

    monkeypatch.setattr(site_module, "find", waiting)
    first = threading.Thread(target=client.search, kwargs={"words": "first"})
    first.start()
    while not asked:
        time.sleep(0.01)
    body = json.dumps({"words": "second"})
    with socket.create_connection(("127.0.0.1", client.port)) as given_up:
        head = f"POST /api/search HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n"
        given_up.sendall(f"{head}Content-Type: application/json\r\n\r\n{body}".encode())
        while client.site._searches < 2:
            time.sleep(0.01)
    time.sleep(0.2)  # until the server has noticed
    go.set()
    first.join()
    assert client.search(words="third").status == 200
    assert asked == ["first", "third"]


@pytest.mark.parametrize(
    "error, status",
    [(UserError("query: odd\nvery odd. Fix: none"), 400), (KeyError("secret"), 500)],
)
def test_errors_of_the_search_are_one_sentence(client, monkeypatch, error, status):
    def failing(index, query, top):
        raise error

    monkeypatch.setattr(site_module, "find", failing)
    answer = client.search(words="a dog")
    assert answer.status == status and answer.error and "secret" not in answer.error
