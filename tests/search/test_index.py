"""`clip4vla index`: what is in an index, and that nothing is lost or done twice."""

import os
import shutil

import numpy as np
import pytest
from embed_files import DEMO, write_tiny
from index_files import CLIPS, content, fill, indexed, opened

from clip4vla.cli.main import main
from clip4vla.common.errors import UserError
from clip4vla.search import build as building
from clip4vla.search.index import Index
from clip4vla.search.store import Store
from clip4vla.search.windows import Cut, pieces_of


@pytest.fixture(scope="module")
def whole(weights, tmp_path_factory):
    """The index of a folder that nothing has interrupted."""
    folder = fill(tmp_path_factory.mktemp("whole") / "in")
    return opened(indexed(folder, weights))


@pytest.fixture
def copied(whole, tmp_path):
    """A copy of this folder and of its index, for a test to change."""
    folder = tmp_path / "in"
    shutil.copytree(whole.media, folder)  # copies times, too
    shutil.copytree(whole.folder, tmp_path / "in.index")
    file = tmp_path / "in.index" / "index.json"
    file.write_text(file.read_text().replace(str(whole.media), str(folder)))
    return folder


def assert_same(index, expected, but=()):
    mine, theirs = content(index), content(expected)
    assert set(mine) == {key for key in theirs if key[0] not in but}
    for key, row in mine.items():
        for name in ("vision", "audio"):
            one, other = row[name], theirs[key][name]
            assert (one is None) == (other is None)
            assert one is None or np.allclose(one, other, atol=1e-5)
        assert all(row[name] == theirs[key][name] for name in ("start", "end", "has_sound"))


def test_an_index_holds_each_window_once_with_its_vectors(whole, model):
    rows = content(whole)
    assert {path for path, _ in rows} == set(CLIPS)
    key = ('more/it\'s [a] "ünï"\n%20.mp4', 1)
    assert (rows[key]["start"], rows[key]["end"]) == (2.0, 6.0)
    assert rows[("-no sound.mp4", 0)]["audio"] is None
    assert not rows[("-no sound.mp4", 0)]["has_sound"] and rows[key]["has_sound"]
    piece = list(pieces_of(DEMO / "bbb_040.mp4", model.settings, Cut(4, 2), ("vision", "audio")))[1]
    vectors, _ = whole.encoder.features([piece])
    assert np.allclose(rows[key]["vision"], vectors["vision"][0], atol=1e-5)
    assert np.allclose(rows[key]["audio"], vectors["audio"][0], atol=1e-5)
    assert np.linalg.norm(rows[key]["audio"]) == pytest.approx(1, abs=1e-5)
    window = whole.windows([rows[key]["row"]])[0]
    assert (window.path, window.start) == (key[0], 2.0)
    assert whole.file_of(window) == whole.media / key[0]


def test_a_short_file_has_the_vectors_of_load(model, weights, tmp_path):
    index = opened(indexed(fill(tmp_path / "in"), weights, window=60.0, hop=None))
    (row,) = (row for (path, _), row in content(index).items() if path == "dog.mp4")
    path = DEMO / "say_dog.mp4"
    assert np.allclose(row["vision"], model.embed_video([path])[0], atol=1e-5)
    assert np.allclose(row["audio"], model.embed_audio([path])[0], atol=1e-5)


def test_another_run_embeds_nothing(copied, whole, monkeypatch):
    monkeypatch.setattr(building, "pieces_of", None)
    assert indexed(copied).embedded == 0
    (copied / "dog.mp4").touch()  # another time, the same content
    report = indexed(copied)
    assert report.embedded == 0 and report.windows == len(content(whole))


def test_changed_moved_new_and_vanished_files(copied, whole):
    os.rename(copied / "dog.mp4", copied / "more" / "hound.mp4")
    shutil.copy(DEMO / "bbb_040.mp4", copied / "-no sound.mp4")
    before = {key: row["row"] for key, row in content(whole).items()}
    report = indexed(copied)
    rows = content(opened(report))
    moved = [row for (path, _), row in rows.items() if path == "more/hound.mp4"]
    assert {row["row"] for row in moved} == {n for (p, _), n in before.items() if p == "dog.mp4"}
    changed = {row["row"] for (path, _), row in rows.items() if path == "-no sound.mp4"}
    assert report.embedded == len(changed) and not changed & set(before.values())
    assert all(rows[("-no sound.mp4", n)]["has_sound"] for n in range(report.embedded))
    (copied / "more" / "hound.mp4").unlink()
    assert {path for path, _ in content(opened(indexed(copied)))} == set(CLIPS) - {"dog.mp4"}


class Killed(BaseException):
    """What no handler of errors catches, as `kill -9`."""


@pytest.mark.parametrize("point", ["add_windows", "write_files"])
@pytest.mark.parametrize("after", [False, True])
def test_a_run_that_is_killed_goes_on(point, after, weights, whole, tmp_path, monkeypatch):
    folder = fill(tmp_path / "in")
    monkeypatch.setattr(building, "COMMIT_ROWS", 2)
    real, calls = getattr(Store, point), []

    def dies(self, *rows):
        calls.append(point)
        if not after and len(calls) == 3:
            raise Killed
        real(self, *rows)
        if after and len(calls) == 3:
            raise Killed

    with monkeypatch.context() as patched:
        patched.setattr(Store, point, dies)
        with pytest.raises(Killed):
            indexed(folder, weights, batch_size=1)
    done = Store(tmp_path / "in.index").windows.count_rows()
    assert 0 < done < len(content(whole))
    report = indexed(folder)
    assert report.embedded == report.windows - done, "nothing is done twice"
    assert_same(opened(report), whole)


def test_ctrl_c_says_that_the_run_resumes(weights, whole, tmp_path, monkeypatch, capsys):
    folder, real = fill(tmp_path / "in"), building.isolated_each

    def interrupted(*given, **named):
        for number, item in enumerate(real(*given, **named)):
            if number == 3:
                raise KeyboardInterrupt
            yield item

    monkeypatch.setattr(building, "COMMIT_ROWS", 1)
    with monkeypatch.context() as patched:
        patched.setattr(building, "isolated_each", interrupted)
        given = ["--checkpoint", weights, "--window", 4, "--hop", 2, "--batch-size", 1]
        with pytest.raises(SystemExit) as ended:
            main([*map(str, ["index", folder, *given])])
    *_, line = capsys.readouterr().err.splitlines()
    assert ended.value.code == 130 and line.endswith(
        "in.index: interrupted; the same command resumes"
    )
    report = indexed(folder)
    assert 0 < report.embedded < report.windows, "what was committed is not made again"
    assert_same(opened(report), whole)


def test_broken_files_are_named_and_the_others_indexed(weights, whole, tmp_path, capsys):
    folder = fill(tmp_path / "in")
    (folder / "cut.mp4").write_bytes((folder / "dog.mp4").read_bytes()[:5000])
    (folder / "empty.wav").touch()
    (folder / "notes.txt").write_text("no media")
    (folder / ".hidden.mp4").touch()
    report = indexed(folder, weights)
    assert set(report.broken) == {"cut.mp4", "empty.wav"} and report.done == 3
    assert_same(opened(report), whole)
    log = capsys.readouterr().err
    assert "cut.mp4: pictures: Invalid data" in log and "2 broken, 3 done" in log
    assert indexed(folder).broken == report.broken, "named again, though not tried again"
    (folder / "cut.mp4").unlink()
    assert set(indexed(folder).broken) == {"empty.wav"}


def test_a_file_that_kills_its_decoder_is_tried_again_on_request(weights, tmp_path, monkeypatch):
    folder, real = fill(tmp_path / "in"), building._decode

    def crashes(task, **given):
        if task[0] == "dog.mp4":
            os._exit(1)
        yield from real(task, **given)

    with monkeypatch.context() as patched:
        patched.setattr(building, "_decode", crashes)
        assert indexed(folder, weights).broken == {"dog.mp4": "the process died"}
    assert set(indexed(folder).broken) == {"dog.mp4"}
    assert indexed(folder, retry=True).broken == {}


def test_links_never_lead_out_of_the_folder(weights, tmp_path, capsys):
    folder, secret = fill(tmp_path / "in"), tmp_path / "secret"
    shutil.copytree(folder, secret)
    (folder / "file.mp4").symlink_to(secret / "dog.mp4")
    (folder / "folder").symlink_to(secret)
    report = indexed(folder, weights)
    index, log = opened(report), capsys.readouterr().err
    assert {path for path, _ in content(index)} == set(CLIPS)
    assert "file.mp4: skipped: a link" in log and "folder: skipped: a link to a folder" in log
    (row,) = (
        row["row"] for (path, n), row in content(index).items() if (path, n) == ("dog.mp4", 0)
    )
    (window,) = index.windows([row])
    (folder / "dog.mp4").unlink()
    (folder / "dog.mp4").symlink_to(secret / "dog.mp4")
    with pytest.raises(UserError, match=r"no longer in .*Fix: run `clip4vla index`"):
        index.file_of(window)


def test_an_index_is_of_one_folder_checkpoint_and_cut(copied, tmp_path, weights):
    other = write_tiny(tmp_path / "other.safetensors", model={"type_token": "none"})
    for options, why in (
        ({"checkpoint": other}, "another checkpoint"),
        ({"window": 5.0, "hop": None}, "another --window"),
        ({"hop": 1.0}, "another --hop"),
        ({"both_tokens": True}, "another --both-tokens"),
    ):
        with pytest.raises(UserError, match=f"made with {why} .*Fix: leave {why[8:]} out"):
            indexed(copied, **options)
    fill(tmp_path / "second")
    with pytest.raises(UserError, match=r"the index of .*/in. Fix: give another --out"):
        indexed(tmp_path / "second", weights, out=tmp_path / "in.index")
    moved = copied.rename(tmp_path / "moved")
    report = indexed(moved, out=tmp_path / "in.index")
    assert report.embedded == 0 and opened(report).media == moved


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["in"], "not indexed yet, and --checkpoint is missing. Fix: give"),
        (["in", "--checkpoint", "none.safetensors"], "none.safetensors: no such file. Fix: name"),
        (["in", "--out", "in"], "is the folder of the clips"),
        (["in", "--out", "."], "not empty, and not an index"),
        (["in", "--checkpoint", "open_clip:nonsense"], "open_clip has no 'nonsense'. Fix: choose"),
    ],
)
def test_mistakes_are_one_line(arguments, why, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in").mkdir()
    with pytest.raises(SystemExit) as ended:
        main(["index", *arguments])
    assert ended.value.code == 78
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("clip4vla: ") and why in line and "Fix: " in line


@pytest.mark.parametrize("odd", ["folder", "--out", "--checkpoint"])
def test_names_that_are_not_utf8_are_one_line(odd, weights, tmp_path, capsys):
    name = os.fsdecode(os.fsencode(tmp_path) + b"/caf\xe9")
    given = {"folder": fill(tmp_path / "in"), "--checkpoint": weights, "--out": tmp_path / "x"}
    if odd != "--out":
        (shutil.copytree if odd == "folder" else shutil.copy)(given[odd], name)
    given[odd] = name
    folder = given.pop("folder")
    options = [part for pair in given.items() for part in pair]
    with pytest.raises(SystemExit) as ended:
        main([*map(str, ["index", folder, *options, "--device", "cpu"])])
    *_, line = capsys.readouterr().err.splitlines()
    with pytest.raises(UserError, match="not valid UTF-8"):
        Index(name)
    assert ended.value.code == 78 and "caf\\udce9: its name is not valid UTF-8. Fix: " in line


def test_a_folder_without_a_file_that_plays(weights, tmp_path):
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "a.mp4").touch()
    with pytest.raises(UserError, match="no file could be indexed. Fix: give a folder"):
        indexed(tmp_path / "in", weights)
