"""A third model family in a few dozen lines: a bag of words, and means of pixels and of mel bands."""

import torch
from torch import nn

from clip4vla.config.data import IMAGE_SIZE
from clip4vla.loading.tokens import END, PAD, START, VOCABULARY
from clip4vla.models.common.archives import read_tensors
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.encoded import Sequence
from clip4vla.models.common.losses import nce
from clip4vla.models.common.parts import part_hash
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.models.common.probe import Probe, ProbeTask
from clip4vla.models.common.scorer import PooledScorer
from clip4vla.models.common.similarity import similarities
from clip4vla.models.common.task import ContrastiveTask

SCALE = 20.0


class Toy(ClipModel):
    dim = 16

    def __init__(self, n_classes):
        super().__init__()
        self.text = nn.Embedding(VOCABULARY, self.dim)
        self.vision, self.audio = nn.Linear(3, self.dim), nn.Linear(IMAGE_SIZE, self.dim)
        self.probe = None if n_classes is None else Probe(self.dim, n_classes)

    def encode_text(self, tokens):
        words = self.text(tokens)
        said = (tokens != PAD) & (tokens != START) & (tokens != END)
        return words, (words * said[..., None]).sum(1) / said.sum(1, keepdim=True).clamp(min=1)

    def encode_clips(self, batch, modalities):
        masks = {"vision": batch["frame_mask"], "audio": batch["audio_mask"]}
        features = batch.get("features")
        if features is None:
            features = {}
            if "vision" in modalities:
                features["vision"] = self.vision(batch["frames"].float().mean((-2, -1)) / 255)
            if "audio" in modalities:
                features["audio"] = self.audio(batch["audio"].mean((2, 3)))
        return {
            name: Sequence(x * masks[name][..., None], masks[name]) for name, x in features.items()
        }

    def write_captions(self, clips, decoding, max_words):
        raise AssertionError("the toy has no captioner")

    def part_hash(self, part):
        return part_hash(self.get_submodule(part), {"part": part})

    def blocks(self):
        return []

    def checkpointed(self):
        return []


class Retrieval(ContrastiveTask):
    heads = ()

    def __init__(self, model, modalities):
        self.model, self.modalities = model, modalities

    def encode(self, batch, again=False):
        encoded = self.model.encode_clips(batch, self.modalities)
        features = {name: pool(x, mask) for name, (x, mask) in encoded.items()}
        text = normalise(self.model.encode_text(batch["tokens"])[1])
        return features | {"text": text, "has_audio": batch["has_audio"]}

    def objective(self, features):
        vision, audio = features.get("vision"), features.get("audio")
        scores = similarities(features["text"], vision, audio, SCALE, features["has_audio"])
        return nce(scores.get("t_va", next(iter(scores.values())))), {}

    def facts(self):
        return {"scale": SCALE}


class ToyFamily:
    def build(self, config, weights, head=None, n_classes=None, seed=0, inputs=None):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return Toy(n_classes if head == "classification" else None)

    def empty(self, config, head, n_classes, inputs):
        return self.build(config, {}, head, n_classes)

    def load(self, model, path, with_head):
        state = read_tensors(path)
        if not with_head:
            state = {name: x for name, x in state.items() if not name.startswith("probe.")}
        model.load_state_dict(state, strict=with_head)

    def prepare(self, model, run):
        if run.stage == "finetune" and run.task == "classification":
            model.requires_grad_(False)
            model.probe.requires_grad_(True)

    def scorer(self, model, config, modalities):
        return PooledScorer(model)

    def task(self, model, run):
        if run.task == "classification":
            return ProbeTask(model)
        return Retrieval(model, run.modalities)


FAMILY = ToyFamily()
