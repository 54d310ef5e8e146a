"""`clip4vla embed` from the command line: tables, names of what failed, resuming, mistakes."""

import os
import re
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from embed_files import CLOSE, DEMO, PATHS, ROOT, run

from clip4vla.media.decode import decode_audio
from clip4vla.search.files import NAMED, media_files
from clip4vla.search.table import read_description
from clip4vla.stages import embed as stage


@pytest.mark.parametrize("threads", [1, 2])
def test_a_folder_becomes_a_table(weights, model, folder, tmp_path, capsys, threads):
    out = tmp_path / "audio.parquet"
    assert run("audio", weights, folder, "--out", out, "--threads", threads) == 0
    table = pd.read_parquet(out)
    assert table.columns.tolist() == ["input", "start", "end", "status", "detail", "vector"]
    assert table.input.tolist() == [str(folder / n) for n in ("b.mp4", "c.mp4", "more/a.anything")]
    assert table.status.tolist() == ["ok", "decode_error", "no_audio_stream"]
    assert np.allclose(np.stack(table.vector[[0, 2]]), model.embed_audio(PATHS[::2]), **CLOSE)
    assert table.vector[1] is None and table.detail[1]
    assert "3 rows of 3 inputs, 1 decode_error, 1 no_audio_stream" in capsys.readouterr().err
    about = read_description(out)
    assert about["checkpoint"]["file"] == "model.safetensors" and about["dim"] == 64
    assert about["settings"]["inputs"]["max_frames"] == 3
    assert sorted(p.name for p in tmp_path.iterdir()) == ["audio.parquet", "in"]


@pytest.mark.parametrize("kind", ["audio", "video"])
def test_what_cannot_be_embedded_is_named_and_nothing_at_all_is_a_failure(
    weights, tmp_path, capsys, kind
):
    notes, out = tmp_path / "notes.txt", tmp_path / "out.npz"
    notes.write_text("not media")
    assert run(kind, weights, notes, PATHS[1], "--out", out) == 0
    assert capsys.readouterr().err.count(f"{notes}: ") == 1
    assert run(kind, weights, notes, "--out", out) == 78
    said = capsys.readouterr().err
    assert f"{notes}: " in said and f"clip4vla: {out}: no input could be embedded" in said
    assert np.load(out)["status"].tolist() == ["decode_error"]
    for number in range(NAMED + 2):
        (tmp_path / f"{number}.txt").write_text("no")
    many = sorted(tmp_path.glob("*.txt"))
    assert run(kind, weights, *many, "--out", out) == 78
    assert "and 3 more: see `status` in " in capsys.readouterr().err
    silent = run(kind, weights, PATHS[2], "--out", out)
    assert silent == 0 and "could be embedded" not in capsys.readouterr().err


def test_texts_that_are_all_empty_are_a_failure(weights, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("\n \n")
    assert run("text", weights, tmp_path / "a.txt", "--out", tmp_path / "t.npz") == 78
    assert "Fix: give texts" in capsys.readouterr().err


def test_an_npz_needs_no_pickle(weights, model, folder, tmp_path):
    out = tmp_path / "video.npz"
    assert run("video", weights, folder, PATHS[1], "--out", out) == 0
    with np.load(out, allow_pickle=False) as arrays:
        assert arrays["status"].tolist() == ["ok", "decode_error", "ok", "ok"]
        assert arrays["vectors"].dtype == np.float32
        assert np.isnan(arrays["vectors"][1]).all()
        expected = model.embed_video([PATHS[i] for i in (0, 2, 1)])
        assert np.allclose(arrays["vectors"][[0, 2, 3]], expected, **CLOSE)
    assert read_description(out)["kind"] == "video"


def test_texts_come_from_lines_and_columns(weights, model, tmp_path, capsys):
    (tmp_path / "a.txt").write_text("a dog\n\nzwei Hündchen\n", encoding="utf-8")
    (tmp_path / "b.csv").write_text('id,caption\n1,"a bull, or two"\n2,nan\n')
    out = tmp_path / "text.npz"
    assert run("text", weights, tmp_path / "a.txt", tmp_path / "b.csv", "--out", out) == 0
    with np.load(out) as arrays:
        sentences = arrays["input"].tolist()
        assert sentences == ["a dog", "", "zwei Hündchen", "a bull, or two", "nan"]
        assert arrays["status"].tolist() == ["ok", "empty", "ok", "ok", "ok"]
        expected = model.embed_text([s for s in sentences if s])
        assert np.allclose(arrays["vectors"][[0, 2, 3, 4]], expected, **CLOSE)
    assert run("text", weights, tmp_path / "b.csv", "--column", "words", "--out", out) == 78
    message = "b.csv: no column words. Fix: pass --column with one of id, caption"
    assert message in capsys.readouterr().err


def test_windows_and_segments_have_times(weights, tmp_path):
    """bbb_040 lasts 10 s; the tiny checkpoint hears 2 segments of 1.792 s and sees 3 frames."""
    tables = {}
    for kind in ("audio", "video"):
        for name, options in {"whole": [], "none": ["--pool", "none"], "every": ["--every", "4"],
                              "both": ["--every", "4", "--pool", "none"]}.items():  # fmt: skip
            out = tmp_path / f"{kind}-{name}.parquet"
            assert run(kind, weights, PATHS[1], "--out", out, *options) == 0
            tables[kind, name] = pd.read_parquet(out)[["start", "end"]].to_numpy()
    waveform, rate = decode_audio(PATHS[1])
    seconds = waveform.shape[1] / rate
    assert np.allclose(tables["audio", "whole"], [[0, seconds]])
    assert np.allclose(tables["audio", "every"], [[0, 4], [4, 8], [8, seconds]])
    segment = 1.792
    assert np.allclose(
        tables["audio", "none"], [[2 * segment, 3 * segment], [3 * segment, 4 * segment]]
    )
    assert np.allclose(
        tables["audio", "both"][:3], [[0, segment], [segment, 2 * segment], [4, 4 + segment]]
    )
    assert tables["audio", "both"][-1, 1] == pytest.approx(seconds)
    assert tables["video", "every"].tolist()[:2] == [[0, 4], [4, 8]]
    assert tables["video", "none"].tolist()[0] == [0, 1] and len(tables["video", "none"]) == 3
    assert tables["video", "both"].tolist()[3] == [4, 5]


def test_skipped_files_of_a_folder_are_listed(folder, capsys, monkeypatch):
    """Looping and dead links, links to folders, closed folders, pipes, and files of others."""
    (folder / "loop.mp4").symlink_to("loop.mp4")
    (folder / "dead.mp4").symlink_to("nowhere")
    (folder / "again").symlink_to(folder)
    os.mkfifo(folder / "pipe.mp4")
    (folder / "closed").mkdir()
    (folder / "mine").write_bytes(PATHS[1].read_bytes())
    scandir, access = os.scandir, os.access

    def refuse(path):
        if str(path).endswith("closed"):  # root may read everything
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    monkeypatch.setattr(os, "access", lambda p, how: "mine" not in str(p) and access(p, how))
    found = [path.name for path in media_files([folder])]
    assert found == ["b.mp4", "c.mp4", "a.anything"]
    said = capsys.readouterr().err
    for name, why in {
        "loop.mp4": "Too many levels of symbolic links", "dead.mp4": "No such file or directory",
        "again": "a link to a folder", "pipe.mp4": "not a regular file",
        "closed": "Permission denied", "mine": "Permission denied",
    }.items():  # fmt: skip
        assert f"{folder / name}: skipped: {why}" in said
    assert "notes.txt" not in said and ".hidden" not in said


def test_an_interrupted_run_goes_on(weights, folder, tmp_path, monkeypatch):
    monkeypatch.setattr(stage, "FILES", 1)
    out, real, seen = tmp_path / "audio.npz", stage.read_groups, []

    def clips(kind, files, *given, **more):
        seen.append(files[0].name)
        if len(seen) == 2:
            raise KeyboardInterrupt
        return real(kind, files, *given, **more)

    monkeypatch.setattr(stage, "read_groups", clips)
    command = "audio", weights, folder, "--threads", 1, "--out", out
    assert run(*command) != 0
    assert not out.exists()
    assert run(*command) == 0
    assert seen == ["b.mp4", "c.mp4", "c.mp4", "a.anything"]
    once = out.read_bytes()
    assert run(*command) == 0
    assert (
        out.read_bytes() == once and len(seen) == 7
    )  # a finished run leaves nothing to go on from


def test_changed_options_start_anew(weights, folder, tmp_path, monkeypatch):
    out, seen = tmp_path / "audio.npz", []
    parts = tmp_path / "audio.npz.parts"
    monkeypatch.setattr(
        stage, "write_table", lambda *given: seen.append(sorted(parts.glob("*.parquet")))
    )
    times = []
    for share in (0.1, 0.1, 0.9):
        run("audio", weights, folder, "--out", out, "--nonverbal-share", share)
        times.append(seen[-1][0].stat().st_mtime_ns)
    assert times[0] == times[1] != times[2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["audio", "{weights}", "{folder}", "--out", "x.csv"], "x.csv: unknown format. Fix: name the output .npz or .parquet"),
        (["audio", "{weights}", "{folder}/none", "--out", "x.npz"], "none: no such file or folder"),
        (["audio", "{folder}/notes.txt", "{folder}", "--out", "x.npz"], "notes.txt: cannot be read as weights"),
        (["video", "{weights}", "{folder}", "--every", "0", "--out", "x.npz"], "give 1 or more"),
        (["audio", "{weights}", "{folder}", "--every", "nan", "--out", "x.npz"], "--every: nan seconds"),
        (["audio", "{weights}", "{folder}", "--every", "inf", "--out", "x.npz"], "--every: inf seconds"),
        (["audio", "{weights}", "{folder}", "--device", "meta", "--out", "x.npz"], "device meta: torch cannot"),
        (["video", "{weights}", "{folder}", "--device", "abacus", "--out", "x.npz"], "device abacus"),
    ],
)  # fmt: skip
def test_mistakes_of_the_command_line_are_one_line(
    weights, folder, capsys, monkeypatch, tmp_path, arguments, message
):
    monkeypatch.chdir(tmp_path)
    assert run(*(a.format(weights=weights, folder=folder) for a in arguments)) == 78
    error = [x for x in capsys.readouterr().err.splitlines() if x.startswith("clip4vla:")]
    assert len(error) == 1 and message in error[0]
    assert not list(tmp_path.glob("*.parts"))


def test_the_examples_of_the_docs_run(weights, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(weights, "model.safetensors")
    Path("clips").symlink_to(DEMO)
    assert run("video", "model.safetensors", *PATHS[:3], "--out", "video.parquet") == 0
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "embed.md").read_text(), re.DOTALL)
    names = {}
    for block in blocks:
        exec(block, names)
    assert len(blocks) == 2
    assert names["best"] in {str(path) for path in PATHS[:3]}
    assert names["scores"].shape == (1, 3)
