"""AudioSet and VGGSound: every form of their lists, labels, counts and retrieval lists."""

import json

import miniatures
import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.datasets import audioset, read_annotations, vggsound
from clip4vla.datasets.official import shipped_list

BALANCED = "balanced_train_segments.csv"
EVAL = "eval_segments.csv"


def read(reader, folder, **more):
    return read_annotations(
        "mine", Dataset(reader=reader, annotations=folder, media=folder, **more)
    )


def refused(reader, folder, **more):
    with pytest.raises(UserError) as caught:
        read(reader, folder, **more)
    text = str(caught.value)
    assert len(text.splitlines()) == 1 and text.count(". Fix: ") == 1 and str(folder) in text
    return text


def labels_of(annotations):
    """split -> clip -> labels"""
    found = {}
    for item in annotations.splits:
        found.setdefault(item.split, {})[item.clip_id] = item.labels
    return found


def edit(path, old, new):
    text = path.read_bytes().decode()
    assert old in text
    path.write_bytes(text.replace(old, new, 1).encode())


SPEECH, MAN = "Speech", "Male speech, man speaking"


def test_audioset_has_its_splits_and_a_list_of_labels_for_each_clip(tmp_path):
    miniatures.audioset(tmp_path)
    annotations = read("audioset", tmp_path)
    found = labels_of(annotations)
    assert {split: len(clips) for split, clips in found.items()} == {
        "train": 8, "balanced": 2, "eval": 4, "retrieval_1725": 3,
    }  # fmt: skip
    assert found["balanced"] == {
        f"v_{miniatures.youtube(0, '-')}": (SPEECH, MAN),
        f"v_{miniatures.youtube(1, 'z')}": (MAN,),
    }
    assert found["balanced"].items() <= found["train"].items()
    assert found["eval"] == {
        f"v_{video}": ((SPEECH,) if n % 2 == 0 else (MAN,))
        for n, video in enumerate(miniatures.AUDIOSET_EVAL)
    }
    assert set(found["retrieval_1725"]) == {f"v_{v}" for v in miniatures.AUDIOSET_EVAL[:3]}
    captions = {item.captions for item in annotations.splits if item.split == "balanced"}
    assert captions == {
        ("The sound of Speech,Male speech, man speaking",),
        ("The sound of Male speech, man speaking",),
    }
    (note,) = annotations.notes
    assert "retrieval_1725 has 3 of its 1,725 clips: eval_segments.csv does not have" in note


def test_the_shipped_list_of_retrieval_is_every_tenth_of_the_ids_in_their_order():
    ids = shipped_list(audioset.RETRIEVAL)
    assert len(ids) == len(set(ids)) == 1725 and all(len(video) == 11 for video in ids)
    assert list(ids) == sorted(ids)


@pytest.mark.parametrize(
    "lists", [["eval"], ["balanced_train"], ["unbalanced_train"], ["balanced_train", "eval"]]
)
def test_audioset_reads_the_lists_that_are_there(tmp_path, lists):
    miniatures.audioset(tmp_path)
    for path in tmp_path.glob("*_segments.csv"):
        if path.stem.removesuffix("_segments") not in lists:
            path.unlink()
    splits = set(labels_of(read("audioset", tmp_path)))
    expected = {"eval", "retrieval_1725"} if "eval" in lists else set()
    expected |= {"train", "balanced"} if "balanced_train" in lists else set()
    assert splits == expected | ({"train"} if "unbalanced_train" in lists else set())
    for path in tmp_path.glob("*_segments.csv"):
        path.unlink()
    assert "unbalanced_train_segments.csv: missing" in refused("audioset", tmp_path)


def official(comments, rows):
    """A list as published: blanks after commas, quotation marks, thousandths."""
    head = ["# Segments csv created Sun Mar  5 10:54:31 2017"]
    head += [
        f"# num_ytids={len(rows)}, num_segs={len(rows)}, num_unique_labels=2, num_positive_labels=3"
    ]
    head += ["# YTID, start_seconds, end_seconds, positive_labels"]
    lines = [f'{video}, {start}.000, {end}.000, "{mids}"' for video, start, end, mids in rows]
    return [*head[3 - comments :], *lines]


def copied(comments, rows):
    """A list as copies have it: none of these."""
    quoted = ('"{}"' if "," in mids else "{}" for *_, mids in rows)
    lines = [
        f"{video},{start},{end},{form.format(mids)}"
        for (video, start, end, mids), form in zip(rows, quoted, strict=True)
    ]
    return [*official(comments, rows)[:comments], *lines]


ROWS = [("-0123456789", 0, 10, "/m/09x0r"), ("--bcdefghij", 30, 39, "/m/05zppz,/m/09x0r")]


@pytest.mark.parametrize("end", ["\n", "\r\n"])
@pytest.mark.parametrize("comments", [0, 1, 2, 3])
@pytest.mark.parametrize("form", [official, copied])
def test_every_form_of_a_list_reads_alike(tmp_path, form, comments, end):
    miniatures.audioset(tmp_path)
    (tmp_path / EVAL).write_bytes((end.join(form(comments, ROWS)) + end).encode())
    annotations = read("audioset", tmp_path)
    found = labels_of(annotations)["eval"]
    assert found == {"v_-0123456789": (SPEECH,), "v_--bcdefghij": (MAN, SPEECH)}
    times = {clip.clip_id: (clip.start, clip.end) for clip in annotations.clips}
    assert [times[f"v_{video}"] for video, *_ in ROWS] == [(0.0, 10.0), (30.0, 39.0)]


def test_the_form_of_cav_mae_has_the_same_clips_without_times(tmp_path):
    one, other = tmp_path / "csv", tmp_path / "json"
    for folder, write in ((one, miniatures.audioset), (other, miniatures.audioset_json)):
        folder.mkdir()
        write(folder)
    csv, json = read("audioset", one), read("audioset", other)
    assert json.splits == csv.splits
    assert {(clip.clip_id, clip.file) for clip in json.clips} == {
        (clip.clip_id, clip.file) for clip in csv.clips
    }
    assert all(clip.start is None and clip.end is None for clip in json.clips)
    assert "2 clips of the balanced list are in it too, taken once" in json.notes[0]
    text = refused("audioset", other, source="youtube")
    assert "balanced_train_segments.json: has no times to cut clips of uploads by" in text


WRONG = [  # file, old, new, the message
    (BALANCED, "\n--_00000000,", "\n#-_00000000,", "line 2: invalid YouTube id '#-_00000000'"),
    (BALANCED, "\nz-_00000001,", "\n#-_00000001,", "line 3: invalid YouTube id '#-_00000001'"),
    (BALANCED, "num_segs=2", "num_segs=3", "line 1: num_segs=3, but the list has 2: it was truncated"),
    (BALANCED, "num_ytids=2", "num_ytids=22160", "line 1: num_ytids=22160, but the list has 2"),
    (BALANCED, "labels=3", "labels=4", "line 1: num_positive_labels=4, but the list has 3"),
    (BALANCED, ",/m/05zppz\n", ",/m/05zppz,/m/09x0r\n", "line 3: 5 columns instead of 4"),
    (BALANCED, ",/m/05zppz\n", ",\n", "line 3: label '' is not in class_labels_indices.csv"),
    (EVAL, "-1OlgJWehn9", "x-_00000003", "line 6: clip id v_x-_00000003 occurs twice"),
    ("class_labels_indices.csv", '"Male speech, man speaking"', "Speech", "the same display_name"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "what"), WRONG)
def test_wrong_lists_of_audioset_are_refused(tmp_path, file, old, new, what):
    miniatures.audioset(tmp_path)
    edit(tmp_path / file, old, new)
    assert what in refused("audioset", tmp_path)


@pytest.mark.parametrize(
    ("entry", "what"),
    [
        ({"video_id": "short", "labels": "/m/09x0r"}, "entry 1: invalid YouTube id 'short'"),
        ({"video_id": "abcdefghijk"}, "entry 1: invalid entry"),
        ({"video_id": "abcdefghijk", "labels": ["/m/09x0r"]}, "entry 1: invalid entry"),
        ({"video_id": "abcdefghijk", "labels": ""}, "entry 1: label '' is not in"),
        (["abcdefghijk"], "entry 1: invalid entry"),
    ],
)
def test_wrong_entries_of_a_json_list_are_refused(tmp_path, entry, what):
    miniatures.audioset(tmp_path)
    (tmp_path / EVAL).unlink()
    (tmp_path / "eval_segments.json").write_text(json.dumps({"data": [entry]}))
    assert what in refused("audioset", tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"rows": []}',
        "[]",
        '{"data": [{}',
        '{"data": {}}',
        '{"data"',
        '{"data": []}',
        '{"data": [{"video_id": "abcdefghijk", "labels": "/m/09x0r"}]} {"data": []}',
    ],
)
def test_a_json_list_of_another_form_is_refused(tmp_path, text):
    miniatures.audioset(tmp_path)
    (tmp_path / EVAL).unlink()
    (tmp_path / "eval_segments.json").write_text(text)
    assert "eval_segments.json" in refused("audioset", tmp_path)


def test_a_json_list_under_the_name_of_a_csv_is_named(tmp_path):
    miniatures.audioset(tmp_path)
    for text in ('{"data": []}', "\ufeff\n{", '[{"video_id": ""}]'):
        (tmp_path / EVAL).write_text(text)
        assert "eval_segments.csv is JSON, in place of AudioSet's" in refused("audioset", tmp_path)


def test_a_list_that_is_there_twice_is_read_once_and_named(tmp_path):
    miniatures.audioset(tmp_path)
    before = read("audioset", tmp_path)
    (tmp_path / "eval_segments.json").write_text('{"data": []}')
    annotations = read("audioset", tmp_path)
    assert annotations.splits == before.splits
    note = "eval_segments.json: not read, since eval_segments.csv is there too"
    assert note in annotations.notes[0]


def test_a_clip_has_the_same_labels_in_both_json_lists(tmp_path):
    miniatures.audioset_json(tmp_path)
    path = tmp_path / "unbalanced_train_segments.json"
    entries = json.loads(path.read_text())["data"]
    entries[-1]["labels"] = "/m/09x0r"  # another one in the balanced list
    path.write_text(json.dumps({"data": entries}))
    text = refused("audioset", tmp_path)
    assert "entry 8: clip z-_00000001 has other labels in the balanced list" in text


def test_a_test_list_without_a_clip_of_the_whole_list_is_refused(tmp_path):
    miniatures.vggsound(tmp_path)
    path = tmp_path / "vggsound.csv"
    path.write_text(path.read_text().replace(",test\n", ",train\n"))
    assert "test.csv, line 1: clip v-_00000011_000007 has another" in refused("vggsound", tmp_path)


def test_vggsound_reads_both_forms_alike(tmp_path):
    one, other = tmp_path / "one", tmp_path / "pair"
    for folder, write in ((one, miniatures.vggsound), (other, miniatures.vggsound_pair)):
        folder.mkdir()
        write(folder)
    (one / "vggsounder.csv").unlink()
    whole, pair = read("vggsound", one), read("vggsound", other)
    assert whole.clips == pair.clips and whole.splits == pair.splits
    assert len(whole.clips) == 14
    clips = {clip.clip_id: clip for clip in whole.clips}
    dashed = clips["v_--_00000009_000001"]
    assert (dashed.source_id, dashed.file) == ("--_00000009", "--_00000009_000001.mp4")
    assert (dashed.start, dashed.end) == (1.0, 11.0)
    two = [clip.clip_id for clip in whole.clips if clip.source_id == "v-_00000011"]
    assert two == ["v_v-_00000011_000007", "v_v-_00000011_000330"]
    found = labels_of(whole)
    assert found["test"][two[0]] == ("playing tympani",)
    assert found["test"][two[1]] == ("playing timpani",)  # its twin is another class
    assert set(found["test"].values()) == set(found["train"].values())
    assert ("bird chirping, tweeting",) in set(found["train"].values())
    assert found["retrieval_1545"] == found["test"]  # no class has more than five


def test_classes_in_the_spelling_of_cav_mae_are_restored(tmp_path):
    miniatures.vggsound(tmp_path)
    before = read("vggsound", tmp_path).splits
    path = tmp_path / "vggsound.csv"
    path.write_text(
        path.read_text().replace('"bird chirping, tweeting"', "bird chirping_ tweeting")
    )
    assert read("vggsound", tmp_path).splits == before


def test_the_official_classes_are_309():
    names = shipped_list(vggsound.CLASSES)
    assert len(names) == len(set(names)) == 309 and names[0] == "ambulance siren"
    assert sum("," in name for name in names) == 23 and not any("_" in name for name in names)
    assert {"playing timpani", "playing tympani"} < set(names)


def test_retrieval_takes_the_first_five_of_each_class_in_the_order_of_test_csv(tmp_path):
    classes = ("playing oboe", "lathe spinning")
    rows = [(f"{name[0]}{n:010d}", n, name) for n in range(8) for name in classes]
    whole = "".join(f"{video},{start},{name},test\n" for video, start, name in rows)
    (tmp_path / "vggsound.csv").write_text(whole)
    alone = read("vggsound", tmp_path)
    first = {f"v_{video}_{start:06d}" for video, start, _ in rows[:10]}
    assert set(labels_of(alone)["retrieval_1545"]) == first
    assert "not the published list, which" in alone.notes[0] and "vggsound.csv" in alone.notes[0]
    test = "".join(f"{video}_{start:06d}.mp4,{name}\r\n" for video, start, name in rows[::-1])
    (tmp_path / "test.csv").write_bytes(test.encode())
    ordered = read("vggsound", tmp_path)
    last = {f"v_{video}_{start:06d}" for video, start, _ in rows[-10:]}
    assert set(labels_of(ordered)["retrieval_1545"]) == last
    assert ordered.notes[0].endswith("test.csv")
    (tmp_path / "vggsound.csv").unlink()
    assert read("vggsound", tmp_path).splits == ordered.splits


def test_vggsounder_has_several_labels_and_those_that_are_heard_or_seen(tmp_path):
    miniatures.vggsound(tmp_path)
    found = labels_of(read("vggsound", tmp_path))
    first, second = "v_v-_00000006_000180", "v_v-_00000007_000210"
    bird = ("bird chirping, tweeting",)
    assert found["vggsounder"] == {first: ("people marching", "people crowd"), second: bird}
    assert found["vggsounder_a"] == {first: ("people marching", "people crowd")}
    assert found["vggsounder_v"] == {first: ("people marching",), second: bird}
    edit(tmp_path / "vggsounder.csv", second[2:], "v-_00000099_000210")
    annotations = read("vggsound", tmp_path)
    assert set(labels_of(annotations)["vggsounder"]) == {first}
    assert "vggsounder.csv: 1 of its clips are not in the test list" in annotations.notes[-1]


WRONG_VGGSOUND = [  # file, old, new, the message
    ("vggsound.csv", "people marching", "people marchin", "(did you mean people marching?)"),
    ("vggsound.csv", "people marching", "x", "line 1: 'x' is not among the 309 classes. Fix"),
    ("vggsound.csv", "v-_00000000", "#-_00000000", "line 1: invalid YouTube id '#-_00000000'"),
    ("vggsound.csv", ",0,", ",0.5,", "line 1: invalid start '0.5'"),
    ("vggsound.csv", ",30,", ",1000000,", "line 2: invalid start '1000000'"),
    ("vggsound.csv", ",train", ",val", "line 1: invalid split 'val'"),
    ("vggsound.csv", '"bird chirping, tweeting"', "bird chirping, tweeting", "5 columns instead"),
    ("vggsound.csv", "v-_00000001,30", "v-_00000000,0", "occurs twice (first in"),
    ("test.csv", "_000007.mp4", "_7.mp4", "line 1: invalid file 'v-_00000011_7.mp4'"),
    ("test.csv", "playing tympani", "playing timpani", "has another label or split in vggsound.csv"),
    ("vggsounder.csv", ",AV,", ",both,", "line 2: invalid modality 'both'. Fix: use A, V or AV"),
    ("vggsounder.csv", "people crowd", "people marching", "line 2: clip 'v_v-_00000006_000180' has a label twice"),
    ("vggsounder.csv", "v-_00000006_000180", "v-_00000006", "line 2: invalid video_id"),
]  # fmt: skip


@pytest.mark.parametrize(("file", "old", "new", "what"), WRONG_VGGSOUND)
def test_wrong_lists_of_vggsound_are_refused(tmp_path, file, old, new, what):
    miniatures.vggsound(tmp_path)
    edit(tmp_path / file, old, new)
    assert what in refused("vggsound", tmp_path)


def test_vggsound_needs_one_of_its_lists(tmp_path):
    text = refused("vggsound", tmp_path)
    assert "vggsound.csv: missing" in text and "or its train.csv and test.csv" in text
