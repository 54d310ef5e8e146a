"""Own clips: a table in four forms, odd tables, and splits that no further clip moves."""

import json
import random

import pytest
from own_tables import ROWS, write
from test_reader_fuzz import MUTATIONS

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset, Shares
from clip4vla.config.keys import dataset_version
from clip4vla.datasets import read_annotations
from clip4vla.datasets.collect import CLIP_ID
from clip4vla.datasets.shares import deal


def section(path, **more):
    return Dataset(reader="csv", annotations=path, **({"media": path.parent} | more))


def read(path, **more):
    return read_annotations("mine", section(path, **more))


def items(annotations):
    return {item.clip_id: (item.split, item.captions, item.labels) for item in annotations.splits}


FORMS = (".csv", ".tsv", ".jsonl", ".parquet")


@pytest.mark.parametrize("form", FORMS)
def test_the_four_forms_say_the_same(tmp_path, form):
    found = read(write(tmp_path / f"clips{form}", ROWS))
    assert items(found) == {
        "a": ("train", ("a dog, barking",), ("dog",)),
        "b": ("val", ('he says "no"',), ("man, old",)),
        "c": ("test", ("Übung",), ("dog",)),
    }
    assert [clip.file for clip in found.clips] == ["a.mp4", "in/b.mp4", "c.wav"]
    assert len({clip.source_id for clip in found.clips}) == 3


@pytest.mark.parametrize("form", FORMS)
def test_lists_times_and_numbers(tmp_path, form):
    """Lists are JSON in csv; ids and labels may be whole numbers; times may be missing."""
    rows = [
        {"id": 1, "file": "x.mp4", "captions": ["one", "two, three"], "labels": ["p", "q, r"]},
        {"id": 2, "file": "./x.mp4", "captions": ["four"], "labels": []},
        {"id": 3, "file": "y.mp4", "captions": ["five"], "labels": ["7"]},
    ]
    for row, (start, end) in zip(rows, ((0.5, 2), (2, 3.25), (None, None)), strict=True):
        row |= {"start": start, "end": end, "source": "tape", "split": "train"}
    if form in (".csv", ".tsv"):
        for row in rows:
            row |= {name: json.dumps(row[name]) for name in ("captions", "labels")}
    found = read(write(tmp_path / f"clips{form.upper()}", rows))
    assert items(found) == {
        "1": ("train", ("one", "two, three"), ("p", "q, r")),
        "2": ("train", ("four",), ()),
        "3": ("train", ("five",), ("7",)),
    }
    clips = {clip.clip_id: clip for clip in found.clips}
    assert [(clip.start, clip.end) for clip in clips.values()] == [
        (0.5, 2),
        (2, 3.25),
        (None, None),
    ]
    assert {clip.file for clip in clips.values()} == {"x.mp4", "y.mp4"}
    assert {clip.source_id for clip in clips.values()} == {"tape"}
    assert any("1 of 3 clips have no label (first: 2)" in note for note in found.notes)


def test_rows_of_one_clip_are_its_captions_and_labels(tmp_path):
    text = "id,file,caption,label\na,a.mp4,one,dog\nb,b.mp4,three,cat\na,a.mp4,two,dog\na,a.mp4,two,rain\n"
    (tmp_path / "clips.csv").write_text(text)
    shares = {"train": 1, "val": 0, "test": 0}
    found = items(read(tmp_path / "clips.csv", splits=shares))
    assert found["a"] == ("train", ("one", "two"), ("dog", "rain"))
    assert found["b"] == ("train", ("three",), ("cat",))


def test_labels_are_captions_where_the_table_has_no_captions(tmp_path):
    (tmp_path / "clips.csv").write_text(
        'id,file,label,split\na,a.mp4,crying_baby,train\nb,b.mp4,"x, y",test\nb,b.mp4,z,test\n'
    )
    found = items(read(tmp_path / "clips.csv"))
    assert found["a"][1] == ("crying baby",) and found["b"][1] == ("x, y, z",)


HEADER = "id,file,caption,label,split\n"
GOOD = "a,a.mp4,a dog,dog,train\n"
ODD_ROWS = {  # rows behind HEADER and GOOD -> what the message says of line 3
    "same id, other file": ("a,b.mp4,a cat,cat,train\n", "has file 'b.mp4', but 'a.mp4' in"),
    "same row": ("a,a.mp4,a dog,dog,train\n", "occurs twice (first in"),
    "two splits": ("a,a.mp4,another,dog,test\n", "has split 'test', but 'train' in"),
    "blank id": (",b.mp4,a,b,train\n", "no id"),
    "unsafe id": ("../b,b.mp4,a,b,train\n", "invalid clip id '../b'"),
    "id with a dot": ("b.mp4,b.mp4,a,b,train\n", "invalid clip id 'b.mp4'"),
    "id with a blank": ("my clip,b.mp4,a,b,train\n", "invalid clip id 'my clip'"),
    "unicode id": ("ü,b.mp4,a,b,train\n", "invalid clip id"),
    "blank file": ("b,,a,b,train\n", "clip 'b' has no file"),
    "above": ("b,../b.mp4,a,b,train\n", "invalid file '../b.mp4'"),
    "above in between": ("b,x/../../b.mp4,a,b,train\n", "invalid file"),
    "absolute": ("b,/etc/passwd,a,b,train\n", "invalid file '/etc/passwd'"),
    "only a folder": ("b,.,a,b,train\n", "invalid file '.'"),
    "no caption": ("b,b.mp4,,b,train\n", "clip b has no caption (others do)"),
    "blank caption": ("b,b.mp4,  ,b,train\n", "clip b has no caption (others do)"),
    "spreadsheet's error": ("b,b.mp4,#NAME?,b,train\n", "#NAME?' is an error that a spreadsheet"),
    "no split": ("b,b.mp4,a,b,\n", "clip b has no split, but 1 of 2 have"),
    "odd split": ("b,b.mp4,a,b,to test\n", "invalid split name 'to test'"),
    "too few": ("b,b.mp4,a,b\n", "4 columns where the header has 5"),
    "bare comma": ("b,b.mp4,a dog, a cat,b,train\n", "6 columns where the header has 5"),
    "bare quotation mark": ('b,b.mp4,"a "dog"",b,train\n', "invalid csv"),
    "open quotation mark": ('b,b.mp4,"a dog,b,train\n', "invalid csv"),
    "nul": ("b,b.mp4,a\0b,b,train\n", "invalid caption"),
    "same file, other split": ("b,a.mp4,a cat,cat,test\n", "clip b is in split test, but clip a of the same file in train"),
}  # fmt: skip


def refused(path, **more):
    with pytest.raises(UserError) as caught:
        read(path, **more)
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and text.isprintable()
    assert text.startswith(f"mine: {path}") and text.count("Fix: ") == 1
    assert "official" not in text and "published" not in text
    return text


@pytest.mark.parametrize("name", ODD_ROWS)
def test_an_odd_row_is_one_line_with_its_place(tmp_path, name):
    row, said = ODD_ROWS[name]
    path = tmp_path / "clips.csv"
    path.write_text(HEADER + GOOD + row)
    text = refused(path)
    assert said in text and f"{path}, line 3: " in text


TIMES = {
    "only start": ("1", "", "needs both start and end"),
    "swapped": ("3", "1", "end 1.0 must be after start 3.0"),
    "negative": ("-1", "2", "invalid start -1.0"),
    "not a number": ("nan", "2", "invalid start 'nan'"),
    "infinite": ("0", "inf", "invalid end 'inf'"),
    "comma": ('"1,5"', "2", "invalid start '1,5'"),
    "clock": ("0:01", "0:05", "invalid start '0:01'"),
}


@pytest.mark.parametrize("name", TIMES)
def test_odd_times(tmp_path, name):
    start, end, said = TIMES[name]
    path = tmp_path / "clips.csv"
    path.write_text(f"id,file,caption,start,end\na,a.mp4,a,,\nb,b.mp4,b,{start},{end}\n")
    assert said in (text := refused(path)) and ", line 3: " in text


HEADERS = {
    "no id": ("name,file,caption\na,a,a\n", "column id is missing; found 'name, file, caption'"),
    "capitals": ("ID,file,caption\na,a,a\n", "column id is missing"),
    "mistyped": ("id,file,captoin\na,a,a\n", "unknown column 'captoin'; did you mean caption?"),
    "mistyped capital": ("id,file,Caption\na,a,a\n", "unknown column 'Caption'; did you mean caption?"),
    "of one's own": ("id,file,caption,speed\na,a,a,a\n", "unknown column 'speed'; known: id, file,"),
    "repeated": ("id,file,caption,caption\na,a,a,a\n", "repeated column"),
    "index of pandas": (",id,file,caption\n0,a,a,a\n", "a column without a name, as pandas"),
    "semicolons": ("id;file;caption\na;a;a\n", "separated by semicolons"),
    "tabs": ("id\tfile\tcaption\na\ta\ta\n", "separated by tabs"),
    "nothing else": ("id,file,caption\n", "no row. Fix: write a row for each clip"),
    "empty": ("", "no row"),
    "neither caption nor label": ("id,file\na,a.mp4\n", "clip a has no caption (no label either)"),
}  # fmt: skip


@pytest.mark.parametrize("name", HEADERS)
def test_odd_headers(tmp_path, name):
    text, said = HEADERS[name]
    (tmp_path / "clips.csv").write_text(text)
    assert said in refused(tmp_path / "clips.csv")


LATIN = "id,file,caption\na,a.mp4,x\nb,b.mp4,Übung\n".encode("latin-1")
FILES = {
    "latin-1.csv": (LATIN, "line 3: not UTF-8 text. Fix: save the file as UTF-8"),
    "wide.csv": ("id,file,caption\n".encode("utf-16"), "UTF-16 text. Fix: convert it"),
    "wide.jsonl": ('{"id": "a"}\n'.encode("utf-16"), "UTF-16 text. Fix: convert it"),
    "book.csv": (b"PK\x03\x04xl/workbook", "an Excel workbook (.xlsx). Fix: save the table as csv"),
    "parquet.csv": (b"PAR1aaaaPAR1", "a Parquet table. Fix: save the table as csv"),
    "page.tsv": (b"<!doctype html><p>", "a web page (HTML or XML). Fix: download"),
    "json.csv": (b'[{"id": "a"}]', "is JSON. Fix: save the table as csv"),
    "gzip.csv": (b"\x1f\x8b\x08", "a gzip file. Fix: unpack"),
    "pointer.parquet": (b"version https://git-lfs.github.com/spec/v1\n", "a Git LFS pointer"),
    "cut.parquet": (b"PAR1\x15\x04", "corrupt or truncated parquet file"),
    "text.parquet": (b"id,file\n", "corrupt or truncated parquet file"),
    "sheet.xlsx": (b"PK", "unknown ending '.xlsx'. Fix: save the table as csv"),
    "clips.csv.gz": (b"\x1f\x8b", "unknown ending '.gz'"),
    "clips": (b"id,file", "unknown ending ''"),
    "list.jsonl": (b'[{"id": "a"}]', "line 1: not an object"),
    "pretty.jsonl": (b'{\n "id": "a"\n}\n', "line 1: invalid JSON"),
    "array.jsonl": (b'{"id": "a", "file": "a", "caption": "a"}\n[1]\n', "line 2: not an object"),
    "twice.jsonl": (b'{"id": "a", "id": "b", "file": "a"}\n', "line 1: repeated column"),
    "unknown.jsonl": (b'{"id": "a", "file": "a", "Label": "a"}\n', "line 1: unknown column 'Label'"),
    "types.jsonl": (b'{"id": "a", "file": "a", "caption": ["x"]}\n', "line 1: invalid caption ['x']. Fix: use a text"),
    "truth.jsonl": (b'{"id": true, "file": "a", "caption": "x"}\n', "line 1: invalid id True"),
    "float.jsonl": (b'{"id": 1.0, "file": "a", "caption": "x"}\n', "line 1: invalid id 1.0"),
    "words.jsonl": (b'{"id": "a", "file": "a", "captions": "x"}\n', "line 1: invalid captions 'x'. Fix: use a list"),
    "hole.jsonl": (b'{"id": "a", "file": "a", "captions": ["x", null]}\n', "line 1: invalid caption ''"),
    "surrogate.jsonl": (b'{"id": "a", "file": "a", "caption": "\\ud800"}\n', "line 1: invalid caption"),
    "deep.jsonl": (b"[" * 100_000, "line 1: invalid JSON"),
    "commas.csv": (b'id,file,caption,labels\na,a,a,"dog, rain"\n', "line 2: invalid labels 'dog, rain'. Fix: use a list"),
    "twice.csv": (b'id,file,caption,labels\na,a,a,"[""x"", ""x""]"\n', "line 2: clip 'a' has a label twice"),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_odd_files(tmp_path, name):
    content, said = FILES[name]
    (tmp_path / name).write_bytes(content)
    assert said in refused(tmp_path / name, splits={"train": 1, "val": 0, "test": 0})


def test_a_folder_and_a_missing_table(tmp_path):
    assert f"a folder. Fix: name the table, such as {tmp_path}/clips.csv" in refused(tmp_path)
    assert "missing. Fix: put your table" in refused(tmp_path / "clips.csv")


def test_what_a_spreadsheet_or_an_editor_adds_is_read(tmp_path):
    """A byte order mark, CR LF, blank lines, quoted cells with line breaks, ids like dates."""
    text = '\ufeffid,file,caption,split\r\n2024-01-05,a.mp4,"two\r\nlines",train\r\n\r\n007,b.mp4, x ,test\r\n'
    (tmp_path / "clips.csv").write_bytes(text.encode())
    found = items(read(tmp_path / "clips.csv"))
    assert found == {"2024-01-05": ("train", ("two\r\nlines",), ()), "007": ("test", ("x",), ())}


def test_clips_of_a_file_or_source_share_a_split(tmp_path):
    rows = [
        {"id": f"{source}{n}", "file": f"{source}.mp4", "caption": "x", "start": n, "end": n + 1}
        for source in "abcdefghij"
        for n in range(3)
    ]
    path = write(tmp_path / "clips.csv", rows)
    shares = {"train": 0.5, "val": 0.2, "test": 0.3, "seed": 3}
    found = items(read(path, splits=shares))
    for source in "abcdefghij":
        assert len({found[f"{source}{n}"][0] for n in range(3)}) == 1
    taped = [row | {"source": "tape1" if row["file"] < "d" else row["id"][0]} for row in rows]
    found = items(read(write(path, taped), splits=shares))
    assert len({found[row["id"]][0] for row in taped if row["source"] == "tape1"}) == 1
    taped[-1]["source"] = "another"
    assert "file 'j.mp4' has source another, but j in" in refused(write(path, taped))


def test_a_further_clip_moves_no_other_one():
    """The split of a source depends on seed and name alone; test stays where val grows."""
    names = [f"clip{n}" for n in range(2000)]
    shares = Shares(train=0.7, val=0.1, test=0.2, seed=1)
    dealt = deal(names, shares)
    assert deal([*names[:1000], "new", *names[1000:]], shares) == dealt | deal(["new"], shares)
    assert deal(reversed(names), shares) == dealt
    for name in ("train", "val", "test"):
        share = list(dealt.values()).count(name) / len(names)
        assert share == pytest.approx(getattr(shares, name), abs=0.03)
    more = deal(names, Shares(train=0.5, val=0.3, test=0.2, seed=1))
    assert {n for n in names if more[n] == "test"} == {n for n in names if dealt[n] == "test"}
    assert deal(names, Shares(seed=2)) != deal(names, Shares(seed=1))
    assert {"train"} == set(deal(names, Shares(train=1, val=0, test=0)).values())


def test_known_draws():
    """They must never change: a version's name does not tell how its clips were dealt."""
    dealt = deal([f"clip{n}" for n in range(12)], Shares(train=0.5, val=0.25, test=0.25))
    assert "".join(split[1] for split in dealt.values()) == "eraaeararera"


def test_an_empty_split_is_refused_with_a_seed_that_fills_it(tmp_path):
    rows = [{"id": n, "file": f"{n}.mp4", "caption": "x"} for n in range(4)]
    path = write(tmp_path / "clips.csv", rows)
    seeds = {}
    for seed in range(20):
        try:
            seeds[seed] = set(item.split for item in read(path, splits={"seed": seed}).splits)
        except UserError as error:
            assert "4 sources dealt by seed" in str(error) and "empty. Fix: set" in str(error)
            other = int(str(error).split("splits.seed: ")[1].split(",")[0])
            found = {item.split for item in read(path, splits={"seed": other}).splits}
            assert found == {"train", "val", "test"}
    assert all(found == {"train", "val", "test"} for found in seeds.values())
    path = write(path, rows[:1])
    assert refused(path).endswith("empty. Fix: write a column split")


def test_shares_must_sum_to_one_and_be_read(tmp_path):
    with pytest.raises(ValueError, match=r"train 0.8, val 0.1 and test 0.3 sum to 1.2"):
        Shares(test=0.3)
    with pytest.raises(ValueError, match="splits only has an effect with reader: csv"):
        Dataset(reader="demo", annotations=tmp_path, splits={"seed": 1})
    path = write(tmp_path / "clips.csv", ROWS)
    assert "datasets.mine.splits has no effect" in refused(path, splits={"seed": 1})
    other = section(path, splits={"seed": 1})
    assert dataset_version("mine", other) != dataset_version("mine", section(path))


def test_uploads_have_a_source_in_place_of_a_file(tmp_path):
    rows = [
        {"id": "a", "source": "abcdefghijk", "caption": "x", "start": 3, "end": 9, "split": "train"}
    ]
    path = write(tmp_path / "clips.csv", rows)
    (clip,) = read(path, source="youtube").clips
    assert (clip.source_id, clip.file, clip.start) == ("abcdefghijk", "abcdefghijk.mp4", 3)
    assert "column file is missing" in refused(path)
    rows[0]["source"] = "short"
    assert "invalid YouTube id 'short'" in refused(write(path, rows), source="youtube")
    rows[0]["source"] = ""
    by_source = {"source": "http", "url": "http://127.0.0.1/{source_id}"}
    assert "clip 'a' has no source" in refused(write(path, rows), **by_source)


def test_other_spellings_of_a_label_are_noted(tmp_path):
    rows = [row | {"label": label} for row, label in zip(ROWS, ("dog", "Dog ", "cat"), strict=True)]
    (note,) = read(write(tmp_path / "clips.csv", rows)).notes
    assert note == "mine: labels 'Dog' and 'dog' are two classes"


@pytest.mark.parametrize("form", FORMS)
def test_mutated_tables_end_in_one_line(tmp_path, form):
    rows = [row | {"start": n, "end": n + 1} for n, row in enumerate(ROWS * 2)]
    for number, row in enumerate(rows):
        row |= {"id": f"clip{number}", "file": f"{number}.mp4"}
    path = write(tmp_path / f"clips{form}", rows)
    original, chance, refusals = path.read_bytes(), random.Random(form), 0
    for _ in range(60):
        content = bytearray(original)
        chance.choice(MUTATIONS)(content, chance)
        path.write_bytes(content)
        try:
            found = read(path)
        except UserError as error:
            text = str(error)
            assert text.startswith("mine: ") and len(text.splitlines()) == 1
            assert str(path) in text and text.isprintable()
            refusals += 1
            continue
        for clip in found.clips:
            assert CLIP_ID.fullmatch(clip.clip_id)
            assert ".." not in clip.file.split("/") and not clip.file.startswith("/")
    assert 10 < refusals < 60
