"""First weights of the text and query encoder from a folder of BERT (facts 1.4).

Self-attention, embeddings and feed-forwards are BERT's; the queries' feed-forwards start from the
same, as in LAVIS. BERT has no cross-attention and no queries, so these keep their initial weights.
"""

import json
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.common.log import log
from clip4vla.models.coavt.bert_names import our_name
from clip4vla.models.coavt.sizes import Sizes
from clip4vla.models.coavt.text_ids import BERT_VOCABULARY
from clip4vla.models.coavt.word_pieces import read_pieces, table_of
from clip4vla.models.common.archives import read_tensors
from clip4vla.models.common.coverage import compare
from clip4vla.models.common.tensor_files import Tensors

FILES = ("model.safetensors", "pytorch_model.bin")  # the first that is there is read
CONFIG, VOCABULARY = "config.json", "vocab.txt"
EXPECTED = "give the folder of bert-base-uncased, with its weights, config.json and vocab.txt"
UNUSED = (  # of BERT: segment vectors and the pooler (LAVIS drops them), the tied decoder, a buffer
    *("embeddings.token_type_embeddings.", "embeddings.position_ids", "pooler."),
    *("cls.predictions.decoder.", "cls.seq_relationship."),
)


@dataclass(frozen=True)
class BertReport:
    """What a folder provided.

    loaded: number of tensors from it, by part; copied: of these, tensors in the queries'
    feed-forwards; fresh: names of parameters that keep their initial values, by kind; unused: names
    of tensors in the file.
    """

    path: Path
    loaded: dict[str, int]
    copied: int
    fresh: tuple[str, ...]
    unused: tuple[str, ...]

    def __str__(self) -> str:
        parts = ", ".join(f"{part} {count}" for part, count in self.loaded.items())
        unused = f"; not used: {', '.join(self.unused)}" if self.unused else ""
        return (
            f"{self.path}: tensors from BERT: {parts}, {self.copied} of them for the queries' "
            f"feed-forwards; initial values: {', '.join(self.fresh)}{unused}"
        )


def load_bert(model: nn.Module, folder: Path, sizes: Sizes) -> BertReport:
    """Load `query`, `language` and, if the model has it, `text` from a folder of BERT, strictly.

    It has config.json, vocab.txt, and model.safetensors or pytorch_model.bin, as Hugging Face saves
    them. The language head is loaded if the file has it. Half precision is widened exactly.
    UserError for other sizes than the model's, and for tensors that are missing, left over,
    misshapen or not finite: the model then stays unchanged. The report is logged, too.
    """
    check_config(folder / CONFIG, sizes)
    table = table_of(read_pieces(_existing(folder / VOCABULARY)))
    path = _weights_in(folder)
    read = {our_name(name): (name, tensor) for name, tensor in read_tensors(path).items()}
    unused = tuple(sorted(name for name, _ in read.values() if _is_unused(name)))
    state = {ours: tensor for ours, (name, tensor) in read.items() if name not in unused}
    state = _cut_positions(state, sizes)
    copies = _query_feeds(state)
    state |= copies
    if getattr(model, "text", None) is not None:
        state |= {
            f"text.{name.removeprefix('query.')}": tensor
            for name, tensor in state.items()
            if name.startswith("query.") and name not in copies
        }
    everything: Tensors = {
        name: parameter
        for name, parameter in model.named_parameters()
        if name.startswith(("query.", "text.", "language."))
    }
    with_language = any(name.startswith("language.") for name in state)
    fresh = {name for name in everything if _is_fresh(name, with_language)}
    parameters = {name: x for name, x in everything.items() if name not in fresh}
    words = {"query.words.weight", "text.words.weight", "language.bias"}
    coverage = compare(parameters, state, first_rows=dict.fromkeys(words, BERT_VOCABULARY))
    if not coverage.complete:
        raise UserError(f"{path}: {coverage.summary()}. Fix: {EXPECTED}")
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter[: len(state[name])] = state[name]
        model.get_buffer("query.pieces").copy_(table)
    report = BertReport(
        path=path,
        loaded=dict(Counter(name.split(".", 1)[0] for name in parameters)),
        copied=len(copies),
        fresh=("[DEC]'s row of the vocabulary", *_kinds(fresh)),
        unused=unused,
    )
    log.info(str(report))
    return report


def check_config(path: Path, sizes: Sizes) -> None:
    """Raise UserError unless a config.json of BERT has the sizes of the model."""
    content = _existing(path).read_bytes()
    try:
        config = json.loads(content)
    except (ValueError, RecursionError):
        config = None
    if not isinstance(config, dict):
        raise UserError(f"{path}: is not a JSON object. Fix: {EXPECTED}")
    expected = {
        "model_type": "bert",
        "hidden_act": "gelu",
        "num_hidden_layers": sizes.query_layers,
        "hidden_size": sizes.query_width,
        "num_attention_heads": sizes.query_heads,
        "intermediate_size": sizes.query_ffn,
        "vocab_size": BERT_VOCABULARY,
    }
    for key, value in expected.items():
        if (theirs := config.get(key)) != value:
            raise UserError(
                f"{path}: {key} is {theirs!r}, but the model needs {value!r}. Fix: {EXPECTED}, or "
                "compare model.architecture with it"
            )


def _weights_in(folder: Path) -> Path:
    for name in FILES:
        if (folder / name).is_file():
            return folder / name
    raise UserError(f"{folder}: has neither {' nor '.join(FILES)}. Fix: {EXPECTED}")


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UserError(f"{path}: missing. Fix: {EXPECTED}")
    return path


def _is_unused(name: str) -> bool:
    return name.removeprefix("bert.").startswith(UNUSED)


def _is_fresh(name: str, with_language: bool) -> bool:
    """Return whether BERT never has a parameter, or (the language head) this file does not."""
    if name.startswith("language."):
        return not with_language
    return ".cross." in name or name.startswith(("query.queries", "query.encoder_norm."))


def _kinds(fresh: set[str]) -> list[str]:
    """Return a word for each kind of fresh parameters."""
    kinds = {
        ".cross.": "cross-attention",
        "query.queries": "queries",
        "query.encoder_norm.": "the norm of the encoder's tokens",
        "language.": "the language head",
    }
    return [kind for part, kind in kinds.items() if any(part in name for name in fresh)]


def _cut_positions(state: Tensors, sizes: Sizes) -> Tensors:
    """Leave out positions after the last one of the model."""
    name = "query.positions.weight"
    return state | ({name: state[name][: sizes.text_positions]} if name in state else {})


def _query_feeds(state: Tensors) -> Tensors:
    """Return the feed-forwards of words under the names of those of queries."""
    copies = {}
    for name, tensor in state.items():
        head, _, kind = name.rpartition(".")
        place, _, module = head.rpartition(".")
        if name.startswith("query.layers.") and module in ("widen", "narrow", "norm"):
            copies[f"{place}.query_feed.{module}.{kind}"] = tensor
    return copies
