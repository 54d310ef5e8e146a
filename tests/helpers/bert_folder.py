"""A folder of BERT as Hugging Face saves it, small but for its 30,522 word pieces."""

import json

import torch
from safetensors.torch import save_file

from clip4vla.models.coavt.text_ids import BERT_VOCABULARY
from clip4vla.models.coavt.word_pieces import SPECIAL

WORDS = [
    "a",
    "dog",
    "bark",
    "##s",
    "##ing",
    "rain",
    "and",
    "wind",
    "'",
    "s",
    ",",
    "cafe",
    "no",
    "1",
    "2",
]
FIRST_WORD = 1000
CONFIG = {
    "model_type": "bert",
    "hidden_act": "gelu",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 128,
    "vocab_size": BERT_VOCABULARY,
}


def pieces():
    """The special ones at their places, a few words, and pieces that no text has."""
    found = [f"[unused{index}]" for index in range(BERT_VOCABULARY)]
    for piece, index in SPECIAL.items():
        found[index] = piece
    found[FIRST_WORD : FIRST_WORD + len(WORDS)] = WORDS
    return found


def state(prefix="bert.", language=True, old=False, positions=80, seed=1):
    """BERT's tensors. old: LayerNorms with gamma and beta, as bert-base-uncased has them."""
    generator = torch.Generator().manual_seed(seed)

    def drawn(*shape):
        return 0.02 * torch.randn(*shape, generator=generator)

    def linear(name, outputs, inputs):
        return {f"{name}.weight": drawn(outputs, inputs), f"{name}.bias": drawn(outputs)}

    def norm(name):
        weight, bias = ("gamma", "beta") if old else ("weight", "bias")
        return {f"{name}.{weight}": 1 + drawn(64), f"{name}.{bias}": drawn(64)}

    body = {
        "embeddings.word_embeddings.weight": drawn(BERT_VOCABULARY, 64),
        "embeddings.position_embeddings.weight": drawn(positions, 64),
        "embeddings.token_type_embeddings.weight": drawn(2, 64),
    }
    body |= norm("embeddings.LayerNorm")
    for layer in range(4):
        start = f"encoder.layer.{layer}."
        for name in ("query", "key", "value"):
            body |= linear(f"{start}attention.self.{name}", 64, 64)
        body |= linear(f"{start}attention.output.dense", 64, 64)
        body |= norm(f"{start}attention.output.LayerNorm")
        body |= linear(f"{start}intermediate.dense", 128, 64)
        body |= linear(f"{start}output.dense", 64, 128)
        body |= norm(f"{start}output.LayerNorm")
    body |= linear("pooler.dense", 64, 64)
    tensors = {prefix + name: tensor for name, tensor in body.items()}
    if language:
        tensors |= {"cls.predictions.bias": drawn(BERT_VOCABULARY)}
        tensors |= linear("cls.predictions.transform.dense", 64, 64)
        tensors |= norm("cls.predictions.transform.LayerNorm")
        tensors |= linear("cls.seq_relationship", 2, 64)
    return tensors


def write_bert(folder, tensors=None, torch_file=False, **config):
    """Write config.json, vocab.txt and the weights; give the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG | config))
    (folder / "vocab.txt").write_text("\n".join(pieces()) + "\n")
    tensors = state() if tensors is None else tensors
    path = folder / ("pytorch_model.bin" if torch_file else "model.safetensors")
    torch.save(tensors, path) if torch_file else save_file(tensors, path)
    return folder
