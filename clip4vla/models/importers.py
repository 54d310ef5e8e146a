"""Names of other people's weight files, turned into ours (facts 12)."""

from pathlib import Path

from torch import Tensor

from clip4vla.errors import UserError

OPENAI_SIZES = {"input_resolution", "context_length", "vocab_size"}  # not weights; archives only

# Released CLIP4VLA code -> ours, longest prefix first.
RELEASED = {
    "clip.visual.": "vision.",
    "clip.logit_scale": "logit_scale",
    "clip.": "text.",
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
# What follows "cross.encoder.layer.N" in BERT-style files (facts 7.3, 12.2).
BERT = {
    ".attention.self.": ".",
    ".attention.output.dense.": ".output.",
    ".attention.output.LayerNorm.": ".output_norm.",
    ".intermediate.dense.": ".widen.",
    ".output.dense.": ".narrow.",
    ".output.LayerNorm.": ".norm.",
}
GATE = "moe_embd.weight"  # a convolution of width 1 where the text decides
TIED = "cls.predictions.decoder.weight"  # a second name of clip.token_embedding.weight


def kind_of(path: Path, state: dict[str, Tensor]) -> str:
    """What wrote the file, judged by its names: ours, openai or released."""
    if "vision.conv1.weight" in state:
        return "ours"
    if "clip.visual.conv1.weight" in state:
        return "released"
    if "visual.conv1.weight" in state and "token_embedding.weight" in state:
        return "openai"
    found = ", ".join(sorted(state)[:3]) or "nothing"
    raise UserError(
        f"{path}: holds {found} ..., which are the names neither of this project, nor of OpenAI's "
        "CLIP, nor of the released CLIP4VLA; convert it to one of them"
    )


def to_our_names(path: Path, kind: str, state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of `state` under the names of our model. Unknown names stay as they are."""
    if kind == "openai":
        return {_openai(k): v for k, v in state.items() if k not in OPENAI_SIZES}
    if kind == "released":
        state = dict(state)
        tied = state.pop(TIED, None)
        if tied is not None and not tied.equal(state.get("clip.token_embedding.weight")):
            raise UserError(
                f"{path}: {TIED} must equal clip.token_embedding.weight, because the caption head "
                "is tied to it; this file was not written by the released code"
            )
        if GATE in state and state[GATE].ndim == 3:
            state[GATE] = state[GATE].squeeze(-1)
        # the released name `cross` serves captioning and retrieval alike; the head tells which
        joint = "captioner.joint" if "cls.predictions.bias" in state else "fusion.joint"
        return {_released(k).replace("JOINT", joint): v for k, v in state.items()}
    return state


def _openai(name: str) -> str:
    if name.startswith("visual."):
        return "vision." + name.removeprefix("visual.")
    return name if name == "logit_scale" else "text." + name


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
