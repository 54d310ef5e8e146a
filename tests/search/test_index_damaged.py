"""Indexes that lack files, are damaged, or are made by two runs at once: never wrong, never silent."""

import errno
import json
import os
import shutil
import threading
from contextlib import nullcontext

import pytest
from embed_files import write_tiny
from index_files import content, fill, indexed, opened

from clip4vla.cli.main import main
from clip4vla.common.errors import UserError
from clip4vla.common.files import sole_owner
from clip4vla.search import build as building
from clip4vla.search.query import Query, find
from clip4vla.search.store import Store

ONE = {"dog.mp4": "say_dog"}


@pytest.fixture
def index(weights, tmp_path):
    """The folder of an index of one clip; the clips are in `in` beside it."""
    return indexed(fill(tmp_path / "in", ONE), weights).index


def refused(capsys, *arguments):
    """The one line with which a command ends."""
    with pytest.raises(SystemExit) as ended:
        main([*map(str, arguments), "--device", "cpu"])
    *_, line = capsys.readouterr().err.splitlines()
    assert ended.value.code == 78 and "Fix: " in line
    return line


def test_a_run_that_waited_for_another_one_sees_what_it_made(weights, tmp_path, monkeypatch):
    folder, out = fill(tmp_path / "in", ONE), tmp_path / "in.index"
    other = write_tiny(tmp_path / "other.safetensors", model={"type_token": "none"})
    waiting, ends = threading.Event(), []

    def second():
        with pytest.raises(UserError, match=r"made with another checkpoint .*Fix: leave"):
            indexed(folder, other)
        ends.append("refused")

    def noted(*given, **named):
        waiting.set()
        return sole_owner(*given, **named)

    with sole_owner(out):
        monkeypatch.setattr(building, "sole_owner", noted)
        late = threading.Thread(target=second)
        late.start()
        assert waiting.wait(60), "both began before the index existed"
        monkeypatch.setattr(building, "sole_owner", lambda out: nullcontext())  # it is held here
        expected = content(opened(indexed(folder, weights)))
    late.join(60)
    assert ends == ["refused"]
    assert content(opened(indexed(folder))).keys() == expected.keys()


def test_windows_without_their_files_are_not_indexed_twice(index, tmp_path, capsys):
    shutil.rmtree(index / "files.lance")
    for command in (["search", index, "dog"], ["index", tmp_path / "in", "--out", index]):
        line = refused(capsys, *command)
        assert "corrupt index: its table of files is missing. Fix: delete this folder" in line
    assert not (index / "files.lance").exists(), "a search writes nothing"


def test_lost_windows_are_made_again(index, tmp_path, capsys):
    before = content(opened(indexed(tmp_path / "in"))).keys()
    shutil.rmtree(index / "windows.lance")
    assert "an empty index. Fix: run `clip4vla index`" in refused(capsys, "search", index, "dog")
    report = indexed(tmp_path / "in")
    assert report.embedded == report.windows == len(before)
    assert content(opened(report)).keys() == before


def test_a_folder_whose_files_are_all_gone_keeps_its_index(index, tmp_path, capsys):
    before = content(opened(indexed(tmp_path / "in"))).keys()
    (tmp_path / "in" / "dog.mp4").rename(tmp_path / "dog.mp4")  # as a disk that is not mounted
    line = refused(capsys, "index", tmp_path / "in")
    assert "no media files, and its index has 1. Fix: mount or restore the folder" in line
    (tmp_path / "dog.mp4").rename(tmp_path / "in" / "dog.mp4")
    report = indexed(tmp_path / "in")
    assert report.embedded == 0 and content(opened(report)).keys() == before


def test_an_index_without_windows_finds_nothing(index, capsys):
    emptied = opened(indexed(index.with_suffix("")))
    emptied.table.delete("true")
    assert find(emptied, Query(text="a dog")) == [] == emptied.windows([])
    assert "an empty index. Fix: run `clip4vla index`" in refused(capsys, "search", index, "dog")


@pytest.mark.parametrize("table", ["windows", "files"])
@pytest.mark.parametrize(("part", "size"), [("data", 100), ("data", None), ("_versions", 20)])
def test_damaged_tables_are_one_line(index, tmp_path, capsys, table, part, size):
    for file in (index / f"{table}.lance" / part).iterdir():
        if size is None:
            file.unlink()
        else:
            os.truncate(file, size)
    line = f"{index}: corrupt index: "
    assert line in refused(capsys, "index", tmp_path / "in")
    if (table, part) != ("files", "data"):  # a search reads no file of this
        assert line in refused(capsys, "search", index, "dog")


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "the file system is")]
)
def test_errors_of_the_disk_are_no_damage(index, tmp_path, capsys, monkeypatch, number, words):
    def fails(self):
        raise RuntimeError(f"lance error: IO: {os.strerror(number)} (os error {number}), lance.rs")

    monkeypatch.setattr(Store, "check", fails)
    assert f"{index}: {words}" in refused(capsys, "index", tmp_path / "in")


@pytest.mark.parametrize("changed", [{"hop": 0.0}, {"window": -1}])
def test_a_description_that_was_edited_wrongly(index, changed, capsys):
    file = index / "index.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changed))
    assert "index.json: corrupt. Fix: " in refused(capsys, "search", index, "dog")


@pytest.mark.parametrize("option", ["--window", "--hop"])
def test_no_window_is_of_no_length(weights, tmp_path, option, capsys):
    fill(tmp_path / "in", ONE)
    line = refused(capsys, "index", tmp_path / "in", "--checkpoint", weights, option, "0")
    assert f"{option}: 0 seconds is not valid" in line


def test_places_that_hold_no_index(weights, tmp_path, capsys):
    (tmp_path / "file").touch()
    fill(tmp_path / "in", ONE)
    given = ["index", tmp_path / "in", "--checkpoint", weights, "--out", tmp_path / "file"]
    assert "file: a file. Fix: name a new folder" in refused(capsys, *given)
    assert "Fix: give --out" in refused(capsys, "index", "/", "--checkpoint", weights)


def test_a_file_that_moves_on_after_a_kill_leaves_no_windows_behind(index, tmp_path, monkeypatch):
    folder = tmp_path / "in"
    before = len(content(opened(indexed(folder))))
    real = Store.rename_windows

    def dies(self, old, new):
        real(self, old, new)
        raise KeyboardInterrupt

    (folder / "dog.mp4").rename(folder / "second.mp4")
    with monkeypatch.context() as patched:
        patched.setattr(Store, "rename_windows", dies)
        with pytest.raises(KeyboardInterrupt):
            indexed(folder)
    (folder / "second.mp4").rename(folder / "third.mp4")
    rows = content(opened(indexed(folder)))
    assert len(rows) == before and {path for path, _ in rows} == {"third.mp4"}
