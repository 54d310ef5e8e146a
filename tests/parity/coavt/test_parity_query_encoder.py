"""The query encoder, its losses, negatives and captions against vectors of LAVIS's public code.

They are in `reference`, or in the folder that COAVT_REFERENCE names: any sizes, the same layout.
"""

import functools
import hashlib
import re

import numpy as np
import pytest
import torch
from gloo_ranks import on_ranks
from gradient_cases import in_double
from query_reference import CONFIG, FILE, FOLDER, LAYOUT, SMOOTHING, TOLERANCE, build, read_vectors
from torch.nn.functional import cross_entropy

from clip4vla.config.sections import Decoding
from clip4vla.loading.tokens import ControlTokens
from clip4vla.models.coavt.bert_names import our_name
from clip4vla.models.coavt.decoding import decode
from clip4vla.models.coavt.losses import (
    contrast_logits,
    contrast_loss,
    language_loss,
    matching_loss,
)
from clip4vla.models.coavt.negatives import negative_weights
from clip4vla.models.coavt.similarity import best_cosines
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.gather import average_gradients, gather, local_rows
from clip4vla.models.common.pooling import normalise

VECTORS = read_vectors()
BATCH = CONFIG["batch"]
NO_WORD = -1  # as the end: every caption has all of its words
DTYPES = {"float64": torch.float64, "float32": torch.float32}
GRADIENTS = {"grad/gathered_without_gradient/": False, "grad/both_sides/": True}
TWO_RANKS = "two_ranks/"


def vector(name):
    return torch.from_numpy(VECTORS[name])


def whole(name):
    """An input whose numbers are whole, int64."""
    return vector(f"input/{name}").long()


@pytest.fixture(autouse=True)
def double(monkeypatch):
    """What losses compute in float32 stays in float64 where the model is."""
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.float)  # put back afterwards
    in_double()


def inputs(dtype, rows=slice(None)):
    """Token ids, their mask, and clips."""
    features = vector("input/encoder_tokens").to(dtype)[rows]
    clip = FeatureSequence(features, torch.ones(features.shape[:2], dtype=torch.bool))
    return whole("text_ids")[rows], whole("text_mask").bool()[rows], clip


def from_dec(tokens):
    """The tokens that the language loss reads: [DEC] is the first."""
    return torch.cat([torch.full_like(tokens[:, :1], CONFIG["dec_id"]), tokens[:, 1:]], dim=1)


def unit_vectors(model, query_states, text_states):
    queries = normalise(model.query_proj(query_states))
    return queries, normalise(model.text_proj(text_states[:, 0]))


def matched(model, tokens, mask, clip, clips, texts):
    """Query and text states of pairs, by the indices of their clips and texts."""
    keys = model.query.keys_of(clip).rows(clips)
    return model.query.together(tokens[texts], mask[texts], keys, causal=False)


def forward(model, gathered_gradient, dtype):
    """Every output of the file, by its name; losses have gradients."""
    tokens, mask, clip = inputs(dtype)
    everyone = torch.arange(BATCH)
    out = {"encoder_tokens_normed": model.query.encoder_norm(clip.features)}
    out["query_states"] = model.query.queries_alone(clip)
    out["text_states"] = model.query.text_alone(tokens, mask)
    queries, texts = unit_vectors(model, out["query_states"], out["text_states"])
    out |= {"query_vectors": queries, "text_vectors": texts}

    logits = contrast_logits(queries, texts, model.temperature, gathered_gradient)
    out["contrast_logits_clip_to_text"] = logits.clip_to_text
    out["contrast_logits_text_to_clip"] = logits.text_to_clip
    itself = torch.eye(BATCH, dtype=torch.bool)
    clip_ids = whole("clip_ids")
    grouped = clip_ids[:, None] == clip_ids
    for name, same in (("", itself), ("grouped_", grouped)):
        out[f"{name}contrast_loss"] = contrast_loss(logits, same, SMOOTHING)
        by_text = negative_weights(logits.text_to_clip, same)
        out[f"{name}negative_weights_text_to_clip"] = by_text
        by_clip = negative_weights(logits.clip_to_text, same)
        out[f"{name}negative_weights_clip_to_text"] = by_clip

    clips = torch.cat([everyone, whole("negative_clip_of_text"), everyone])
    of_text = torch.cat([everyone, everyone, whole("negative_text_of_clip")])
    states = matched(model, tokens, mask, clip, clips, of_text)
    out["matching_states"] = torch.cat(states, dim=1)
    out["matching_logits_per_query"] = torch.nn.Linear.forward(model.matching, states[0])
    out["matching_logits"] = model.matching(states[0])
    positive, negative = out["matching_logits"].split([BATCH, 2 * BATCH])
    out["matching_loss"] = matching_loss(positive, negative)

    read = from_dec(tokens)
    queries_too, words = model.query.together(read, mask, clip, causal=True)
    assert torch.allclose(queries_too, out["query_states"], atol=1e-5)
    weight = model.query.words.weight
    out["language_logits"] = model.language(words, weight)
    language = language_loss(model.language, weight, words, read, mask, SMOOTHING)
    out["language_loss"] = language.mean()
    terms = ("contrast_loss", "matching_loss", "language_loss")
    out["total_loss"] = sum(out[name] for name in terms)

    pairs = everyone.repeat_interleave(BATCH), everyone.repeat(BATCH)
    yes = model.matching(matched(model, tokens, mask, clip, *pairs)[0])[:, 1]
    out["matching_logit_every_pair"] = yes.view(BATCH, BATCH)
    out["cosine_every_pair"] = best_cosines(queries, texts)
    out["rerank_every_pair"] = out["matching_logit_every_pair"] + out["cosine_every_pair"]
    return out


@functools.cache
def computed(precision):
    """Outputs, and the gradients of the total loss in both modes by reference names."""
    dtype = DTYPES[precision]
    found = {}
    for prefix, gathered_gradient in GRADIENTS.items():
        model = build(VECTORS, dtype)
        out = forward(model, gathered_gradient, dtype)
        out["total_loss"].backward()
        gradients = {name: p.grad for name, p in model.named_parameters()}
        for name in VECTORS:
            if name.startswith(prefix):
                found[name] = gradients[our_name(name.removeprefix(prefix))]
        found |= {f"output/{name}": x.detach() for name, x in out.items()}
    return found


def has_meaning():
    """Positions of queries and words, by the outputs that have padding, too."""
    words = whole("text_mask").bool()
    pairs = torch.cat([words, words, words[whole("negative_text_of_clip")]])
    queries = torch.ones(len(pairs), vector("output/query_states").shape[1], dtype=torch.bool)
    found = {"text_states": words, "language_logits": words}
    found["matching_states"] = torch.cat([queries, pairs], dim=1)
    return {f"output/{name}": mask.numpy() for name, mask in found.items()}


def close(ours, name, precision="float64"):
    """The same but for rounding: of numbers above 1, as a share of the number."""
    theirs = np.asarray(VECTORS[name], np.float64)
    ours = ours.detach().double().numpy().reshape(theirs.shape)
    if name in has_meaning():
        ours, theirs = (x[has_meaning()[name]] for x in (ours, theirs))
    worst = (np.abs(ours - theirs) / np.maximum(1.0, np.abs(theirs))).max()
    assert worst <= TOLERANCE[precision], f"{name}: worst difference {worst:.3g}"


ELSEWHERE = {"output/greedy_ids", "output/matching_labels"}
CHECKED = [
    name for name in VECTORS if name.startswith(("output/", *GRADIENTS)) and name not in ELSEWHERE
]


def test_the_vectors_are_those_that_the_layout_describes():
    content = (FOLDER / FILE).read_bytes()
    assert hashlib.sha256(content).hexdigest() == LAYOUT["sha256"]
    shapes = {name: entry["shape"] for name, entry in LAYOUT["arrays"].items()}
    assert {name: list(array.shape) for name, array in VECTORS.items()} == shapes


def test_every_vector_is_compared():
    known = ("input/", "param/", "output/", TWO_RANKS, *GRADIENTS)
    assert [name for name in VECTORS if not name.startswith(known)] == []
    assert len(CHECKED) > 40


@pytest.mark.parametrize("precision", DTYPES)
@pytest.mark.parametrize("name", CHECKED)
def test_it_computes_the_same(name, precision):
    close(computed(precision)[name], name, precision)


def test_true_pairs_come_first_in_the_stack():
    assert vector("output/matching_labels").tolist() == [1] * BATCH + [0] * 2 * BATCH


@pytest.mark.parametrize("cache", [True, False])
def test_greedy_words(cache):
    theirs = vector("output/greedy_ids").long()
    model = build(VECTORS, torch.float64).eval()
    control = ControlTokens(start=CONFIG["dec_id"], end=NO_WORD)
    found = decode(
        model.query,
        model.language,
        inputs(torch.float64)[2],
        Decoding(cache=cache),
        control,
        max_words=theirs.shape[1] - 1,
    )
    assert [[CONFIG["dec_id"], *caption.ids] for caption in found] == theirs.tolist()


def released_step(rank, world):
    """Losses and averaged gradients of one rank, whose half of the batch others join."""
    model = build(VECTORS, torch.float64)
    rows = local_rows(BATCH)
    tokens, mask, clip = inputs(torch.float64, rows)
    read = from_dec(tokens)
    query_states, words = model.query.together(read, mask, clip, causal=True)
    queries, texts = unit_vectors(model, query_states, model.query.text_alone(tokens, mask))
    features = {"queries": queries, "texts": texts, "clips": clip.features}
    features |= {"tokens": tokens, "mask": mask}
    batch = gather(features)
    logits = contrast_logits(
        batch["queries"], batch["texts"], model.temperature, gathered_gradient=False
    )
    contrast = contrast_loss(logits, torch.eye(BATCH, dtype=torch.bool), SMOOTHING)

    everyone = torch.arange(BATCH)
    clips = torch.cat([everyone[rows], whole("negative_clip_of_text")[rows], everyone[rows]])
    of_text = torch.cat([everyone[rows], everyone[rows], whole("negative_text_of_clip")[rows]])
    every_clip = FeatureSequence(batch["clips"], torch.ones(batch["clips"].shape[:2]).bool())
    states = matched(model, batch["tokens"], batch["mask"], every_clip, clips, of_text)
    own = model.matching(states[0])
    matching = matching_loss(*own.split([len(tokens), 2 * len(tokens)]))
    weight = model.query.words.weight
    language = language_loss(model.language, weight, words, read, mask, SMOOTHING).mean()
    (contrast + matching + language).backward()
    average_gradients(list(model.parameters()))
    itself = torch.eye(BATCH, dtype=torch.bool)
    targets = everyone[rows]
    of_rank = [cross_entropy(x[rows], targets, label_smoothing=SMOOTHING) for x in logits]
    found = {
        "contrast_logits_clip_to_text": logits.clip_to_text[rows],
        "contrast_logits_text_to_clip": logits.text_to_clip[rows],
        "contrast_targets": targets,
        "contrast_loss": sum(of_rank) / 2,
        "matching_logits": own,
        "matching_loss": matching,
        "language_loss": language,
        "negative_weights_text_to_clip": negative_weights(logits.text_to_clip, itself)[rows],
        "negative_weights_clip_to_text": negative_weights(logits.clip_to_text, itself)[rows],
    }
    found = {f"{TWO_RANKS}rank{rank}/{name}": x.detach() for name, x in found.items()}
    gradients = {name: p.grad for name, p in model.named_parameters()}
    return found | {"contrast": contrast.detach(), "gradients": gradients}


def test_two_ranks(tmp_path):
    """Each rank's own rows; and the mean of the ranks' gradients, on both of them."""
    ranks = on_ranks(2, tmp_path, released_step)
    found = ranks[0] | ranks[1]
    compared = set()
    for name in (name for name in VECTORS if name.startswith(TWO_RANKS)):
        mean = re.match(TWO_RANKS + "grad_mean_of_ranks/(.*)", name)
        if mean is None:
            close(found[name], name)
        else:
            for rank in ranks:
                close(rank["gradients"][our_name(mean[1])], name)
        compared.add(name)
    assert len(compared) == 23
    of_ranks = [vector(f"{TWO_RANKS}rank{r}/contrast_loss").item() for r in (0, 1)]
    assert found["contrast"].item() == pytest.approx(np.mean(of_ranks), abs=1e-6)
