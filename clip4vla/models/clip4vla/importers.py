"""Translation of the tensor names of other projects to ours and back (facts 12)."""

from pathlib import Path

from clip4vla.common.errors import UserError
from clip4vla.models.common.tensor_files import Tensors

OPENAI_SIZES = {"input_resolution", "context_length", "vocab_size"}  # not weights; archives only
CLIP_KINDS = ("openai", "open_clip")  # text and vision alone, with CLIP's own vocabulary

# Released CLIP4VLA code -> ours, longest prefix first.
RELEASED = {
    "clip.visual.": "vision.",
    "clip.logit_scale": "logit_scale",
    "clip.": "text.",
    "audio.visual.bg_embedding": "audio.background_embedding",
    "audio.visual.": "audio.",
    "cross.positional_embedding": "JOINT.positional_embedding",
    "cross.token_type_embeddings.": "JOINT.type_embedding.",
    "cross.transformer.": "JOINT.transformer.",
    "cross.embeddings.position_embeddings.weight": "JOINT.positional_embedding",
    "cross.embeddings.token_type_embeddings.": "JOINT.type_embedding.",
    "cross.embeddings.LayerNorm.": "JOINT.norm.",
    "cross.encoder.layer.": "JOINT.layers.",
    "cross.pooler.dense.": "JOINT.pooler.",
    "cls.predictions.bias": "captioner.head.bias",
    "cls.predictions.transform.dense.": "captioner.head.dense.",
    "cls.predictions.transform.LayerNorm.": "captioner.head.norm.",
    "similarity_dense.": "fusion.similarity.",
    "moe_embd.": "gate.linear.",
    "cls_linear.0.": "probe.norm.",
    "cls_linear.1.": "probe.linear.",
}
# The names after "cross.encoder.layer.N" in BERT-style files (facts 7.3, 12.2).
BERT = {
    ".attention.self.": ".",
    ".attention.output.dense.": ".output.",
    ".attention.output.LayerNorm.": ".output_norm.",
    ".intermediate.dense.": ".widen.",
    ".output.dense.": ".narrow.",
    ".output.LayerNorm.": ".norm.",
}
# Released names of BERT-style files for tensors that both styles of joint encoder have.
BERT_POSITIONS = "cross.embeddings.position_embeddings.weight"
BERT_TYPES = "cross.embeddings.token_type_embeddings."
GATE = "moe_embd.weight"  # a convolution of width 1 where the text decides
WORDS = "clip.token_embedding.weight"
TIED = "cls.predictions.decoder.weight"  # the same tensor as WORDS
MULTILINGUAL = "multilingualclip."


SOURCES = (
    "CLIP with a ViT, from OpenAI or open_clip, the released CLIP4VLA or MCLIP4VLA, or this project"
)


def kind_of(state: Tensors) -> str | None:
    """Return the code that wrote a file, by the names of its tensors; None: unknown.

    ours; openai: plain CLIP, including open_clip's class CLIP; open_clip: its CustomTextCLIP;
    released: CLIP4VLA's own code; mclip4vla: its multilingual successor.
    """
    if "vision.conv1.weight" in state:
        return "ours"
    if "clip.visual.conv1.weight" in state:
        return "released"
    if MULTILINGUAL + "visual.conv1.weight" in state:
        return "mclip4vla"
    if "visual.conv1.weight" in state and "token_embedding.weight" in state:
        return "openai"
    if "visual.conv1.weight" in state and "text.token_embedding.weight" in state:
        return "open_clip"
    return None


def to_our_names(path: Path, kind: str, state: Tensors) -> Tensors:
    """Return tensors under the names of our model; unknown names stay unchanged.

    UserError for a released file whose caption head is not tied to the word embedding.
    """
    if kind == "openai":
        return {_openai(k): v for k, v in state.items() if k not in OPENAI_SIZES}
    if kind == "open_clip":
        return {k if k.startswith("text.") else _openai(k): v for k, v in state.items()}
    if kind == "mclip4vla":
        return {_multilingual(k): v for k, v in state.items()}
    if kind == "released":
        state = dict(state)
        tied, words = state.pop(TIED, None), state.get(WORDS)
        if tied is not None and (words is None or not tied.equal(words)):
            raise UserError(
                f"{path}: {TIED} differs from {WORDS}, but the released code ties the caption head "
                "to it. Fix: give a file that the released code wrote"
            )
        if GATE in state and state[GATE].ndim == 3:
            state[GATE] = state[GATE].squeeze(-1)
        # `cross` is the joint encoder of captioning or of retrieval; the head shows which
        joint = "captioner.joint" if "cls.predictions.bias" in state else "fusion.joint"
        return {_released(k).replace("JOINT", joint): v for k, v in state.items()}
    return state


def to_released_names(state: Tensors) -> Tensors:
    """Return our model's parameters under the released names: the inverse of `to_our_names`.

    UserError for a parameter without a released name.
    """
    bert = any(".joint.layers." in name for name in state)
    theirs = {_to_released(name, bert): value for name, value in state.items()}
    if "cls.predictions.bias" in theirs:
        theirs[TIED] = theirs[WORDS]
    gate = theirs.get(GATE)  # its input is both vectors of a clip, or the vector of a text
    if gate is not None and gate.shape[1] == theirs["clip.text_projection"].shape[1]:
        theirs[GATE] = gate.unsqueeze(-1)
    return theirs


def _openai(name: str) -> str:
    if name.startswith("visual."):
        return "vision." + name.removeprefix("visual.")
    return name if name in ("logit_scale", "logit_bias") else "text." + name


def _multilingual(name: str) -> str:
    """Translate a name; the text tower is M-BERT, whose tensors fit no part of our model."""
    if name.startswith("audio.visual."):
        return _released(name)
    return _openai(name.removeprefix(MULTILINGUAL)) if name.startswith(MULTILINGUAL) else name


def _released(name: str) -> str:
    for theirs, ours in RELEASED.items():
        if name.startswith(theirs):
            rest = name.removeprefix(theirs)
            return ours + (_bert(rest) if ours == "JOINT.layers." else rest)
    return name


def _bert(rest: str) -> str:
    for theirs, ours in BERT.items():
        if theirs in rest:
            return rest.replace(theirs, ours)
    return rest


def _to_released(name: str, bert: bool) -> str:
    name = name.replace("captioner.joint.", "JOINT.").replace("fusion.joint.", "JOINT.")
    if bert and name == "JOINT.positional_embedding":
        return BERT_POSITIONS
    if bert and name.startswith("JOINT.type_embedding."):
        return BERT_TYPES + name.removeprefix("JOINT.type_embedding.")
    for theirs, ours in RELEASED.items():
        if name.startswith(ours):
            rest = name.removeprefix(ours)
            return theirs + (_to_bert(rest) if ours == "JOINT.layers." else rest)
    raise UserError(
        f"--names released: {name} has no name in the released code. Fix: export with --names ours"
    )


def _to_bert(rest: str) -> str:
    """Translate `3.query.weight` to `3.attention.self.query.weight`."""
    for theirs, ours in BERT.items():
        layer, _, inner = rest.partition(ours)
        if ours != "." and inner:
            return layer + theirs + inner
    return rest.replace(".", ".attention.self.", 1)
