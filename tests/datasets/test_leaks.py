"""Pre-training never sees a video that is held out for validation or test."""

from pathlib import Path

import miniatures
import pyarrow.parquet as pq
import pytest

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_ids, write_table
from clip4vla.config.data import Dataset
from clip4vla.config.planner import make_plan
from clip4vla.config.run import HeldOut, Pretrain, Source
from clip4vla.datasets.leaks import clips_seen, find_leaks
from clip4vla.datasets.plan import plan_tables

REPO = Path(__file__).parents[2]
FILES = [REPO / "config.yaml"]


@pytest.fixture
def folder(tmp_path):
    """AudioCaps, VATEX and AudioSet, planned; three of AudioSet's videos are in the others."""
    for reader in ("audiocaps", "vatex", "audioset"):
        place = tmp_path / "notes" / reader
        place.mkdir(parents=True)
        miniatures.WRITE[reader](place)
        if reader == "audioset":
            table = place / "unbalanced_train_segments.csv"
            text = table.read_text()
            for number, other in enumerate(("s-_00000000", "s-_00000005", "s-_00000008")):
                text = text.replace(miniatures.youtube(number, "x"), other)
            table.write_text(text.replace(miniatures.youtube(3, "x"), "b-_00000002"))
        section = Dataset(reader=reader, annotations=place, media=place, shards=2)
        clips, splits, _ = plan_tables(reader, section)
        write_table(tmp_path / reader / "plan.parquet", clips)
        write_table(tmp_path / reader / "splits.parquet", splits)
    return lambda version: tmp_path / version


def test_held_out_videos_are_found_by_their_source(folder):
    held = [
        HeldOut(dataset="audiocaps", splits=["val", "test"]),
        HeldOut(dataset="vatex", splits=["test"]),
    ]
    leaks = find_leaks(held, ["audioset"], folder)
    # s-_00000000 is in AudioCaps' training split: no leak
    assert leaks.clips == {"audioset": {"v_s-_00000005", "v_s-_00000008", "v_b-_00000002"}}
    assert leaks.facts["held_out"] == {
        "audiocaps": {"splits": ["test", "val"], "videos": 4},
        "vatex": {"splits": ["test"], "videos": 2},
    }
    plans = [pq.read_table(folder(name) / "plan.parquet").to_pylist() for name in ("audiocaps",)]
    videos = {row["source_id"] for row in plans[0] if row["source_id"] >= "s-_00000005"}
    videos |= {"b-_00000002", "b-_00000003"}
    assert leaks.facts["videos"] == 6
    assert leaks.facts["videos_sha256"] == sha256_of_ids(videos)
    assert find_leaks(held[1:], ["audiocaps", "audioset"], folder).clips["audiocaps"] == frozenset()


def planned(folder, reader):
    """Plan a miniature beside the others."""
    place = folder(f"notes/{reader}")
    place.mkdir(parents=True)
    miniatures.WRITE[reader](place)
    section = Dataset(reader=reader, annotations=place, media=place, shards=2)
    clips, splits, _ = plan_tables(reader, section)
    write_table(folder(reader) / "plan.parquet", clips)
    write_table(folder(reader) / "splits.parquet", splits)


def pretraining(*sources, held_out=()):
    read = [Source(dataset=d, cache_id="0", split=split) for d, split in sources]
    return Pretrain(sources=read, held_out=[HeldOut(dataset=d, splits=s) for d, s in held_out])


def test_clips_of_videos_that_pretraining_has_read_are_counted(folder):
    scored = Source(dataset="audiocaps", cache_id="0", split="test")
    val = scored.model_copy(update={"split": "val"})
    run = pretraining(("audioset", "train"))
    assert clips_seen([run], scored, folder) == {"v_s-_00000008"}
    assert clips_seen([run], val, folder) == {"v_s-_00000005"}
    assert clips_seen([pretraining(("audioset", "balanced"))], scored, folder) == frozenset()
    assert clips_seen([], scored, folder) == frozenset()
    dropped = pretraining(("audioset", "train"), held_out=[("audiocaps", ["val"])])
    assert clips_seen([dropped], val, folder) == frozenset()
    assert clips_seen([dropped], scored, folder) == {"v_s-_00000008"}
    assert clips_seen([dropped, run], val, folder) == {"v_s-_00000005"}


def test_a_video_counts_for_each_of_its_clips(folder):
    """VGGSound has up to two clips of a video that AudioSet has once."""
    planned(folder, "vggsound")
    path = folder("audioset") / "plan.parquet"
    clips = pq.read_table(path)
    sources = ["v-_00000011" if s == "-1OlgJWehn8" else s for s in clips["source_id"].to_pylist()]
    place = clips.schema.get_field_index("source_id")
    write_table(path, clips.set_column(place, "source_id", [sources]))
    test = Source(dataset="vggsound", cache_id="0", split="test")
    of = {"v_v-_00000011_000007", "v_v-_00000011_000330"}
    assert clips_seen([pretraining(("audioset", "eval"))], test, folder) == of
    assert clips_seen([pretraining(("audioset", "retrieval_1725"))], test, folder) == of
    assert clips_seen([pretraining(("audioset", "train"))], test, folder) == frozenset()
    other = pretraining(("vggsound", "train"))
    assert clips_seen([other], test, folder) == frozenset()


def test_lists_that_are_not_planned_are_named(folder):
    test = Source(dataset="vggsound", cache_id="0", split="test")
    with pytest.raises(UserError, match=r"missing\. Fix: run"):
        clips_seen([pretraining(("audioset", "train"))], test, folder)


def test_a_split_that_is_not_there_and_a_list_that_is_not_planned(folder):
    with pytest.raises(UserError, match="names split 'tset', which its lists do not"):
        find_leaks([HeldOut(dataset="vatex", splits=["tset"])], ["audioset"], folder)
    with pytest.raises(UserError, match=r"missing\. Fix: run"):
        find_leaks([HeldOut(dataset="msrvtt", splits=["test_1k"])], ["audioset"], folder)


def held_out(values=None):
    """dataset -> held-out splits of the experiment's pre-training runs, which all agree."""
    plan = make_plan(FILES, values)
    found = {
        tuple((held.dataset.split("-")[0], *held.splits) for held in plan.run(key).held_out)
        for key in plan.stage("pretrain")
    }
    assert len(found) == 1
    return plan, {name: set(splits) for name, *splits in found.pop()}


def test_ours_holds_out_validation_and_test_of_every_enabled_dataset():
    plan, found = held_out({"targets": ["table1", "table5"]})
    assert found == {
        "audiocaps": {"val", "test"},
        "msrvtt": {"val_ours", "test_1k", "caption_val", "caption_test"},
        "vatex": {"val", "test", "caption_val", "caption_test"},
    }
    assert "audiocaps" in plan.listed.values()  # no table needs it: only its lists are read
    assert "audiocaps" not in plan.versions.values()
    _, without = held_out({"datasets": {"audiocaps": {"enabled": False}}})
    assert set(without) == {"msrvtt", "vatex"}


@pytest.mark.parametrize(
    "values", [{"preset": "paper"}, {"preset": "released"}, {"recipe": {"pretrain.leaks": "keep"}}]
)
def test_the_paper_kept_them(values):
    plan, found = held_out({"targets": ["table1", "table5"], **values})
    assert found == {} and plan.listed == {}
