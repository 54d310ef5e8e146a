"""BERT's files as first weights of the text and query encoder."""

import json

import pytest
import torch
from bert_folder import CONFIG, FIRST_WORD, WORDS, pieces, state, write_bert

from clip4vla.checkpoints.checkpoint import read_checkpoint, write_checkpoint
from clip4vla.checkpoints.initial_weights import initial_model
from clip4vla.common.errors import UserError
from clip4vla.config.data import Cache, LogMel
from clip4vla.config.sections import Inputs
from clip4vla.config.settings import Settings
from clip4vla.cost.counting import Counter
from clip4vla.models.coavt.bert_weights import load_bert
from clip4vla.models.coavt.build import build_model, empty_model
from clip4vla.models.coavt.settings import Model

INPUTS = Inputs(max_frames=1, max_segments=1, segment_steps=64, max_words=12)
BERT = Model(family="coavt", architecture="tiny", tokenizer="bert", text_weights="bert")
SETTINGS = Settings(
    inputs=INPUTS, model=BERT, cache=Cache(log_mel=LogMel(n_mels=128, channels="mean"))
)
RANDOM = BERT.model_copy(update={"text_weights": None})


def build(path=None, share_text=True):
    config = (BERT if path else RANDOM).model_copy(update={"share_text": share_text})
    weights = {"bert": path} if path else {}
    return build_model(config, weights, n_classes=None, seed=1, inputs=INPUTS)


def changed(one, other):
    """Names of tensors that differ between two models of one seed."""
    others = other.state_dict()
    return {name for name, x in one.state_dict().items() if not torch.equal(x, others[name])}


def outputs_of_bert(tensors, tokens):
    """BERT's states of whole texts, by its definition, without segment vectors."""
    functional = torch.nn.functional

    def norm(x, name):
        return functional.layer_norm(
            x, (64,), tensors[f"{name}.weight"], tensors[f"{name}.bias"], 1e-12
        )

    def linear(x, name):
        return functional.linear(x, tensors[f"{name}.weight"], tensors[f"{name}.bias"])

    x = tensors["bert.embeddings.word_embeddings.weight"][tokens]
    x = x + tensors["bert.embeddings.position_embeddings.weight"][: tokens.shape[1]]
    x = norm(x, "bert.embeddings.LayerNorm")
    for layer in range(4):
        at = f"bert.encoder.layer.{layer}."
        parts = (linear(x, f"{at}attention.self.{name}") for name in ("query", "key", "value"))
        query, key, value = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in parts)
        weights = (query @ key.transpose(-1, -2) / 4).softmax(dim=-1)
        read = (weights @ value).transpose(1, 2).flatten(2)
        x = norm(x + linear(read, f"{at}attention.output.dense"), f"{at}attention.output.LayerNorm")
        wide = functional.gelu(linear(x, f"{at}intermediate.dense"))
        x = norm(x + linear(wide, f"{at}output.dense"), f"{at}output.LayerNorm")
    return x


@pytest.mark.parametrize("share_text", [True, False])
def test_texts_have_the_states_of_bert(tmp_path, share_text):
    tensors = state()
    model = build(write_bert(tmp_path, tensors), share_text).eval()
    tokens = model.processor.tokenize(["a dog barks"], 6)
    with torch.no_grad():
        for encoder in {model.query, model.text or model.query}:
            found = encoder.text_alone(tokens, model.text_ids.valid(tokens))
            assert torch.allclose(found, outputs_of_bert(tensors, tokens), atol=1e-5)


def test_what_is_loaded_what_is_copied_and_what_stays(tmp_path):
    tensors = state()
    plain, model = build(), build(write_bert(tmp_path, tensors))
    found = changed(plain, model)
    assert {name.split(".")[0] for name in found} == {"query", "language"}
    for layer, block in enumerate(model.query.layers):
        wide = tensors[f"bert.encoder.layer.{layer}.intermediate.dense.weight"]
        assert torch.equal(block.widen.weight, wide)
        assert torch.equal(block.query_feed.widen.weight, wide)
        assert torch.equal(block.query_feed.norm.bias, block.norm.bias)
    stays = ("cross.", "query.queries", "query.encoder_norm.")
    assert not any(part in name for name in found for part in stays)
    rest = {name for name in model.state_dict() if name.startswith(("query.", "language."))} - found
    assert all(any(part in name for part in stays) for name in rest)
    words = model.query.words.weight
    assert torch.equal(words[:-1], tensors["bert.embeddings.word_embeddings.weight"])
    assert torch.equal(words[-1], plain.query.words.weight[-1])
    assert torch.equal(model.language.bias[:-1], tensors["cls.predictions.bias"])
    assert model.language.bias[-1] == 0
    positions = tensors["bert.embeddings.position_embeddings.weight"]
    assert torch.equal(model.query.positions.weight, positions[:77])


@pytest.mark.parametrize(
    ("given", "torch_file"),
    [
        ({"prefix": ""}, False),
        ({"prefix": ""}, True),
        ({"old": True}, True),
        ({"positions": 77}, False),
    ],
)
def test_files_of_several_kinds_give_the_same(tmp_path, given, torch_file):
    """With and without a prefix, by safetensors and torch, with gamma and beta."""
    model = build(write_bert(tmp_path / "one", state(**given), torch_file))
    plain = build(write_bert(tmp_path / "two", state(positions=given.get("positions", 80))))
    assert changed(model, plain) == set()


def test_a_file_without_a_language_head_says_so(tmp_path):
    path = write_bert(tmp_path, state(language=False))
    model = build()
    report = load_bert(model, path, model.sizes)
    assert set(report.loaded) == {"query"}
    assert "the language head" in str(report)
    assert changed(build(), model) & {"language.dense.weight", "language.bias"} == set()


def test_the_report_names_every_part(tmp_path):
    model = build(share_text=False)
    report = load_bert(model, write_bert(tmp_path), model.sizes)
    assert set(report.loaded) == {"query", "text", "language"} and report.copied == 4 * 6
    assert report.fresh == (
        "[DEC]'s row of the vocabulary",
        "cross-attention",
        "queries",
        "the norm of the encoder's tokens",
    )
    assert report.unused == (
        "bert.embeddings.token_type_embeddings.weight",
        "bert.pooler.dense.bias",
        "bert.pooler.dense.weight",
        "cls.seq_relationship.bias",
        "cls.seq_relationship.weight",
    )


def without(name):
    return {key: x for key, x in state().items() if key != name}


PROBLEMS = {
    "layers": ({"num_hidden_layers": 12}, None, "num_hidden_layers is 12, but the model needs 4"),
    "width": ({"hidden_size": 768}, None, "hidden_size is 768, but the model needs 64"),
    "kind": ({"model_type": "roberta"}, None, "model_type is 'roberta'"),
    "missing": ({}, without("bert.encoder.layer.2.output.dense.bias"), "2 (query.layers.2.narrow.bias, query.layers.2.query_feed"),
    "left over": ({}, state() | {"bert.adapter": torch.zeros(1)}, "1 (bert.adapter) left over"),
    "shape": ({}, state() | {"cls.predictions.bias": torch.zeros(5)}, "1 (language.bias [5]"),
    "nan": ({}, state() | {"bert.embeddings.LayerNorm.bias": torch.full((64,), torch.nan)}, "NaN"),
    "positions": ({}, state(positions=20), "query.positions.weight [20, 64] for [77, 64]"),
}  # fmt: skip


@pytest.mark.parametrize("name", PROBLEMS)
def test_another_bert_is_refused_and_changes_nothing(tmp_path, name):
    config, tensors, problem = PROBLEMS[name]
    model = build()
    with pytest.raises(UserError) as error:
        load_bert(model, write_bert(tmp_path, tensors, **config), model.sizes)
    assert problem in str(error.value) and ". Fix: give the folder of bert-base" in str(error.value)
    assert changed(model, build()) == set()


def test_a_folder_without_weights_is_refused(tmp_path):
    folder, model = write_bert(tmp_path), build()
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="has neither model.safetensors nor pytorch_model.bin"):
        load_bert(model, folder, model.sizes)


@pytest.mark.parametrize("name", ["config.json", "vocab.txt"])
def test_files_beside_the_weights_are_needed(tmp_path, name):
    path, model = write_bert(tmp_path), build()
    (tmp_path / name).unlink()
    with pytest.raises(UserError, match=f"{name}: missing. Fix: give the folder of bert-base"):
        load_bert(model, path, model.sizes)
    (tmp_path / name).write_text(json.dumps([CONFIG]))
    with pytest.raises(UserError, match=name):
        load_bert(model, path, model.sizes)


def test_a_checkpoint_reads_and_writes_texts_without_berts_files(tmp_path):
    """Its table has the vocabulary."""
    model = build(write_bert(tmp_path / "bert"))
    assert model.processor.pieces == pieces()
    path = tmp_path / "model.safetensors"
    write_checkpoint(path, model, SETTINGS, {})
    for again in (
        read_checkpoint(path).model,
        initial_model(BERT, INPUTS, initial_weights=path, weights={}, seed=2),
    ):
        assert changed(model, again) == set()
        tokens = again.processor.tokenize(["a dog barks"], 6)
        words = [FIRST_WORD + WORDS.index(word) for word in ("a", "dog", "bark", "##s")]
        assert tokens.tolist() == [[101, *words, 102]]
        assert again.processor.words(words) == "a dog barks"


def test_a_plan_needs_no_vocabulary():
    """Without values of its table, every word is one unknown piece."""
    model = empty_model(BERT, None, INPUTS).to("meta")
    tokens = model.processor.tokenize(["dog " * 9], 12)
    assert model.text_ids.valid(tokens).sum() == 11
    assert Counter()(lambda: model.encode_text(tokens)) > 0
