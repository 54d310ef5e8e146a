"""Labels are a list for each clip; versions of one `label` a clip keep their bytes, and read."""

import pandas as pd
import pyarrow.parquet as parquet
import pytest
from features_fakes import CLIPS
from tiny_world import INPUTS, MODEL, build_world, colour, finetune, optimiser, source

from clip4vla.cache.clips import ClipCache
from clip4vla.cache.manifest import freeze
from clip4vla.cache.repair import repair
from clip4vla.cache.verify import verify
from clip4vla.common.errors import UserError
from clip4vla.common.files import read_json, write_parquet, write_table
from clip4vla.common.parquet import read_frame
from clip4vla.config.data import Cache, Dataset
from clip4vla.config.run import Evaluate
from clip4vla.datasets import Clip, SplitItem
from clip4vla.datasets.clip import Where
from clip4vla.datasets.collect import Collector
from clip4vla.datasets.labels import with_labels
from clip4vla.datasets.plan import in_frozen_form, plan_tables
from clip4vla.evaluation.evaluate import evaluate
from clip4vla.stages.data import read_table
from clip4vla.training.train import train

NOTES = "clip_id\tfile\tsplit\tcategory\tspoken\tcaptions\n"
LABELS = {"alpha": "dog", "bravo": "", "charlie": "bee, wasp, etc.", "delta": "cat"}


@pytest.fixture
def planned(tmp_path):
    """The table of splits of four clips as it is planned now."""
    notes = tmp_path / "notes"
    notes.mkdir()
    lines = [f'{c}\t{c}.mp4\ttest\t{label}\t0\t["A {c}."]\n' for c, label in LABELS.items()]
    (notes / "clips.tsv").write_text(NOTES + "".join(lines))
    dataset = Dataset(reader="demo", annotations=notes, media=tmp_path, source="local")
    return plan_tables("demo", dataset)[1]


@pytest.fixture
def older(planned, manifest_path):
    """The same table as older versions planned and read it: one text a clip, "" for none."""
    frame = planned.to_pandas().drop(columns="labels").assign(label=list(LABELS.values()))
    types = {"split": "string", "clip_id": "string", "captions": "object", "label": "string"}
    path = manifest_path.parents[1] / "older.parquet"
    write_parquet(path, frame.astype(types))
    return read_frame(path, "")


def frozen(ledger, splits, manifest_path):
    folder = manifest_path.parent
    indexes = [folder / "shards" / f"{shard}.parquet" for shard in (0, 1)]
    freeze(ledger, splits, indexes, "demo-v1-0a1b2c", Cache(), folder)
    return {path.name: path.read_bytes() for path in folder.glob("*.*")}


def bytes_before(older, path):
    """What versions with one label a clip were frozen as, written without the code of today."""
    kept = older[older.clip_id.isin(CLIPS)].sort_values(["split", "clip_id"])
    columns = ["split", "clip_id", "captions", "label"]
    kept[columns].reset_index(drop=True).to_parquet(path, index=False, compression="zstd")
    return path.read_bytes()


def test_a_table_with_one_label_a_clip_is_frozen_to_the_bytes_it_had(
    ledger, older, manifest_path, tmp_path
):
    files = frozen(ledger, older, manifest_path)
    assert files["splits.parquet"] == bytes_before(older, tmp_path / "before.parquet")
    cache = ClipCache(manifest_path)
    known = {name: (label,) if label else () for name, label in LABELS.items()}
    assert cache.splits.columns.tolist() == ["split", "clip_id", "captions", "labels"]
    found = dict(zip(cache.splits.clip_id, cache.splits["labels"], strict=True))
    assert found == {name: known[name] for name in CLIPS if name in known}


def test_a_version_of_one_label_a_clip_is_planned_again_to_the_same_bytes(
    ledger, older, planned, manifest_path, tmp_path
):
    """Its official lists are read anew, and it is frozen or repaired from the new table."""
    before = frozen(ledger, older, manifest_path)
    version = tmp_path / "version"
    version.mkdir()
    assert in_frozen_form(planned, version).equals(planned)
    manifest_path.parent.rename(version / "cache-0a1b2c")
    manifest_path = version / "cache-0a1b2c" / "manifest.json"
    write_table(version / "splits.parquet", in_frozen_form(planned, version))
    again = read_table(version / "splits.parquet")
    assert frozen(ledger, again, manifest_path) == before
    manifest_path.with_name("splits.parquet").write_bytes(b"damaged")
    assert repair(manifest_path, verify(manifest_path), ledger, again) == []
    assert manifest_path.with_name("splits.parquet").read_bytes() == before["splits.parquet"]


def test_a_damaged_frozen_table_is_no_older_form(planned, tmp_path):
    path = tmp_path / "cache-0a1b2c" / "splits.parquet"
    path.parent.mkdir()
    path.write_bytes(b"PAR1 and no more")
    assert in_frozen_form(planned, tmp_path) is planned


def test_both_forms_read_alike(planned, older):
    new, old = with_labels(planned.to_pandas()), with_labels(older)
    assert list(new["labels"]) == list(old["labels"])
    assert list(new["labels"]) == [("dog",), (), ("bee, wasp, etc.",), ("cat",)]
    missing = with_labels(pd.DataFrame({"label": [None, "x"]}))
    assert list(missing["labels"]) == [(), ("x",)]


def test_a_table_without_labels_in_any_form_is_refused(older, tmp_path):
    path = tmp_path / "splits.parquet"
    write_parquet(path, older.drop(columns="label"))
    with pytest.raises(UserError, match=r"splits\.parquet: no column labels\. Fix: "):
        read_table(path)


def test_several_labels_come_back_from_a_frozen_version(ledger, manifest_path):
    items = [
        {"split": "test", "clip_id": name, "captions": ["x"], "labels": labels}
        for name, labels in (("alpha", ["Music", "Bee, wasp, etc."]), ("bravo", []))
    ]
    frozen(ledger, pd.DataFrame(items), manifest_path)
    cache = ClipCache(manifest_path)
    assert list(cache.splits["labels"]) == [("Music", "Bee, wasp, etc."), ()]
    kind = parquet.read_schema(manifest_path.with_name("splits.parquet")).field("labels").type
    assert str(kind.value_type) == "string"


@pytest.mark.parametrize("labels", [("a", " "), ("a", "b\0"), ("a", "\ud800"), ("a", "b", "a")])
def test_invalid_labels_are_refused_by_line(tmp_path, labels):
    into, where = Collector("mine", tmp_path), Where(tmp_path / "x.csv", "line", 7)
    into.clip(Clip("one", "one", "one.mp4"), where)
    with pytest.raises(UserError, match=r"mine: .*x\.csv, line 7: .*label.*\. Fix: "):
        into.item(SplitItem("train", "one", ("A caption.",), labels), where)


def one_label(splits):
    return splits.assign(label=[labels[0] for labels in splits["labels"]]).drop(columns="labels")


def classified(manifests, folder):
    """Train a probe for a few steps and evaluate it; return metrics.json and predictions."""
    given = {"val": None, "selection": "last", "missing_audio": "none"}
    run = finetune("classification", optimiser=optimiser(epochs=2), **given)
    train(run, manifests, None, {}, None, folder / "state", folder / "out")
    values = {"test": source("test"), "missing_audio": "none", "model": MODEL, "inputs": INPUTS}
    of = Evaluate(start=None, task="classification", **values)
    evaluate(of, manifests, folder / "out" / "model.safetensors", {}, None, folder / "out", "k")
    predictions = pd.read_parquet(folder / "out" / "predictions.parquet")
    return read_json(folder / "out" / "metrics.json"), predictions


def test_classification_reads_both_forms_alike(tmp_path):
    found = {
        name: classified(build_world(tmp_path / name, labelled), tmp_path / name / "run")
        for name, labelled in (("new", lambda splits: splits), ("older", one_label))
    }
    (metrics, predictions), (older, older_predictions) = found["new"], found["older"]
    assert list(predictions.columns[:3]) == ["clip_id", "label", "predicted"]
    assert list(predictions.label) == [colour(clip_id) for clip_id in predictions.clip_id]
    assert metrics["galleries"] == older["galleries"]
    assert predictions.equals(older_predictions)


@pytest.mark.parametrize(
    ("split", "labels", "problem"),
    [
        ("train", [], "has no label"),
        ("train", ["red", "b"], r"has 2 labels \(red; b\), but classification needs one"),
        ("val", [], "has no label"),
        ("test", [], "has no label"),
        ("test", ["red", "b"], r"has 2 labels \(red; b\), but classification needs one"),
    ],
)
def test_classification_needs_one_label_a_clip(tmp_path, split, labels, problem):
    clip = {"train": "t3", "val": "v2", "test": "e4"}[split]

    def changed(splits):
        return splits.assign(
            labels=[
                labels if clip_id == clip else own
                for clip_id, own in zip(splits.clip_id, splits["labels"], strict=True)
            ]
        )

    manifests = build_world(tmp_path / "world", changed)
    with pytest.raises(
        UserError, match=rf"split {split}: clip {clip} {problem}.*\. Fix: "
    ) as error:
        if split == "val":
            run = finetune("classification", missing_audio="none")
            train(run, manifests, None, {}, None, tmp_path / "state", tmp_path / "out")
        else:
            classified(manifests, tmp_path / "run")
    assert "\n" not in str(error.value)
