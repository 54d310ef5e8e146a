"""`clip4vla search`: scores are those of the evaluation, for every kind of query and both families."""

import csv
import io
import json
import re
import shutil
import subprocess
import sys

import numpy as np
import pyarrow.compute as pc
import pytest
import torch
from embed_files import DEMO, write_tiny
from index_files import CLIPS, content, fill, indexed, opened, write_coavt
from PIL import Image

import clip4vla
from clip4vla.cli.main import main
from clip4vla.common.errors import UserError
from clip4vla.inference.second_scores import SecondScores
from clip4vla.search import approximate, build, store
from clip4vla.search.encoder import numbered
from clip4vla.search.query import Query, find
from clip4vla.search.shown import clock
from clip4vla.search.windows import Cut, Piece, pieces_of

SILENT = {"-no sound.mp4"}


def with_sound_file(folder):
    """Demo clips, and one as a file of sound alone."""
    import av

    fill(folder)
    with av.open(str(DEMO / "say_dog.mp4")) as clip, av.open(str(folder / "a.wav"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=clip.streams.audio[0].rate)
        for frame in clip.decode(audio=0):
            frame.pts = None
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return with_sound_file(tmp_path_factory.mktemp("clips") / "in")


@pytest.fixture(scope="module")
def index(folder, weights):
    return opened(indexed(folder, weights))


@pytest.fixture(scope="module")
def coavt(folder, tmp_path_factory):
    path = write_coavt(tmp_path_factory.mktemp("weights") / "coavt.safetensors")
    return opened(indexed(folder, path, out=path.with_name("coavt.index")))


def everything(index, query, **options):
    """All hits of a query: (path, start) -> hit."""
    hits = find(index, query, top=1000, apart=False, **options)
    assert [hit.score for hit in hits if not hit.rescored] == sorted(
        (hit.score for hit in hits if not hit.rescored), reverse=True
    )
    return {(hit.window.path, hit.window.start): hit for hit in hits}


def test_a_text_is_compared_as_in_the_evaluation(index, model):
    rows = content(index)
    text = model.embed_text(["a dog barks"])
    hits = everything(index, Query(text="a dog barks"))
    assert len(hits) == len(rows)
    for (path, _), row in rows.items():
        hit = hits[path, row["start"]]
        video, audio = (
            None if row[name] is None else np.array([row[name]], np.float32)
            for name in ("vision", "audio")
        )
        expected = model.similarity(text, video, audio)[0, 0]
        assert hit.score == pytest.approx(expected, abs=1e-5)
        assert (hit.picture is None, hit.sound is None) == (path == "a.wav", path in SILENT)


def test_sound_weight_goes_from_pictures_to_sounds(index):
    pictures, middle, sounds = (
        everything(index, Query(text="a dog", sound_weight=weight)) for weight in (0.0, 0.25, 1.0)
    )
    assert "a.wav" not in {path for path, _ in pictures}
    assert not SILENT & {path for path, _ in sounds}
    for key, hit in middle.items():
        alone = hit.sound if hit.picture is None else hit.picture
        if hit.picture is not None and hit.sound is not None:
            alone = 0.75 * hit.picture + 0.25 * hit.sound
        assert hit.score == pytest.approx(alone, abs=1e-6)
        assert key not in pictures or pictures[key].score == pytest.approx(hit.picture)
        assert key not in sounds or sounds[key].score == pytest.approx(hit.sound)


@pytest.mark.parametrize("family", ["index", "coavt"])
def test_a_clip_finds_itself(family, request, folder, tmp_path):
    found_in = request.getfixturevalue(family)
    frame = next(
        iter(pieces_of(folder / "dog.mp4", found_in.embedder.settings, Cut(4, 4), ["vision"]))
    )
    (tmp_path / "frame.jpg").write_bytes(frame.jpegs[0])
    one = opened(
        indexed(
            fill(tmp_path / "in"),
            found_in.about.checkpoint,
            window=60.0,
            hop=None,
        )
    )
    for kind in ("audio", "video"):
        first = find(one, Query(**{kind: folder / "dog.mp4"}), top=1)[0]
        assert first.window.path == "dog.mp4" and first.score == pytest.approx(1, abs=1e-3)
    sounds = find(one, Query(audio=folder / "a.wav"), top=3)
    assert sounds[0].window.path == "dog.mp4" and len(sounds) == 2, "one has no sound"
    pictures = find(one, Query(image=tmp_path / "frame.jpg"), top=3)
    assert len(pictures) == 3 and all(hit.picture is not None for hit in pictures)
    mute = find(one, Query(video=folder / "-no sound.mp4"), top=3)
    assert mute[0].window.path == "-no sound.mp4" and len(mute) == 3
    assert [hit.score for hit in mute] == [hit.picture for hit in mute]
    both = find(one, Query(text="x", audio=folder / "a.wav"), top=3)
    text = {hit.window.path: hit.score for hit in find(one, Query(text="x"), top=3, rescore=0)}
    sound = {hit.window.path: hit.score for hit in sounds}
    for hit in both:
        mean = (text[hit.window.path] + sound[hit.window.path]) / 2
        assert hit.score == pytest.approx(mean, abs=1e-5)


def test_a_sound_looks_for_pictures_if_it_is_told_to(index, folder, model):
    hits = everything(index, Query(audio=folder / "a.wav", sound_weight=0.0))
    vector = model.embed_audio([folder / "a.wav"])[0]
    for (path, _), row in content(index).items():
        if path != "a.wav":
            expected = float(vector @ np.array(row["vision"]))
            assert hits[path, row["start"]].score == pytest.approx(expected, abs=1e-5)


def test_windows_that_overlap_are_one_moment(index):
    hits = find(index, Query(text="a dog"), top=1000)
    for number, hit in enumerate(hits):
        for other in hits[:number]:
            assert hit.window.path != other.window.path or (
                hit.window.start >= other.window.end or other.window.start >= hit.window.end
            )
    ranking = [*everything(index, Query(text="a dog")).values()]
    assert hits[0] == ranking[0] and len(hits) < len(ranking)
    for top in (1, 3):
        assert find(index, Query(text="a dog"), top=top) == hits[:top]


def test_type_tokens_are_chosen_when_searching(folder, weights, index, model, tmp_path):
    with pytest.raises(UserError, match="sounds with 0.5 alone. Fix: .* --both-tokens"):
        find(index, Query(text="a dog", nonverbal_share=1.0))
    both = opened(indexed(folder, weights, out=tmp_path / "both", both_tokens=True))
    rows, text = content(both), model.embed_text(["a dog"])[0]
    speech, other, mixed = (
        everything(both, Query(text="a dog", sound_weight=1.0, nonverbal_share=share))
        for share in (0.0, 1.0, 0.25)
    )
    for (path, _), row in rows.items():
        if path in SILENT:
            continue
        key = path, row["start"]
        assert speech[key].score == pytest.approx(float(text @ row["audio"]), abs=1e-5)
        assert other[key].score == pytest.approx(float(text @ row[numbered(1)]), abs=1e-5)
        between = 0.75 * speech[key].score + 0.25 * other[key].score
        assert mixed[key].score == pytest.approx(between, abs=1e-5)
    assert mixed != speech


def evaluated(index, folder, text):
    """Scores of windows by the evaluation's own scorer, in float32: (path, start) -> score."""
    encoder, cut = index.encoder, Cut(index.about.window, index.about.hop)
    modalities = index.embedder.settings.modalities
    keys, pieces = [], []
    for path in ["a.wav", *CLIPS]:
        for piece in pieces_of(folder / path, index.embedder.settings, cut, modalities):
            if isinstance(piece, Piece):
                keys.append((path, piece.start))
                pieces.append(piece)
    clips = encoder.second_features(pieces)
    texts = index.embedder.text_features([text], encoder.second)
    if encoder.second.joint:
        with torch.no_grad():
            (scores,) = encoder.second.scores(texts, clips, 1.0).values()
    else:
        every = np.ones(len(keys), bool)
        again = SecondScores(encoder.second, texts, clips, torch.device("cpu"))
        scores = again.among(np.ones(1, bool), every, every[None])
    return dict(zip(keys, scores[0].tolist(), strict=True))


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("family", ["local_to_local", "coavt"])
def test_searching_in_half_precision(family, kept, folder, tmp_path, monkeypatch, half_precision):
    """Words, sounds, and second looks at tokens that are kept or made anew."""
    path = tmp_path / "m.safetensors"
    write_coavt(path) if family == "coavt" else write_tiny(
        path, task="retrieval", model={"fusion": family}
    )
    monkeypatch.setattr(build, "KEPT_BYTES", 1 << 30 if kept else 0)
    index = opened(indexed(folder, path, out=tmp_path / "index", hop=None))
    found = [*everything(index, Query(text="a dog barks")).values()]
    found += find(index, Query(audio=folder / "a.wav"), top=3)
    assert len(found) > 3 and all(np.isfinite(hit.score) for hit in found)


@pytest.mark.parametrize("kept", [True, False])
@pytest.mark.parametrize("family", ["local_to_local", "tight", "coavt"])
def test_a_second_look_ranks_as_the_evaluation(family, kept, folder, tmp_path, monkeypatch):
    path = tmp_path / "m.safetensors"
    if family == "coavt":
        write_coavt(path)
    else:
        write_tiny(path, task="retrieval", model={"fusion": family})
    monkeypatch.setattr(build, "KEPT_BYTES", 1 << 30 if kept else 0)
    index = opened(indexed(folder, path, out=tmp_path / "index", hop=None))
    assert (store.SECOND in index.table.schema.names) == kept
    expected = evaluated(index, folder, "a dog barks")
    hits = everything(index, Query(text="a dog barks"))
    assert all(hit.rescored for hit in hits.values()) and set(hits) == set(expected)
    tolerance = 0.02 if kept else 1e-4  # kept in half precision
    for key, hit in hits.items():
        assert hit.score == pytest.approx(expected[key], abs=tolerance)
    if not kept:
        assert [*hits] == sorted(expected, key=lambda key: -expected[key])
    first = everything(index, Query(text="a dog barks"), rescore=0)
    few = [*everything(index, Query(text="a dog barks"), rescore=3).items()]
    assert [hit.rescored for _, hit in few] == [True] * 3 + [False] * (len(first) - 3)
    assert {key for key, _ in few[:3]} == set([*first][:3])
    assert [key for key, _ in few[3:]] == [*first][3:]
    with pytest.raises(UserError, match="rescore: .* words alone"):
        find(index, Query(text="a", sound_weight=0.5), rescore=3)


def test_a_window_whose_file_is_gone_gets_no_second_look(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(build, "KEPT_BYTES", 0)
    shutil.copytree(folder, tmp_path / "in")
    index = opened(indexed(tmp_path / "in", write_coavt(tmp_path / "m.safetensors"), hop=None))
    (tmp_path / "in" / "dog.mp4").unlink()
    hits = everything(index, Query(text="a dog"))
    assert {path for (path, _), hit in hits.items() if not hit.rescored} == {"dog.mp4"}


def test_coavt_ranks_texts_by_its_best_query(coavt, folder):
    model = clip4vla.load(coavt.about.checkpoint, "cpu")
    text = model.embed_text(["a dog barks", "rain"])
    paths = [folder / "dog.mp4", folder / "-no sound.mp4"]
    clips = model.embed_clips(paths)
    assert text.shape == (2, clips["t_va"].shape[2])
    best = np.einsum("td,cqd->tcq", text, clips["t_va"]).max(axis=2)
    assert np.allclose(model.rank(text, clips), best, atol=1e-5)
    with pytest.raises(UserError, match="no vectors of texts .* Fix: use embed_clips and rank"):
        model.similarity(text, text)
    hits = everything(coavt, Query(text="a dog barks"), rescore=0)
    for (path, _), row in content(coavt).items():
        vectors = np.array(row["t_a" if path == "a.wav" else "t_va"], np.float32)
        expected = (vectors @ text[0]).max()
        assert hits[path, row["start"]].score == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("family", ["index", pytest.param("coavt", marks=pytest.mark.slow)])
def test_vector_indexes_find_what_the_whole_table_has(
    family, request, folder, tmp_path, monkeypatch
):
    exact = request.getfixturevalue(family)
    rows = exact.table.search().limit(len(exact)).to_arrow()
    monkeypatch.setattr(approximate, "EXACT_ROWS", 100)
    shutil.copytree(exact.folder, tmp_path / "large")
    large = type(exact)(tmp_path / "large", device="cpu")
    for number in range(1, 1 + 600 // len(rows)):  # PQ is trained on 256 rows at least
        column = rows.schema.get_field_index("row")
        more = rows.set_column(column, rows.schema.field("row"), pc.add(rows["row"], number))
        large.table.add(more)
    approximate.index_vectors(large.table)
    assert approximate.indexed_columns(large.table) == set(large.vectors)
    query = Query(text="a dog")
    known, found = (
        find(large, query, 5, apart=False, rescore=0, exact=exactly) for exactly in (True, False)
    )
    assert [hit.score for hit in found] == pytest.approx([hit.score for hit in known], abs=1e-5)


def search(*arguments):
    with pytest.raises(SystemExit) as ended:
        main(["search", *map(str, arguments)])
    return ended.value.code


def test_the_command_prints_a_table_json_or_csv(index, capsys):
    assert search(index.folder, "a dog", "--top", 2) == 0
    shown = capsys.readouterr().out
    assert re.search(r"\d:\d\d\.\d", shown) and "score" in shown
    assert search(index.folder, "a dog", "-k", 99) == 0
    assert '"ünï"\\n%20.mp4' in capsys.readouterr().out, "a name with a line end is in one line"
    assert search(index.folder, "a dog", "-k", 2, "--json", "--overlapping") == 0
    listed = json.loads(capsys.readouterr().out)
    assert [row["rank"] for row in listed] == [1, 2] and listed[0]["score"] >= listed[1]["score"]
    assert search(index.folder, "a dog", "-k", 2, "--csv", "--overlapping") == 0
    rows = [*csv.DictReader(io.StringIO(capsys.readouterr().out))]
    assert [row["path"] for row in rows] == [row["path"] for row in listed]
    assert float(rows[0]["start"]) == listed[0]["start"]
    assert [clock(seconds) for seconds in (0, 59.96, 3600, 4521.25)] == [
        "0:00.0", "1:00.0", "1:00:00.0", "1:15:21.2",
    ]  # fmt: skip


def test_a_query_that_no_window_answers_says_so(weights, tmp_path, capsys):
    fill(tmp_path / "mute", {"a.mp4": "bbb_030"})
    silent = indexed(tmp_path / "mute", weights).index
    assert search(silent, "a dog", "--sound-weight", 1) == 0
    assert capsys.readouterr().out == "Nothing in this index can answer that query.\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ([], "query: empty. Fix: give words"),
        (["  "], "query: empty. Fix: give words"),
        (["x", "--json", "--csv"], "--json and --csv: one of them"),
        (["--audio", "none.wav"], "none.wav: no such file. Fix: correct the path"),
        (["--image", "none.png"], "none.png: no such file. Fix: correct the path"),
        (["--video", "."], ".: not a file. Fix: correct the path"),
        (["--image", "long.png"], "too long for a JPEG. Fix: cut out the part"),
        (["--image", "huge.png"], "a picture of more than 178 megapixels. Fix: make it smaller"),
        (["--image", "page.eps"], "not a picture that can be read"),
        (["--audio", "text"], "Fix: give a sound or video file that plays"),
        (["--image", "text"], "not a picture that can be read"),
        (["--audio", "mute.mp4"], "mute.mp4: no sound in it. Fix: give another file"),
        (["x", "--nonverbal-share", 0.1], "sounds with 0.5 alone"),
        (["x", "--rescore", 5], "rescore: it has an effect"),
        (["x", "--checkpoint", "text"], "text"),
    ],
)
def test_mistakes_are_one_line(arguments, why, index, folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("no media")
    shutil.copy(DEMO / "bbb_030.mp4", tmp_path / "mute.mp4")
    (tmp_path / "page.eps").write_text("%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")
    Image.new("L", (1, 70_000)).save(tmp_path / "long.png")
    Image.new("1", (20_000, 10_000)).save(tmp_path / "huge.png")
    assert search(index.folder, *arguments) == 78
    *_, line = capsys.readouterr().err.splitlines()
    assert line.startswith("clip4vla: ") and why in line and "Fix: " in line


def test_another_checkpoint_and_no_index_are_refused(index, tmp_path, capsys):
    other = write_tiny(tmp_path / "m.safetensors", model={"type_token": "none"})
    assert search(index.folder, "x", "--checkpoint", other) == 78
    assert "made with another checkpoint than" in capsys.readouterr().err
    assert search(tmp_path, "x") == 78
    assert "not an index. Fix: make one with `clip4vla index" in capsys.readouterr().err
    (tmp_path / "index.json").write_text("{}")
    assert search(tmp_path, "x") == 78
    assert "an index of another version" in capsys.readouterr().err


def test_clip_alone_finds_by_pictures(folder, tmp_path):
    from foreign_weights import openai_state
    from safetensors.torch import save_file

    save_file(openai_state(), tmp_path / "clip.safetensors")
    source = f"open_clip:tiny@{tmp_path / 'clip.safetensors'}"
    report = indexed(folder, source, out=tmp_path / "index")
    index = opened(report)
    assert report.broken == {"a.wav": "file: no picture and no sound that the checkpoint reads"}
    assert index.vectors == ["vision"] and index.about.checkpoint == source
    hits = find(index, Query(text="a dog"))
    assert hits and all(hit.sound is None and hit.score == hit.picture for hit in hits)
    with pytest.raises(
        UserError, match="query by audio: the checkpoint of this index reads vision"
    ):
        find(index, Query(audio=folder / "a.wav"))


def test_a_picture_of_any_form_is_read(index, tmp_path):
    frames = {
        "grey.png": ("L", (9, 300)),
        "palette.gif": ("P", (300, 9)),
        "cmyk.jpg": ("CMYK", (64, 64)),
    }
    for name, (mode, size) in frames.items():
        Image.new(mode, size).save(tmp_path / name)
        assert find(index, Query(image=tmp_path / name), top=1)


def test_help_loads_no_heavy_library():
    code = (
        "import sys\nfrom clip4vla.cli.main import main\n"
        "try: main(['search', '--help'])\nexcept SystemExit: pass\n"
        "assert not {'torch', 'lancedb', 'pyarrow', 'numpy'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
