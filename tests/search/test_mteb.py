"""mteb's own evaluator on local tasks of the demo's clips: its numbers are ours."""

import csv
import json

import coavt_cases
import mteb
import numpy as np
import pytest
import torch
from datasets import Audio, Dataset, Video
from embed_files import DEMO, write_tiny
from mteb.abstasks.retrieval import AbsTaskRetrieval
from mteb.abstasks.retrieval_dataset_loaders import RetrievalSplitData
from mteb.abstasks.task_metadata import TaskMetadata

from clip4vla.checkpoints.checkpoint import write_checkpoint
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.settings import Settings
from clip4vla.metrics.recalls import rank_metrics
from clip4vla.metrics.retrieval import clip_ranks
from clip4vla.models.common.scorer import SecondScorer
from clip4vla.mteb import Model
from clip4vla.search.asked import first_piece
from clip4vla.search.encoder import Encoder

CASTS = {"video": Video(), "audio": Audio()}
K = (1, 5, 10)


def demo_clips(number):
    """Clips of the demo with sound, and a caption of each."""
    with open(DEMO.parent / "clips.tsv", newline="") as stream:
        rows = [row for row in csv.DictReader(stream, delimiter="\t") if row["audio"] == "ok"]
    rows = rows[:number]
    return [DEMO / f"{row['clip_id']}.mp4" for row in rows], [
        json.loads(row["captions"])[0] for row in rows
    ]


PATHS, TEXTS = demo_clips(12)


def dataset(parts, as_bytes=False):
    columns = {"id": [f"d{i}" for i in range(len(PATHS))]}
    for part in parts:
        files = (
            [{"bytes": p.read_bytes(), "path": None} for p in PATHS]
            if as_bytes
            else [str(p) for p in PATHS]
        )
        columns[part] = TEXTS if part == "text" else files
    made = Dataset.from_dict(columns)
    for part in parts:
        if part in CASTS:
            made = made.cast_column(part, CASTS[part])
    return made


def task(category, asked, answers, as_bytes=False):
    class Local(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Local" + category.upper(),
            description="Clips of the demo.",
            reference=None,
            dataset={"path": "local", "revision": "1"},
            type="Any2AnyRetrieval",
            category=category,
            modalities=sorted({*asked, *answers}),
            eval_splits=["test"],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
            date=None,
            domains=None,
            task_subtypes=None,
            license=None,
            annotations_creators=None,
            dialect=None,
            sample_creation=None,
            bibtex_citation=None,
        )

        def load_data(self, **kwargs):
            qrels = {f"d{i}": {f"d{i}": 1} for i in range(len(PATHS))}
            self.dataset = {
                "default": {
                    "test": RetrievalSplitData(
                        queries=dataset(asked),
                        corpus=dataset(answers, as_bytes),
                        relevant_docs=qrels,
                        top_ranked=None,
                    )
                }
            }
            self.data_loaded = True

    return Local()


@pytest.fixture(scope="module")
def model(weights):
    return Model(weights, device="cpu")


def scores_of(model, local):
    (result,) = mteb.evaluate(model, local, cache=None, show_progress_bar=False).task_results
    return result.scores["test"][0]


def vectors(embedder):
    return {
        "text": embedder.embed_text(TEXTS),
        "video": embedder.embed_video(PATHS),
        "audio": embedder.embed_audio(PATHS),
    }


@pytest.fixture(scope="module")
def ours(model):
    """Similarities of every kind by the embedder, without mteb."""
    own = vectors(model.embedder)
    text = own.pop("text")
    similarity = model.embedder.similarity
    return {
        "t2v": similarity(text, video=own["video"]),
        "t2a": similarity(text, audio=own["audio"]),
        "t2va": similarity(text, **own),
        "a2t": similarity(text, audio=own["audio"]).T,
        "v2t": similarity(text, video=own["video"]).T,
        "a2v": own["audio"] @ own["video"].T,
        "v2a": own["video"] @ own["audio"].T,
    }


@pytest.mark.parametrize(
    ("category", "asked", "answers"),
    [
        ("t2v", ["text"], ["video"]),
        ("t2a", ["text"], ["audio"]),
        ("t2va", ["text"], ["video", "audio"]),
        ("a2t", ["audio"], ["text"]),
        ("v2t", ["video"], ["text"]),
        ("a2v", ["audio"], ["video"]),
        ("v2a", ["video"], ["audio"]),
    ],
)
def test_the_numbers_of_mteb_are_ours(model, ours, category, asked, answers):
    found = scores_of(model, task(category, asked, answers))
    targets = np.arange(len(PATHS))
    expected = rank_metrics(clip_ranks(ours[category], targets), "t2v")
    for k in K:
        assert found[f"hit_rate_at_{k}"] * 100 == pytest.approx(expected[f"t2v_R{k}"], abs=1e-3)
        assert found[f"recall_at_{k}"] == found[f"hit_rate_at_{k}"]
    similarity = ours[category]
    ranks = 1 + (similarity > similarity[targets, targets][:, None]).sum(axis=1)
    ndcg = np.where(ranks <= 10, 1 / np.log2(1 + ranks), 0).mean()
    assert found["ndcg_at_10"] == pytest.approx(ndcg, abs=1e-4)
    assert 0 < ndcg < 1  # not all right or wrong, whatever the scores


def test_files_within_the_dataset_score_alike(model):
    local = [
        task("t2va", ["text"], ["video", "audio"], as_bytes=within) for within in (False, True)
    ]
    first, second = (scores_of(model, one) for one in local)
    assert first == second


def test_results_are_filed_under_the_file_and_its_options(model, weights):
    meta = model.mteb_model_meta
    assert meta.name == "local/model" and meta.revision == sha256_of_file(weights)
    assert meta.modalities == ["text", "video", "audio"]
    assert Model(weights, name="me/mine", device="cpu").mteb_model_meta.name == "me/mine"


def test_tasks_that_cannot_be_scored_are_named(model):
    with pytest.raises(UserError, match="LocalVT2A: compares text.video with audio"):
        scores_of(model, task("vt2a", ["video", "text"], ["audio"]))
    plain = Dataset.from_dict({"id": ["a"], "audio": [[0.0, 1.0]]})
    model.index(plain)
    with pytest.raises(UserError, match="column audio: not files of sound"):
        model.search(
            dataset(["text"]), task_metadata=task("t2a", ["text"], ["audio"]).metadata, top_k=3
        )


def test_rescoring_is_of_families_that_do_it(weights):
    with pytest.raises(UserError, match="rescore: a model of family clip4vla has no second scores"):
        Model(weights, rescore=5)


def test_a_file_that_cannot_be_decoded_is_scored_without(model, tmp_path, caplog):
    (tmp_path / "bad.mp4").write_bytes(b"not media")
    clips = Dataset.from_dict(
        {"id": ["good", "bad"], "video": [str(PATHS[0]), str(tmp_path / "bad.mp4")]}
    )
    model.index(clips.cast_column("video", Video()))
    found = model.search(
        dataset(["text"]), task_metadata=task("t2v", ["text"], ["video"]).metadata, top_k=2
    )
    assert set(found["d0"]) == {"good", "bad"} and np.isfinite([*found["d0"].values()]).all()
    assert "bad: no video" in caplog.text and "1 streams could not be decoded" in caplog.text


def test_candidates_are_ranked_among_themselves(model):
    model.index(dataset(["video"]))
    about = task("t2v", ["text"], ["video"]).metadata
    every = model.search(dataset(["text"]), task_metadata=about, top_k=12)
    top = {query: ["d3", "d1"] for query in every}
    some = model.search(dataset(["text"]), task_metadata=about, top_k=12, top_ranked=top)
    for query, scores in some.items():
        assert scores == {name: every[query][name] for name in scores} and set(scores) == {
            "d1",
            "d3",
        }
        assert [*scores.values()] == sorted(scores.values(), reverse=True)


@pytest.fixture(scope="module")
def coavt(tmp_path_factory):
    path = tmp_path_factory.mktemp("coavt") / "coavt.safetensors"
    given = {"inputs": coavt_cases.INPUTS, "cache": coavt_cases.CACHE}
    settings = Settings(model=coavt_cases.model_section(), task="retrieval", **given)
    write_checkpoint(path, coavt_cases.build(), settings, {})
    return path


@pytest.fixture(scope="module")
def tight(tmp_path_factory):
    path = tmp_path_factory.mktemp("tight") / "tight.safetensors"
    return write_tiny(path, model={"fusion": "tight"}, task="retrieval")


def one_by_one(embedder):
    """The scorer, and features of each text and each clip, made alone."""
    encoder, settings = Encoder(embedder, [embedder.share_of_nb(None)]), embedder.settings
    tokens = [
        embedder.model.processor.tokenize([text], settings.inputs.max_words) for text in TEXTS
    ]
    clips = []
    for path in PATHS:
        batch = encoder.batch([first_piece(path, settings, settings.modalities)], encoder.shares[0])
        clips.append(
            embedder.scorer.clip_features(embedder.model.encode_clips(batch, settings.modalities))
        )
    return embedder.scorer, [embedder.scorer.text_features(ids) for ids in tokens], clips


def found_by(model, **options):
    model.index(dataset(["video", "audio"]))
    about = task("t2va", ["text"], ["video", "audio"]).metadata
    found = model.search(dataset(["text"]), task_metadata=about, **({"top_k": 12} | options))
    return np.array([[found[f"d{q}"].get(f"d{i}", np.nan) for i in range(12)] for q in range(12)])


@pytest.mark.parametrize("kind", ["coavt", "tight"])
@torch.no_grad()
def test_other_families_and_joint_encoders_are_scored_as_they_are_evaluated(request, kind):
    model = Model(request.getfixturevalue(kind), device="cpu")
    scorer, texts, clips = one_by_one(model.embedder)
    expected = [[scorer.scores(text, clip, 1.0)["t_va"].item() for clip in clips] for text in texts]
    assert np.allclose(found_by(model), expected, atol=1e-4)
    assert np.std(expected) > 1e-3


def test_other_families_are_scored_in_half_precision(coavt, half_precision):
    scores = found_by(Model(coavt, device="cpu"))
    assert np.isfinite(scores).all() and np.std(scores) > 1e-3


@torch.no_grad()
def test_candidates_are_scored_again_by_pairs(coavt):
    model = Model(coavt, device="cpu", rescore=3)
    assert model.mteb_model_meta.experiment_kwargs["rescore"] == 3
    scorer, texts, clips = one_by_one(model.embedder)
    assert isinstance(scorer, SecondScorer)
    pair = torch.tensor([[0, 0]])
    for text, row in zip(texts, found_by(model), strict=True):
        first = np.array([scorer.scores(text, clip, 1.0)["t_va"].item() for clip in clips])
        best = np.argsort(-first)[:3]
        second = [scorer.rescored(text, clips[i], pair).item() for i in best]
        assert np.argsort(-row)[:3].tolist() == best[np.argsort(second)[::-1]].tolist()
        rest = np.argsort(-first)[3:]
        assert np.argsort(-row)[3:].tolist() == rest.tolist()
