"""Readers of the official files: their clips and splits, and one line for every error."""

import csv
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset
from clip4vla.datasets import read_annotations
from clip4vla.datasets.collect import CLIP_ID
from clip4vla.datasets.howto100m import MIN_SECONDS, MIN_WORDS, TimedCaption, Track, form_clip
from clip4vla.datasets.official import json_members
from clip4vla.datasets.plan import plan

REPO = Path(__file__).parents[2]


def dataset(reader, folder, **more):
    return Dataset(reader=reader, annotations=folder, **({"media": folder} | more))


def by_split(annotations):
    splits = {}
    for item in annotations.splits:
        splits.setdefault(item.split, {})[item.clip_id] = item
    return splits


def msrvtt(folder):
    videos = [("video0", "train"), ("video1", "validate"), ("video2", "test"), ("video3", "test")]
    data = {
        "videos": [
            {
                "video_id": video,
                "url": f"https://www.youtube.com/watch?v=-abcdefgh_{n}&t=1",
                "split": split,
                "start time": 10.5,
                "end time": 20.0,
            }
            for n, (video, split) in enumerate(videos)
        ],
        "sentences": [
            {"video_id": video, "caption": f"{video} says {n}", "sen_id": n}
            for video, _ in videos
            for n in range(3)
        ],
    }
    (folder / "MSRVTT_data.json").write_text(json.dumps(data))
    (folder / "MSRVTT_train.9k.csv").write_text("video_id\nvideo0\nvideo1\nvideo2\n")
    (folder / "MSRVTT_JSFUSION_test.csv").write_text(
        'key,vid_key,video_id,sentence\nret0,msr3,video3,"a cat, asleep"\n'
    )
    return data


def vatex(folder):
    def entries(*ids):
        return json.dumps([{"videoID": i, "enCap": ["one", "two"], "chCap": ["x"]} for i in ids])

    (folder / "vatex_training_v1.0.json").write_text(entries("-QoJCJpHbfA_000000_000010"))
    (folder / "vatex_validation_v1.0.json").write_text(
        entries("aaaaaaaaaaa_000001_000011", "bbbbbbbbbbb_000002_000012")
    )
    (folder / "vatex_public_test_english_v1.1.json").write_text(
        entries("c-c-c-c-c-c_000100_000110")
    )
    (folder / "vatex_retrieval_val.txt").write_text("aaaaaaaaaaa_000001_000011\n\n")
    (folder / "vatex_retrieval_test.txt").write_text("bbbbbbbbbbb_000002_000012")


def audioset(folder):
    (folder / "class_labels_indices.csv").write_text(
        'index,mid,display_name\n0,/m/1,"Speech"\n1,/m/2,"Male speech, man speaking"\n2,/m/3,Music\n'
    )
    (folder / "balanced_train_segments.csv").write_text(
        "# Segments csv created Sun Mar  5 10:54:25 2017\n# num_ytids=1\n"
        "# YTID, start_seconds, end_seconds, positive_labels\n"
        '--PJHxphWEs, 30.000, 40.000, "/m/1,/m/3"\n'
    )


def howto(folder, videos=("-2345678901", "bcdefghijkl")):
    track = {
        "start": [0, 4, 8, 12],
        "end": [4.2, 8.5, 12, 15],
        "text": ["now take", "a", "knife", ""],
    }
    (folder / "HOWTO100M_videos.csv").write_text(
        "video_id,feature_file\n" + "".join(f"{video},{video}.mp4.npy\n" for video in videos)
    )
    captions = {video: track for video in videos} | {"unlistedxyz": {"broken": 1}}
    (folder / "caption.json").write_text(json.dumps(captions, indent=1))


MAKE = {"msrvtt": msrvtt, "vatex": vatex, "audioset": audioset, "howto100m": howto}


def test_demo_has_its_splits_and_takes_six_clips_from_the_film():
    annotations = read_annotations("demo", dataset("demo", REPO / "demo"))
    clips = {clip.clip_id: clip for clip in annotations.clips}
    splits = by_split(annotations)
    assert {split: len(items) for split, items in splits.items()} == {
        "pretrain": 28, "train": 99, "val": 18, "test": 30,
    }  # fmt: skip
    cut = [clip for clip in annotations.clips if clip.file == "film.mp4"]
    assert len(cut) == 6 and all(clip.end - clip.start == 10 for clip in cut)
    assert {clip.source_id for clip in cut} == {"film"}
    assert not {clip.clip_id for clip in cut} & set(splits["test"])
    assert clips["say_bull"].sound == "verbal" and clips["tp_frog"].sound == "nonverbal"
    assert splits["train"]["tp_frog"].captions[1] == "A frog is seen and heard."
    assert splits["train"]["tp_frog"].labels == ("animal",)
    gone = {clip for clip in clips if clip.startswith("lost_")}
    assert len(gone) == 4 and gone <= set(splits["train"])


def test_msrvtt(tmp_path):
    msrvtt(tmp_path)
    annotations = read_annotations("m", dataset("msrvtt", tmp_path))
    splits = by_split(annotations)
    assert {split: sorted(items) for split, items in splits.items()} == {
        "caption_train": ["video0"],
        "caption_val": ["video1"],
        "caption_test": ["video2", "video3"],
        "train_9k": ["video0", "video1", "video2"],
        "train_ours": ["video0", "video2"],
        "val_ours": ["video1"],
        "test_1k": ["video3"],
    }
    assert splits["test_1k"]["video3"].captions == ("a cat, asleep",)
    assert len(splits["train_9k"]["video0"].captions) == 3
    clip = annotations.clips[0]
    assert (clip.source_id, clip.file, clip.start) == ("-abcdefgh_0", "video0.mp4", 10.5)


def test_vatex(tmp_path):
    vatex(tmp_path)
    annotations = read_annotations("v", dataset("vatex", tmp_path))
    splits = by_split(annotations)
    assert {split: len(items) for split, items in splits.items()} == {
        "train": 1, "caption_val": 2, "caption_test": 1, "val": 1, "test": 1,
    }  # fmt: skip
    first = annotations.clips[0]
    assert first.clip_id == "v_-QoJCJpHbfA_000000_000010" and first.source_id == "-QoJCJpHbfA"
    assert (first.start, first.end, first.file) == (0.0, 10.0, "-QoJCJpHbfA_000000_000010.mp4")
    assert splits["test"]["v_bbbbbbbbbbb_000002_000012"].captions == ("one", "two")


def test_audioset_prompt(tmp_path):
    audioset(tmp_path)
    annotations = read_annotations("a", dataset("audioset", tmp_path))
    assert annotations.splits[0].captions == ("The sound of Speech,Music",)
    clip = annotations.clips[0]
    assert (clip.clip_id, clip.start, clip.end) == ("v_--PJHxphWEs", 30.0, 40.0)
    assert clip.sound == "nonverbal"


def test_howto_clips_depend_on_their_own_video_only(tmp_path):
    howto(tmp_path)
    both = read_annotations("h", dataset("howto100m", tmp_path)).clips
    howto(tmp_path, ("bcdefghijkl",))
    one = read_annotations("h", dataset("howto100m", tmp_path)).clips
    assert one == [clip for clip in both if clip.source_id == "bcdefghijkl"]
    assert {clip.clip_id for clip in one} == {"v_bcdefghijkl_0_12"}  # 4 words: the whole track


@given(
    st.lists(
        st.tuples(st.floats(0, 50), st.floats(0.1, 12), st.integers(1, 4)), min_size=1, max_size=12
    ),
    st.data(),
)
@settings(max_examples=60, deadline=None)
def test_grown_clips_are_long_enough_and_no_longer_than_needed(parts, data):
    track = sorted(
        TimedCaption(start, start + length, "w " * words) for start, length, words in parts
    )
    index = data.draw(st.integers(0, len(track) - 1))
    clip = form_clip(Track(*map(list, zip(*track, strict=True))), index)
    whole = (track[0].start, max(caption.end for caption in track))
    enough = len(clip.text.split()) >= MIN_WORDS and clip.end - clip.start >= MIN_SECONDS
    assert enough or (clip.start, clip.end) == whole
    assert clip.start <= track[index].start and clip.end >= track[index].end
    if len(track[index].text.split()) >= MIN_WORDS and (
        track[index].end - track[index].start >= MIN_SECONDS
    ):
        assert clip == track[index]


@pytest.mark.parametrize("reader", MAKE)
def test_a_missing_file_names_dataset_path_content_and_remedy(tmp_path, reader):
    with pytest.raises(UserError, match=r"^mine: .*: missing folder. Fix: make it and put .*"):
        read_annotations("mine", dataset(reader, tmp_path / "none"))
    MAKE[reader](tmp_path)
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        path.unlink()
        with pytest.raises(UserError) as caught:
            read_annotations("mine", dataset(reader, tmp_path))
        message = str(caught.value)
        assert message.startswith("mine: ") and "\n" not in message
        if reader != "audioset" or "balanced" not in path.name:  # either list will do there
            assert path.name in message
        assert message.endswith("or set datasets.mine.enabled: false")
        path.mkdir()
        with pytest.raises(UserError, match="not a file"):
            read_annotations("mine", dataset(reader, tmp_path))
        path.rmdir()
        path.write_bytes(content)


@pytest.mark.parametrize("reader", MAKE)
@given(data=st.data())
@settings(max_examples=25, deadline=None)
def test_damaged_files_give_one_line_that_names_a_file(tmp_path_factory, reader, data):
    folder = tmp_path_factory.mktemp("damaged")
    MAKE[reader](folder)
    path = data.draw(st.sampled_from(sorted(folder.iterdir())))
    content = bytearray(path.read_bytes())
    at = data.draw(st.integers(0, len(content) - 1))
    content[at : at + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=8))
    path.write_bytes(content)
    try:
        annotations = read_annotations("mine", dataset(reader, folder))
    except UserError as error:
        assert str(error).startswith("mine: ") and len(str(error).splitlines()) == 1
        assert str(folder) in str(error)
    else:
        assert all(CLIP_ID.fullmatch(clip.clip_id) for clip in annotations.clips)


def tsv(folder, **change):
    row = {
        "clip_id": "ok_1", "file": "clips/ok_1.mp4", "split": "train", "category": "animal",
        "spoken": "0", "captions": '["A frog."]',
    }  # fmt: skip
    with open(folder / "clips.tsv", "w", newline="") as stream:
        writer = csv.DictWriter(stream, row, delimiter="\t")
        writer.writeheader()
        writer.writerows([row, row | {"clip_id": "ok_2"} | change])


@pytest.mark.parametrize(
    ("change", "what"),
    [
        ({"clip_id": "ok_1"}, "occurs twice"),
        ({"clip_id": "-rf"}, "invalid clip id"),
        ({"clip_id": "a.b"}, "invalid clip id"),
        ({"clip_id": "../../etc/passwd"}, "invalid clip id"),
        ({"clip_id": "a" * 101}, "invalid clip id"),
        ({"clip_id": "ok_2\n"}, "invalid clip id"),
        ({"clip_id": "\u0661"}, "invalid clip id"),
        ({"file": "../x.mp4"}, "Fix: use a relative path"),
        ({"file": "/etc/passwd"}, "Fix: use a relative path"),
        ({"file": ""}, "Fix: use a relative path"),
        ({"captions": "[]"}, "has no caption"),
        ({"captions": '[" "]'}, "invalid caption"),
        ({"captions": "[3]"}, "invalid caption"),
        ({"captions": '["\\ud800"]'}, "invalid caption"),
        ({"captions": "A frog."}, "use a JSON list"),
        ({"spoken": "yes"}, "use 0 or 1"),
        ({"split": "a/b"}, "invalid split name"),
    ],
)
def test_hostile_rows_are_refused_with_file_and_line(tmp_path, change, what):
    tsv(tmp_path, **change)
    with pytest.raises(UserError, match=what) as caught:
        read_annotations("mine", dataset("demo", tmp_path))
    assert str(caught.value).startswith(f"mine: {tmp_path}/clips.tsv, line 3: ")
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("start", "end", "what"),
    [("5", "5", "must be after"), ("-1", "5", "0 or more"), ("x", "5", "use seconds"),
     ("nan", "5", "use seconds"), ("5", "", "use seconds")],
)  # fmt: skip
def test_wrong_times_are_refused(tmp_path, start, end, what):
    tsv(tmp_path)
    head = "clip_id\tfile\tstart\tend\tsplit\tcategory\tspoken\tcaptions\n"
    (tmp_path / "film.tsv").write_text(f"{head}ok_1\tfilm.mp4\t{start}\t{end}\ttrain\ta\t0\t[]\n")
    with pytest.raises(UserError, match=what) as caught:
        read_annotations("mine", dataset("demo", tmp_path))
    assert "film.tsv, line 2" in str(caught.value)


def test_split_items_must_name_known_clips(tmp_path):
    msrvtt(tmp_path)
    (tmp_path / "MSRVTT_JSFUSION_test.csv").write_text("video_id,sentence\nvideo9,a cat\n")
    with pytest.raises(UserError, match=r"JSFUSION_test.csv, line 2: split test_1k .*'video9'"):
        read_annotations("mine", dataset("msrvtt", tmp_path))


def test_wrong_columns_and_reader_are_named(tmp_path):
    msrvtt(tmp_path)
    (tmp_path / "MSRVTT_train.9k.csv").write_text("id\nvideo0\n")
    with pytest.raises(UserError, match=r"MSRVTT_train.9k.csv, line 1: column video_id is missing"):
        read_annotations("mine", dataset("msrvtt", tmp_path))
    with pytest.raises(
        UserError,
        match=r"datasets.mine.reader: unknown reader 'nope'. Fix: choose one of audiocaps, audioset",
    ):
        read_annotations("mine", dataset("nope", tmp_path))


@given(
    st.dictionaries(
        st.text(max_size=6),
        st.recursive(
            st.none() | st.integers() | st.text(max_size=8) | st.floats(allow_nan=False),
            lambda inner: st.lists(inner, max_size=3),
            max_leaves=5,
        ),
        max_size=5,
    ),
    st.sampled_from([None, 2]),
    st.sampled_from([1, 3, 1 << 20]),
)
@settings(max_examples=60, deadline=None)
def test_streamed_json_equals_json(tmp_path_factory, value, indent, block):
    path = tmp_path_factory.mktemp("json") / "x.json"
    path.write_text(json.dumps(value, indent=indent) + "\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("clip4vla.datasets.official._BLOCK", block)
        members = [(key, member) for _, key, member in json_members("x", path)]
    assert members == list(value.items())


def test_the_plan_is_sorted_and_shards_do_not_depend_on_other_clips():
    whole, splits = plan("demo", dataset("demo", REPO / "demo", shards=3))
    assert list(whole.clip_id) == sorted(whole.clip_id) and set(whole.shard) == {0, 1, 2}
    assert whole[whole.source_id == "film"].shard.nunique() == 1
    assert list(splits.columns) == ["split", "clip_id", "captions", "labels"]
    assert splits.equals(splits.sort_values(["split", "clip_id"], ignore_index=True))


@pytest.mark.parametrize("reader", MAKE)
def test_times_are_planned_only_where_there_is_something_to_cut(tmp_path, reader):
    MAKE[reader](tmp_path)
    youtube, _ = plan("x", dataset(reader, tmp_path, source="youtube"))
    local, _ = plan("x", dataset(reader, tmp_path, source="local"))
    assert youtube.start.notna().all()
    assert local.start.notna().all() == (reader == "howto100m")
    same = ["clip_id", "source_id", "file", "sound", "shard"]
    assert youtube[same].equals(local[same])


@pytest.mark.parametrize(
    "text",
    ["", "[]", '{"a" 1}', '{"a": 1', '{"a": 1,}', '{"a": 1x}', '{"a": 2.}', "{1: 2}", '{"a": "']
    + ['{"a": 1} {"b": 2}', "{} ]"],
)
def test_streamed_json_refuses_invalid_json(tmp_path, text):
    (tmp_path / "x.json").write_text(text)
    with pytest.raises(UserError, match=r"x.json, line 1: invalid JSON object") as caught:
        list(json_members("mine", tmp_path / "x.json"))
    assert len(str(caught.value).splitlines()) == 1
