"""The official files of the seven datasets: clips, splits, protocols and refused files."""

import pickle
import random

import miniatures
import numpy as np
import pyarrow as pa
import pytest

from clip4vla.common.errors import UserError
from clip4vla.config.data import Dataset, Expected
from clip4vla.datasets import read_annotations, readers
from clip4vla.datasets.clip import Clip, Protocol, SplitItem, Where
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.expected import compare, differences
from clip4vla.datasets.plan import plan, plan_tables, shard_of


def dataset(reader, folder, **more):
    return Dataset(reader=reader, annotations=folder, **({"media": folder} | more))


def splits_of(annotations):
    splits = {}
    for item in annotations.splits:
        splits.setdefault(item.split, {})[item.clip_id] = item
    return splits


@pytest.fixture
def made(tmp_path):
    """Write a miniature; gives its dataset section."""

    def make(reader, **more):
        miniatures.WRITE[reader](tmp_path)
        return dataset(reader, tmp_path, **more)

    return make


def refused(section):
    with pytest.raises(UserError) as caught:
        read_annotations("mine", section)
    assert len(str(caught.value).splitlines()) == 1
    assert str(caught.value).count(". Fix: ") == 1
    return str(caught.value)


def edit(path, old, new, count=1):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, count))


def test_audiocaps_has_five_captions_where_the_lists_have_five_rows(made):
    splits = splits_of(annotations := read_annotations("a", made("audiocaps")))
    assert {split: len(items) for split, items in splits.items()} == {
        "train": 5, "val": 2, "test": 2,
    }  # fmt: skip
    assert {len(item.captions) for item in splits["train"].values()} == {1}
    assert {len(item.captions) for item in splits["test"].values()} == {5}
    clip = annotations.clips[7]
    assert (clip.clip_id, clip.source_id, clip.start, clip.end, clip.file) == (
        "v_s-_00000007", "s-_00000007", 210.0, 220.0, "s-_00000007.mp4",
    )  # fmt: skip
    assert splits["test"][clip.clip_id].captions[4] == "A man speaks, then 7 dogs bark 4"


def test_esc50_folds(made):
    splits = splits_of(annotations := read_annotations("e", made("esc50")))
    for k in range(1, 6):
        held_out = k % 5 + 1
        folds = {
            part: {clip_id[0] for clip_id in splits[f"{part}_{k}"]}
            for part in ("train", "test", "train_ours", "val_ours")
        }
        assert folds["test"] == {str(k)} and folds["train"] == set("12345") - {str(k)}
        assert folds["val_ours"] == {str(held_out)}
        assert folds["train_ours"] == folds["train"] - folds["val_ours"]
    item = splits["test_1"]["1-100120-A-20"]
    assert (item.captions, item.labels) == (("crying baby",), ("crying_baby",))
    assert annotations.clips[0].file == "audio/1-100100-A-0.wav"


def test_ucf101_holds_out_groups_that_no_test_list_has(made):
    splits = splits_of(annotations := read_annotations("u", made("ucf101")))
    for k, tested in ((1, 1), (2, 8), (3, 15)):
        groups = {
            part: {int(clip_id.split("_g")[1][:2]) for clip_id in splits[f"{part}_{k}"]}
            for part in ("train", "test", "train_ours", "val_ours")
        }
        assert groups["test"] == {tested} and groups["val_ours"] == {22, 23}
        assert groups["train"] == {1, 8, 15, 22, 23} - {tested}
        assert groups["train_ours"] == groups["train"] - {22, 23}
    item = splits["train_1"]["v_ApplyEyeMakeup_g08_c01"]
    assert (item.captions, item.labels) == (("apply eye makeup",), ("ApplyEyeMakeup",))
    assert annotations.clips[0].source_id == "v_ApplyEyeMakeup_g01"


def test_ucf101_reads_the_archives_own_spelling(made, tmp_path):
    section = made("ucf101")
    for path in miniatures.files_in(tmp_path):
        text = path.read_text().replace("v_YoYo", "v_HandStandPushups")
        path.write_text(text.replace("YoYo", "HandstandPushups"))
    files = {clip.file for clip in read_annotations("u", section).clips}
    assert "HandstandPushups/v_HandStandPushups_g01_c01.avi" in files


def test_msrvtt_also_comes_as_the_official_pair_of_files(made, tmp_path):
    import json

    merged = read_annotations("m", made("msrvtt"))
    data = json.loads((tmp_path / "MSRVTT_data.json").read_text())
    (tmp_path / "MSRVTT_data.json").unlink()
    for name, last in (("train_val_videodatainfo.json", False), ("test_videodatainfo.json", True)):
        videos = [video for video in data["videos"] if (video["split"] == "test") == last]
        ids = {video["video_id"] for video in videos}
        sentences = [one for one in data["sentences"] if one["video_id"] in ids]
        (tmp_path / name).write_text(json.dumps({"videos": videos, "sentences": sentences}))
    pair = read_annotations("m", dataset("msrvtt", tmp_path))
    assert pair.clips == merged.clips and pair.splits == merged.splits
    (tmp_path / "MSRVTT_train.7k.csv").write_text("video_id\nvideo0\nvideo9\n")
    splits = splits_of(read_annotations("m", dataset("msrvtt", tmp_path)))
    assert sorted(splits["train_7k"]) == ["video0", "video9"]


def test_vatex_reads_hgrs_arrays_and_never_a_pickle(made, tmp_path):
    section = made("vatex")
    path = tmp_path / "tst_names.npy"
    texts = np.load(path)
    whole = splits_of(read_annotations("v", section))["test"]
    np.save(path, texts.astype("S"))
    assert splits_of(read_annotations("v", section))["test"] == whole
    np.save(path, np.array(list(texts), dtype=object))
    text = refused(section)
    assert "could run code" in text and "allow_pickle=True" in text and "tst_names.txt" in text
    ran = tmp_path / "ran"

    class Hostile:
        def __reduce__(self):
            return exec, (f"open({str(ran)!r}, 'w')",)

    path.write_bytes(pickle.dumps(Hostile()))
    assert "invalid numpy file" in refused(section)
    for wrong in (np.zeros((2, 2)), np.array([["a"]]), np.array("a")):
        np.save(path, wrong)
        assert "not one row of texts" in refused(section)
    np.save(path, np.array(["é" * 11 + "_1_2"]))
    assert "is not in" in refused(section)
    assert not ran.exists()


def test_howto100m_tells_of_videos_without_clips(made):
    annotations = read_annotations("h", made("howto100m"))
    (note,) = annotations.notes
    assert "1 of 5 videos give no clip: 1 not in raw_caption.json, 0 without" in note
    assert all(clip.end - clip.start >= 10 for clip in annotations.clips)
    assert len({clip.source_id for clip in annotations.clips}) == 4


def test_howto100m_draws_by_seed_and_number(made, tmp_path):
    one = read_annotations("h", made("howto100m", clips_per_video=1)).clips
    assert len(one) == 4
    more = read_annotations("h", dataset("howto100m", tmp_path, clips_per_video=12)).clips
    assert {clip.clip_id for clip in one} < {clip.clip_id for clip in more}
    other = read_annotations("h", dataset("howto100m", tmp_path, clips_per_video=1, clip_seed=1))
    assert other.clips != one
    edit(tmp_path / "raw_caption.json", miniatures.youtube(3, "h"), miniatures.youtube(2, "h"))
    assert "member 4" in (text := refused(dataset("howto100m", tmp_path))) and "twice" in text


# reader, file, old, new, what the line says
WRONG = [
    ("audiocaps", "val.csv", "audiocap_id,", "", "line 1: column audiocap_id is missing"),
    ("audiocaps", "val.csv", "caption\n", "caption,mood\n", "line 1: unknown column 'mood'"),
    ("audiocaps", "val.csv", "audiocap_id,", ",audiocap_id,", "index=False"),
    ("audiocaps", "val.csv", "caption\n", "caption,caption\n", "repeated column in"),
    ("audiocaps", "test.csv", "\n16,", "\n17,", "audiocap_id '17' occurs twice (first in"),
    ("audiocaps", "test.csv", "s-_00000007", "s-_00000005", "is in test and in val ("),
    ("audiocaps", "test.csv", ",210,", ",211,", "starts at 210.0 here, but not in"),
    ("audiocaps", "test.csv", ",210,", ",soon,", "line 2: invalid start_time 'soon'. Fix: use seconds"),
    ("audiocaps", "train.csv", ',0,"A', ',-5,"A', "line 2: invalid start -5.0. Fix: use seconds"),
    ("audiocaps", "test.csv", ",210,", ",nan,", "line 2: invalid start_time 'nan'"),
    ("audiocaps", "train.csv", "s-_00000000", "../../x", "invalid YouTube id"),
    ("esc50", "meta/esc50.csv", "1-100100-A-0.wav,1", "1-100100-A-0.wav,2", "but filename says 1"),
    ("esc50", "meta/esc50.csv", "1-100100-A-0.wav", "../1-100100-A-0.wav", "line 2: invalid filename"),
    ("esc50", "meta/esc50.csv", ",0,dog", ",0,cat", "target '0' has category 'dog', but cat in"),
    ("ucf101", "classInd.txt", "101 YoYo", "1 YoYo", "or its number occurs twice"),
    ("ucf101", "trainlist01.txt", "g08_c01.avi 1", "g08_c01.avi 101", "line 1: class number is"),
    ("ucf101", "trainlist01.txt", "_g08_", "_g01_", "is also in trainlist01 ("),
    ("ucf101", "testlist01.txt", "ApplyEyeMakeup/", "../", "line 1: invalid file '../v_ApplyEyeMakeup"),
    ("ucf101", "testlist01.txt", "YoYo/v_YoYo", "Yo/v_Yo", "class 'Yo' is not in classInd.txt"),
    ("msrvtt", "MSRVTT_JSFUSION_test.csv", "video10", "video9", "which must share no clip"),
    ("msrvtt", "MSRVTT_train.9k.csv", "video9", "video8", "is twice in split"),
    ("msrvtt", "MSRVTT_data.json", '"start time": 137.72', '"start time": 999', "must be after"),
    ("vatex", "vatex_retrieval_val.txt", "b-_00000000_000000", "b-_00000002_000002", "is not in"),
    ("vatex", "vatex_training_v1.0.json", "a-_00000001_000001_000011",
     "a-_00000000_000000_000010", "occurs twice (first in"),
    ("audioset", "class_labels_indices.csv", "/m/05zppz", "/m/09x0r", "occurs twice"),
    ("audioset", "unbalanced_train_segments.csv", "10.000, 20.000", "20.000, 20.000", "line 5: end"),
    ("howto100m", "raw_caption.json", '"end": [', '"end": [1, ', "have different lengths"),
    ("howto100m", "raw_caption.json", '"start": [0.0', '"start": [true', "invalid start of caption 0"),
]  # fmt: skip


@pytest.mark.parametrize(("reader", "file", "old", "new", "what"), WRONG)
def test_wrong_files_are_refused_with_file_and_line(made, tmp_path, reader, file, old, new, what):
    section = made(reader)
    edit(tmp_path / file, old, new)
    text = refused(section)
    assert what in text and str(tmp_path) in text and text.startswith("mine: ")


@pytest.mark.parametrize(
    ("reader", "file"),
    [
        ("audiocaps", "val.csv"),
        ("ucf101", "testlist02.txt"),
        ("msrvtt", "MSRVTT_data.json"),
        ("howto100m", "raw_caption.json"),
    ],
)
def test_text_that_is_not_utf8_is_refused_with_its_line(made, tmp_path, reader, file):
    section = made(reader)
    whole = (tmp_path / file).read_bytes()
    (tmp_path / file).write_bytes(b"\n" * 3 + whole.rstrip() + "caf\xe9\n".encode("latin-1"))
    line = 3 + len(whole.rstrip().splitlines())
    assert f"{file}, line {line}: not UTF-8 text. Fix: save the file as UTF-8" in refused(section)


def test_splits_of_a_protocol_share_no_clip_and_others_may(made, tmp_path):
    section = made("msrvtt")
    found = splits_of(read_annotations("m", section))
    assert set(found["caption_test"]) & set(found["train_9k"])  # different tasks: allowed
    for protocol in readers()["msrvtt"].PROTOCOLS.values():
        parts = [set(found.get(split, ())) for split in protocol.splits()]
        assert len(set().union(*parts)) == sum(map(len, parts))
    edit(tmp_path / "MSRVTT_JSFUSION_test.csv", "video10", "video3")
    text = refused(section)
    assert "JSFUSION_test.csv, line 2: clip video3 is in split test_1k and in split train_" in text
    assert "9k.csv, line 5)" in text


@pytest.mark.parametrize("other", ["val", "test"])
def test_two_splits_without_a_third_share_no_clip_either(tmp_path, other):
    def collected():
        into = Collector("mine", tmp_path)
        where = Where(tmp_path / "list.txt", "line", 7)
        into.clip(Clip("abc", "abc", "abc.mp4"), where)
        for split in ("train", other):
            into.item(SplitItem(split, "abc", ("a dog",)), where)
        return into

    collected().annotations([Protocol("train")])  # alone, it has nothing to share with
    with pytest.raises(UserError, match=rf"in split {other} and in split train .*share no clip"):
        collected().annotations([Protocol("train", **{other: other})])


@pytest.mark.parametrize("reader", miniatures.WRITE)
def test_every_split_of_every_protocol_exists(made, reader):
    found = splits_of(read_annotations("x", made(reader)))
    for name, protocol in readers()[reader].PROTOCOLS.items():
        if name != "retrieval_7k":  # its list may be there or not
            assert set(protocol.splits()) <= set(found)


@pytest.mark.parametrize(
    ("source", "cuts"),
    [
        ({"source": "local"}, False),
        ({"source": "http", "url": "https://x.example/{file}"}, False),
        ({"source": "http", "url": "https://x.example/watch?v={source_id}"}, True),
        ({"source": "youtube"}, True),
    ],
)
def test_clips_are_cut_from_original_uploads_only(made, source, cuts):
    clips, _, _ = plan_tables(
        "mine", made("vatex", **source, **({} if source["source"] == "local" else {"media": None}))
    )
    assert (clips["start"].null_count == 0) is cuts
    assert clips["annotated_start"].null_count == 0


def test_differences_from_the_official_counts_are_reported(made):
    expected = {"train": {"clips": 5}, "val": {"clips": 3, "tolerance": 0.5}, "test": 4}
    section = made("audiocaps", expected=expected)
    _, splits, _ = plan_tables("mine", section)
    assert differences("mine", section, splits) == [
        "mine: split test has 2 clips, officially 4 (-50.0%; BEYOND the tolerance of 2.0%)",
        "mine: split val has 2 clips, officially 3 (-33.3%; within the tolerance of 50.0%)",
    ]


def test_the_coverage_table_remarks_on_counts_beyond_the_tolerance():
    import pandas as pd

    rows = {"split": ["test", "val"], "planned": [100, 5], "with_video": [97, 5]}
    table = compare(
        pd.DataFrame(rows | {"with_sound": [80, 5]}),
        {"test": Expected(clips=100, with_sound=88)},
    )
    assert table.remark.tolist() == ["with_video -3.0%, with_sound -9.1%", ""]
    assert table.expected_with_sound.tolist()[0] == 88 and pd.isna(table.tolerance[1])


def test_adding_ids_moves_no_other_id(tmp_path):
    """Stable shards: whatever is added or removed, every other clip stays where it is."""
    chance = random.Random(0)
    numbers = chance.sample(range(10**8), 300)
    lists = {}
    for name, part in (("few", numbers[:200]), ("many", numbers), ("other", numbers[50:])):
        folder = tmp_path / name
        folder.mkdir()
        miniatures.audioset(folder)
        chance.shuffle(part)
        head = "# a\n# b\n# c\n"
        lines = [f'{miniatures.youtube(n, "x")}, 0.000, 10.000, "/m/09x0r"\n' for n in part]
        (folder / "unbalanced_train_segments.csv").write_text(head + "".join(lines))
        clips, _ = plan("a", dataset("audioset", folder, shards=7))
        lists[name] = dict(zip(clips.clip_id, clips.shard, strict=True))
    assert lists["few"].items() <= lists["many"].items()
    assert lists["other"].items() <= lists["many"].items()
    assert set(lists["many"].values()) == set(range(7))
    # frozen: a change here would move every clip of every user
    assert [shard_of(miniatures.youtube(n), 586) for n in range(4)] == [166, 119, 241, 579]


def test_equal_lists_give_equal_bytes(made, tmp_path):
    from clip4vla.common.files import write_table

    section = made("howto100m", shards=3)
    for name in ("one", "two"):
        clips, splits, _ = plan_tables("h", section)
        write_table(tmp_path / name, pa.concat_tables([clips]))
        write_table(tmp_path / f"{name}-splits", splits)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert (tmp_path / "one-splits").read_bytes() == (tmp_path / "two-splits").read_bytes()
