"""The toy's model, its two tasks, and the family."""

import torch
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.data import IMAGE_SIZE
from clip4vla.config.settings import Settings
from clip4vla.loading.processor import ClipProcessor
from clip4vla.models.common.archives import read_tensors
from clip4vla.models.common.clip_model import ClipModel
from clip4vla.models.common.conversion import Conversion
from clip4vla.models.common.coverage import compare
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.losses import nce
from clip4vla.models.common.parts import part_hash
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.models.common.probe import Probe, ProbeTask
from clip4vla.models.common.scorer import PooledScorer
from clip4vla.models.common.similarity import similarities
from clip4vla.models.common.task import ContrastiveTask

LETTERS = 128


class Letters(ClipProcessor):
    """Words by their first letters, and 0 behind the last one."""

    def tokenize(self, texts, max_words):
        rows = [[ord(word[0]) % LETTERS for word in text.split()][:max_words] for text in texts]
        return torch.tensor([row + [0] * (max_words - len(row)) for row in rows])


class Toy(ClipModel):
    processor = Letters()

    def __init__(self, dim, n_classes):
        super().__init__()
        self.text = nn.Embedding(LETTERS, dim)
        self.vision, self.audio = nn.Linear(3, dim), nn.Linear(IMAGE_SIZE, dim)
        self.probe = None if n_classes is None else Probe(dim, n_classes)

    @property
    def dim(self):
        return self.text.embedding_dim

    def encode_text(self, tokens):
        words = self.text(tokens)
        said = (tokens > 0)[..., None]
        return words, (words * said).sum(1) / said.sum(1).clamp(min=1)

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
            name: FeatureSequence(x * masks[name][..., None], masks[name])
            for name, x in features.items()
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

    def __init__(self, model, run):
        self.model, self.modalities, self.wanted = model, run.modalities, run.objective

    def encode(self, batch, again=False):
        encoded = self.model.encode_clips(batch, self.modalities)
        features = {name: pool(x, mask) for name, (x, mask) in encoded.items()}
        text = normalise(self.model.encode_text(batch["tokens"])[1])
        return features | {"text": text, "has_audio": batch["has_audio"]}

    def objective(self, features):
        vision, audio = features.get("vision"), features.get("audio")
        text, scale = features["text"], self.wanted.scale
        scores = similarities(text, vision, audio, scale, features["has_audio"])
        return nce(scores.get("t_va", next(iter(scores.values()))), self.wanted.symmetric), {}

    def facts(self):
        return {"scale": self.wanted.scale}


class ToyFamily:
    def build(self, config, weights, task=None, n_classes=None, seed=0, inputs=None):
        with torch.random.fork_rng([]):
            torch.manual_seed(seed)
            return Toy(config.dim, n_classes if task == "classification" else None)

    def empty(self, config, task, n_classes, inputs):
        return self.build(config, {}, task, n_classes)

    def load(self, model, path, with_head):
        state = read_tensors(path)
        if not with_head:
            state = {name: x for name, x in state.items() if not name.startswith("probe.")}
        model.load_state_dict(state, strict=with_head)

    SOURCES = "the toy itself"

    def kind_of(self, tensors):
        return "toy" if set(tensors) == {"words", "pixels", "bands"} else None

    def renamed(self, path, kind, tensors):
        names = {"words": "text.weight", "pixels": "vision.weight", "bands": "audio.weight"}
        return {names.get(name, name): x for name, x in tensors.items()}

    def architecture_of(self, path, tensors):
        return "toy"

    def convert(self, path, file, fresh, drop, clip, overrides):
        state = self.renamed(path, "toy", file.tensors)
        settings = Settings(model={"family": "toy", "dim": len(state["vision.weight"])} | overrides)
        model = self.build(settings.model, {})
        wanted = {n: p for n, p in model.named_parameters() if not n.endswith("bias")}

        def copy():
            model.load_state_dict(state, strict=False)

        return Conversion(
            path=path,
            kind="toy",
            left_out=file.left_out,
            model=model,
            settings=settings,
            coverage=compare(wanted, state, {}),
            assumed=[],
            origin={
                "imported": {
                    "file": path.name,
                    "kind": "toy",
                    "form": file.layout,
                    "sha256": sha256_of_file(path),
                    "fresh": [],
                    "dropped": [],
                }
            },
            fresh=fresh,
            copy=copy,
        )

    def released_names(self, tensors):
        raise UserError("the toy was never released. Fix: export it with --names ours")

    def check_tag(self, where, tagged, config):
        raise UserError(f"{where}: the toy reads no CLIP. Fix: set model.weights: null")

    def prepare(self, model, run):
        if run.stage == "finetune" and run.trains_probe_only:
            model.requires_grad_(False)
            model.probe.requires_grad_(True)

    def scorer(self, model, config, modalities, rescores=False):
        return PooledScorer(model)

    def ranker(self, model, config, modalities):
        return PooledScorer(model)

    def task(self, model, run):
        if run.task == "classification":
            return ProbeTask(model, run)
        return Retrieval(model, run)


FAMILY = ToyFamily()
