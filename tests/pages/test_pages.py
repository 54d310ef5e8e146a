"""Example pages: contents, size, and escaping of untrusted texts."""

import io
from html.parser import HTMLParser

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image

from clip4vla.common.errors import UserError
from clip4vla.common.files import write_json
from clip4vla.pages.confusion import confusion
from clip4vla.pages.donors import write_donors
from clip4vla.pages.examples import write_examples
from clip4vla.pages.sampling import DECIDED, EXTREMES, RANDOM, choose, counts
from clip4vla.pages.thumbnails import FRAME, STRIP, WIDTH, picture

EVIL = '<script>alert("x")</script> & \'"></style><img src=x onerror=y> \u202e{{}} 犬'


def jpeg(colour):
    stream = io.BytesIO()
    Image.new("RGB", (300, 224), colour).save(stream, format="JPEG")
    return bytearray(stream.getvalue())


class FakeCache:
    """Clips of one colour with a rising tone; those whose id ends in q are silent."""

    def read_frames(self, clip_id, most=None):
        if clip_id.startswith("sound"):
            return []
        return [bytearray(b"no jpeg")] if clip_id == "broken" else [jpeg((200, 30, 30))] * 3

    def read_log_mel(self, clip_id):
        if clip_id.endswith("q"):
            return None
        steps = torch.arange(400)[None, :, None] * torch.ones(3, 1, 224)
        return (steps / 5 - 80).half()


class Page(HTMLParser):
    """What a browser would make of it: elements, their attributes, and text."""

    def __init__(self, path):
        super().__init__()
        self.tags, self.articles, self.text, self.raw = [], [], "", path.read_text()
        self.feed(self.raw)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag == "article":
            self.articles.append(dict(attrs))

    def handle_data(self, data):
        self.text += data

    def check(self):
        """Check for one script, one style, no external resource and no handler in an attribute."""
        names = [tag for tag, _ in self.tags]
        assert names.count("script") <= 1 and names.count("style") == 1 and "img" not in names
        for _, attrs in self.tags:
            assert not any(name.startswith("on") or name in ("src", "href") for name in attrs)
        assert "url(http" not in self.raw and "@import" not in self.raw


def metrics(task, found, **more):
    return {
        "run_key": "c0ffeec0ffee",
        "task": task,
        "modalities": ["vision", "audio"],
        "dataset": EVIL,
        "data_version": "d-v1-000000",
        "split": "test",
        "protocol": "all",
        "missing_audio": "substitute",
        "coverage": {"expected": None, "planned": 9, "usable": 9, "silent": 1, "scored": 9},
        "galleries": {
            "all": {"n_queries": 9, "n_gallery": 9, "ids_sha256": "0" * 64, "metrics": found}
        },
    } | more


def retrieval(count):
    """Return queries with every rank; sound helps the even ones and hurts the odd ones."""
    ids = [f"{EVIL}{i}" + ("q" if i % 5 == 0 else "") for i in range(count)]
    ranks = np.arange(1, count + 1, dtype=float)
    top = [[ids[(i + j) % count] for j in range(5)] for i in range(count)]
    return pd.DataFrame(
        {
            "query": range(count),
            "caption": [f"{EVIL} caption {i}" for i in range(count)],
            "clip_id": ids,
            "rank": ranks,
            "top5": top,
            "audio_origin": ["donor" if i % 5 == 0 else "own" for i in range(count)],
            "sound_of": ids[1:] + ids[:1],
            "rank/all/audio=silent": ranks + np.where(np.arange(count) % 2, -0.5, 3.0),
            "top5/audio=silent": top,
        }
    )


def write(folder, values, predictions):
    write_json(folder / "metrics.json", values)
    predictions.to_parquet(folder / "predictions.parquet")
    write_examples(FakeCache(), folder)
    return Page(folder / "examples.html")


def test_a_retrieval_page_shows_best_worst_and_queries_that_audio_decides(tmp_path):
    values = metrics("retrieval", {"t2v_R1": 10.0, "t2v_MedR": 3.0, "t2v_rank_gain": 1.25})
    page = write(tmp_path, values, retrieval(300))
    page.check()
    groups = [set(article["data-groups"].split()) for article in page.articles]
    for name, most in {
        "best": EXTREMES,
        "worst": EXTREMES,
        "random": RANDOM,
        "sound-helps": DECIDED,
        "sound-hurts": DECIDED,
    }.items():
        assert sum(name in group for group in groups) == most
    ranks = {article["data-rank"]: article for article in page.articles}
    assert "1" in ranks and "300" in ranks and ranks["1"]["data-gain"] == "3"
    assert "rank 1 of 9" in page.text and "audio=silent: rank 4" in page.text
    assert EVIL in page.text and "the sound of " in page.text and "its own sound" in page.text
    assert "1.2" in page.text  # what sound is worth, in the table
    assert len(page.raw) < 4_000_000
    again = write(tmp_path, values, retrieval(300))
    assert again.raw == page.raw


def test_few_queries_are_all_shown_once(tmp_path):
    page = write(tmp_path, metrics("retrieval", {"t2v_R1": 1.0}), retrieval(5))
    assert len(page.articles) == 5


def test_a_caption_page_has_references_and_scores(tmp_path):
    count = 130
    predictions = pd.DataFrame(
        {
            "clip_id": [f"{EVIL}{i}" for i in range(count)],
            "hypothesis": ["" if i == 0 else f"{EVIL} says {i}" for i in range(count)],
            "references": [[f"{EVIL} ref {i} {j}" for j in range(8)] for i in range(count)],
            "CIDEr": np.arange(count, dtype=float),
            "audio_origin": "none",
            "sound_of": None,
        }
    )
    page = write(
        tmp_path, metrics("captioning", {"CIDEr": 64.5, "CIDEr_whitespace": 1}), predictions
    )
    page.check()
    assert "129.0" in page.text and "(nothing)" in page.text and "3 more" in page.text
    assert {article["data-cider"] for article in page.articles} >= {"0", "129"}
    assert 80 <= len(page.articles) <= 100 and "no sound" in page.text


def test_a_classification_page_has_the_confusion(tmp_path):
    labels = [EVIL, "cat", "dog"] * 40
    predicted = [EVIL, "dog", "dog"] * 40
    predictions = pd.DataFrame(
        {
            "clip_id": [f"sound{i}" for i in range(120)],
            "label": labels,
            "predicted": predicted,
            "audio_origin": "own",
            "sound_of": [f"sound{i}" for i in range(120)],
        }
    )
    page = write(tmp_path, metrics("classification", {"accuracy": 66.7}), predictions)
    page.check()
    assert "cat taken for dog: 40 of 40" in page.text
    groups = [article["data-groups"].split() for article in page.articles]
    assert all(("right" in group) != ("wrong" in group) for group in groups)
    drawing = confusion(labels, predicted)
    assert drawing.count("<rect") == 4  # three filled cells and the frame


def test_a_contact_sheet_shows_near_and_far_pairs(tmp_path):
    lines = ["clip_id\tdonor\tcosine\trandom_donor"]
    lines += [f"{i:03d}q\td{i % 7}\t{i / 200:.6f}\td1" for i in range(200)]
    (tmp_path / "substitution.tsv").write_text("\n".join(lines) + "\n")
    summary = {"run_key": "c0ffeec0ffee", "silent": 200, "queries": {"test": 150, "train": 50}}
    summary |= {"donors": 90, "donors_dataset": EVIL, "donors_split": "train", "donors_used": 7}
    write_json(tmp_path / "substitute.json", summary | {"neighbours": "vision"})
    write_donors(FakeCache(), tmp_path)
    page = Page(tmp_path / "donors.html")
    page.check()
    cosines = {article["data-cosine"] for article in page.articles}
    assert {"0", "0.995"} <= cosines and 80 <= len(page.articles) <= 100
    assert "silent: 000q" in page.text and "donor: d0" in page.text
    assert "0.000 least" in page.text and "0.995 most" in page.text
    assert "nearest vision neighbours" in page.text and "is scored by" not in page.text
    (tmp_path / "substitution.tsv").write_text(lines[0] + "\n")
    write_json(tmp_path / "substitute.json", summary | {"neighbours": "text"})
    write_donors(FakeCache(), tmp_path)
    text = Page(tmp_path / "donors.html").text
    assert "No clip is silent." in text
    assert (
        "nearest text neighbours" in text and "of a test clip that is what it is scored by" in text
    )


def test_a_picture_is_a_frame_above_its_sound():
    image = np.array(Image.open(io.BytesIO(picture(FakeCache(), "a"))).convert("RGB")).astype(int)
    assert image.shape == (FRAME + STRIP, WIDTH, 3)
    assert np.abs(image[:FRAME].mean((0, 1)) - (200, 30, 30)).max() < 6
    strip = image[FRAME + 4 :].mean((0, 2))
    assert strip[-8:].mean() > strip[:8].mean() + 50  # the tone rises
    silent = np.array(Image.open(io.BytesIO(picture(FakeCache(), "aq")))).astype(int)
    assert silent[FRAME + 4 :].std((0, 1)).max() < 3
    audio_only = np.array(Image.open(io.BytesIO(picture(FakeCache(), "sound1")))).astype(int)
    assert audio_only[: FRAME - 8].std((0, 1)).max() < 3
    with pytest.raises(UserError, match="clip broken: corrupt JPEG frame. Fix: run"):
        picture(FakeCache(), "broken")


def test_choice_counts_and_leaves_out_nan():
    quality = np.array([1.0, np.nan, 3.0, 2.0])
    chosen = choose(quality, np.array([0.0, 5.0, np.nan, -1.0]))
    assert 1 not in {position for position, names in chosen.items() if "best" in names}
    assert chosen[2][0] == "best" and chosen[0][0] == "worst"
    assert "sound-hurts" in chosen[3] and "sound-helps" in chosen[1]
    assert counts(chosen)["best"] + counts(chosen)["worst"] == 3
    assert choose(np.array([])) == {}
