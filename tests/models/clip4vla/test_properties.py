"""Properties of the whole model, for every tower, fusion, gate and caption alike.

`RESULTS` names every way from clips to a result per clip; each property is tried on all of them:
padding is never read, company and order do not matter, a modality that is masked is not there.

Exact: the words of captions, and all that no matrix product enters. Elsewhere float32 rounds
otherwise for other shapes: results agree to 2e-5 of the largest.
"""

import pytest
import torch
from encoded_clips import encoded_clips

from clip4vla.config.sections import Decoding, Inputs
from clip4vla.loading.tokens import END, PAD, START
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.decoding import decode
from clip4vla.models.clip4vla.pair_scoring import score_pairs
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.pooling import masked_mean, normalise, pool
from clip4vla.models.common.similarity import similarities

INPUTS = Inputs(max_frames=5, max_segments=5, max_words=10)
LONGEST = 3  # frames and segments of a clip here; the rest of the room is for padding
WORDS = 7
SCALE = 100.0
SEEDS = range(2)
FUSIONS = ["clip", "bert"]
ENDS = {"clip": 8.0, "bert": 10.0}  # so that some captions end, and not all
GATES = ["feat2feat", "feat2sim", "query2feat", "query2sim"]


@pytest.fixture(scope="module")
def models():
    """Tiny models with each head, their joint encoders and gates far from their small start."""
    made = {}

    def build(name, head, n_classes=None, **options):
        config = Model(architecture="tiny", weights=None, **options)
        model = build_model(config, {}, head, n_classes, seed=3, inputs=INPUTS).eval()
        generator = torch.Generator().manual_seed(4)
        size = 0.3 if options.get("joint") == "bert" else 0.1  # it hardly reads at its start
        for key, value in model.named_parameters():
            if key.startswith(("fusion.", "gate.", "captioner.joint.")) and value.ndim > 1:
                value.data += size * torch.randn(value.shape, generator=generator)
        if head == "captioning":
            model.text.token_embedding.weight.data *= 20.0  # surer of its words
            model.captioner.head.bias.data[END] += ENDS[options["joint"]]
        made[name] = model

    for style in FUSIONS:
        build(f"fusion {style}", "fusion", joint=style)
        build(f"captioner {style}", "captioning", joint=style)
    for kind in GATES:
        build(kind, "gate", fusion=kind)
    build("probe", "classification", 5)
    return made


def clips(seed, number=4):
    """Clips with holes in their masks, one of them silent; captions of different lengths."""
    generator = torch.Generator().manual_seed(seed)

    def images():
        return torch.randn(number, LONGEST, 3, 224, 224, generator=generator)

    def mask():
        made = torch.rand(number, LONGEST, generator=generator) < 0.6
        made[torch.arange(number), torch.randint(LONGEST, (number,), generator=generator)] = True
        return made

    made = {"frames": images(), "frame_mask": mask(), "audio": images(), "audio_mask": mask()}
    made["audio_mask"][1] = False
    made["share"] = torch.rand(number, generator=generator)
    made["tokens"] = torch.full((number, WORDS), PAD)
    for row in made["tokens"]:
        length = int(torch.randint(1, WORDS - 1, (), generator=generator))
        row[0], row[length + 1] = START, END
        row[1 : length + 1] = torch.randint(1, 49000, (length,), generator=generator)
    return made


QUERIES = clips(99, 3)["tokens"]


def padded(given, seed=0):
    """The same clips with masked frames and segments that hold NaN, and more pads after texts."""
    more = dict(given)
    for images, mask in (("frames", "frame_mask"), ("audio", "audio_mask")):
        room = 5 - given[images].shape[1]
        nothing = torch.full((len(given[images]), room, 3, 224, 224), float("nan"))
        more[images] = torch.cat([given[images], nothing], dim=1)
        hole = ~given[mask]
        more[images][:, :LONGEST][hole] = float("inf")
        more[mask] = torch.nn.functional.pad(given[mask], (0, room))
    more["tokens"] = torch.nn.functional.pad(given["tokens"], (0, 10 - WORDS), value=PAD)
    return more


def rows(given, index):
    return {name: value[index] for name, value in given.items()}


# From clips to one result per clip, [N, ...]


def encoded(model, given):
    vision = model.encode_vision(given["frames"], given["frame_mask"])
    audio = model.encode_audio(given["audio"], given["audio_mask"], given["share"])
    return encoded_clips(vision, given["frame_mask"], audio, given["audio_mask"])


def text(models, given):
    return normalise(models["probe"].encode_text(given["tokens"])[1])


def vision(models, given):
    return pool(*encoded(models["probe"], given)["vision"])


def audio(models, given):
    return pool(*encoded(models["probe"], given)["audio"])


def mean(models, given):
    return masked_mean(*encoded(models["probe"], given)["audio"])


def probe(models, given):
    return models["probe"].probe(encoded(models["probe"], given))


def scored(found):
    """t_v, t_a and t_va, each [Q, N], as [N, Q, 3], of size 1."""
    return torch.stack([found[name].T for name in ("t_v", "t_a", "t_va")], dim=-1) / SCALE


def query(model):
    return model.encode_text(QUERIES)


def global_to_global(models, given):
    model = models["probe"]
    seen, heard = vision(models, given), audio(models, given)
    return scored(similarities(normalise(query(model)[1]), seen, heard, SCALE))


def gate(kind):
    def result(models, given):
        model = models[kind]
        clip = encoded(model, given)
        pooled = pool(*clip["vision"]), pool(*clip["audio"])
        return scored(model.gate(normalise(query(model)[1]), *pooled, SCALE))

    return result


def global_to_local(style):
    def result(models, given):
        model = models[f"fusion {style}"]
        clip = encoded(model, given)
        mixed = model.fusion.global_to_local(clip)
        pooled = pool(*mixed["vision"]), pool(*mixed["audio"])
        return scored(similarities(normalise(query(model)[1]), *pooled, SCALE))

    return result


def pairs(style, method, evaluated):
    def result(models, given):
        model = models[f"fusion {style}"]
        clip, (words, end) = encoded(model, given), query(model)
        local = method == "local_to_local"
        texts = (words, QUERIES != PAD) if local else (end, None)
        if evaluated:
            return score_pairs(model.fusion, *texts, clip, SCALE).T / SCALE
        texts = texts if local else texts[:1]
        return getattr(model.fusion, method)(*texts, clip, SCALE).T / SCALE

    return result


def caption_logits(style):
    """Of the word after the caption's last one."""

    def result(models, given):
        model = models[f"captioner {style}"]
        tokens = given["tokens"]
        logits = model.captioner(model.encode_text(tokens)[0], tokens != PAD, encoded(model, given))
        return logits[torch.arange(len(tokens)), (tokens != PAD).sum(1) - 1]

    return result


DECODINGS = {
    "greedy": Decoding(),
    "beam": Decoding(method="beam", beams=3, length_penalty=0.5),
    "uncached": Decoding(method="beam", beams=2, cache=False),
}


def apart(model, clip):
    """Features of random towers hardly differ between clips; here they do, each by itself."""
    blank = {name: torch.zeros_like(value) for name, value in rows(clips(0), [0]).items()}
    blank["frame_mask"][:, :1] = blank["audio_mask"][:, :1] = True
    usual = encoded(model, blank)
    return {
        name: FeatureSequence(30.0 * (x - usual[name].features[:, :1]), mask)
        for name, (x, mask) in clip.items()
    }


def captions(style, name):
    """Ids of the words, int64, padded to their room."""

    def result(models, given):
        model = models[f"captioner {style}"]
        found = decode(model, apart(model, encoded(model, given)), DECODINGS[name], 6)
        return torch.tensor([[*caption.ids, *[-1] * (6 - len(caption.ids))] for caption in found])

    return result


RESULTS = {"text": text, "vision": vision, "audio": audio, "mean": mean, "probe": probe}
RESULTS["global_to_global"] = global_to_global
RESULTS |= {kind: gate(kind) for kind in GATES}
for one in FUSIONS:
    RESULTS[f"global_to_local, {one}"] = global_to_local(one)
    for way in ("tight", "local_to_local"):
        RESULTS[f"{way}, {one}"] = pairs(one, way, False)
        RESULTS[f"{way}, {one}, evaluated"] = pairs(one, way, True)
    RESULTS[f"logits, {one}"] = caption_logits(one)
RESULTS |= {f"captions, clip, {name}": captions("clip", name) for name in DECODINGS}
RESULTS["captions, bert, beam"] = captions("bert", "beam")


@pytest.fixture(params=RESULTS)
def result(request, models):
    """One way from clips to results, without gradients."""
    way = RESULTS[request.param]

    def call(given):
        with torch.no_grad():
            return way(models, given)

    return call


def same(ours, theirs):
    assert ours.shape == theirs.shape and theirs.isfinite().all()
    if not theirs.is_floating_point():
        assert torch.equal(ours, theirs)
        return
    assert (ours - theirs).abs().max() <= 2e-5 * max(1.0, theirs.abs().max())


def test_results_differ_between_clips(result):
    """So that the properties below say something."""
    found = result(clips(0, 6))
    assert (found - found[:1]).abs().max() > 1e-3


@pytest.mark.parametrize("seed", SEEDS)
def test_padding_changes_no_clip(result, seed):
    """Masked frames and segments may hold NaN and infinity: they are never read."""
    given = clips(seed)
    same(result(padded(given)), result(given))


@pytest.mark.parametrize("seed", SEEDS)
def test_batching_changes_no_clip(result, seed):
    given = clips(seed)
    alone = torch.cat([result(rows(given, [i])) for i in range(4)])
    same(alone, result(given))


@pytest.mark.parametrize("seed", SEEDS)
def test_order_does_not_matter(result, seed):
    given = clips(seed)
    order = torch.randperm(4, generator=torch.Generator().manual_seed(seed))
    same(result(rows(given, order)), result(given)[order])


@pytest.mark.parametrize("seed", range(20))
def test_where_no_product_enters_it_is_exact(seed):
    """Pooling and means round alike whatever stands beside a clip, in any order."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(6, 4, 64, generator=generator)
    mask = torch.rand(6, 4, generator=generator) < 0.6
    order = torch.randperm(6, generator=generator)
    for reduce in (pool, masked_mean):
        whole = reduce(features, mask)
        assert torch.equal(reduce(features[order], mask[order]), whole[order])
        alone = [reduce(features[[i]], mask[[i]]) for i in range(6)]
        assert torch.equal(torch.cat(alone), whole)


# What is fully masked is not there (facts 1.6)

HALVES = ["global_to_global", *(f"global_to_local, {style}" for style in FUSIONS)]
PAIRS = [name for name in RESULTS if name.startswith(("tight", "local_to_local"))]
CAPTIONS = [name for name in RESULTS if name.startswith(("logits", "captions"))]
MODALITY = {"vision": ("frame_mask", 0), "audio": ("audio_mask", 1)}


def masked(given, *modalities):
    return given | {MODALITY[m][0]: torch.zeros_like(given[MODALITY[m][0]]) for m in modalities}


@pytest.mark.parametrize("modality", MODALITY)
@pytest.mark.parametrize("name", [*HALVES, *GATES])
def test_a_fully_masked_modality_gives_zero(models, name, modality):
    """Its own similarity is 0, and t_va is half the other's: t_v / 2, or what the gate leaves."""
    other = 1 - MODALITY[modality][1]
    for seed in SEEDS:
        given = clips(seed)
        given["audio_mask"][1, 0] = True
        with torch.no_grad():
            found = RESULTS[name](models, masked(given, modality))  # [N, Q, 3]
        assert found[..., MODALITY[modality][1]].eq(0).all()
        assert found[..., other].ne(0).all()
        share = found[..., 2] / found[..., other]
        if name in GATES:
            assert ((share > 0) & (share < 1)).all()
        else:
            assert torch.allclose(share, torch.tensor(0.5), atol=1e-6)


@pytest.mark.parametrize("name", [*HALVES, *GATES])
def test_a_clip_with_nothing_has_similarity_zero(models, name):
    with torch.no_grad():
        assert RESULTS[name](models, masked(clips(0), "vision", "audio")).eq(0).all()


@pytest.mark.parametrize("name", [*PAIRS, *CAPTIONS])
def test_fully_masked_audio_is_the_same_as_none(models, name, monkeypatch):
    """Where positions are read there is no zero: vision alone decides."""
    given, whole = masked(clips(0), "audio"), encoded
    with torch.no_grad():
        ours = RESULTS[name](models, given)
        monkeypatch.setitem(globals(), "encoded", lambda *both: {"vision": whole(*both)["vision"]})
        same(ours, RESULTS[name](models, given))


@pytest.mark.parametrize("name", [*PAIRS, *CAPTIONS])
def test_what_fully_masked_frames_hold_is_never_read(models, name):
    given = masked(clips(0), "vision")
    other = given | {"frames": torch.full_like(given["frames"], float("nan"))}
    with torch.no_grad():
        assert torch.equal(RESULTS[name](models, other), RESULTS[name](models, given))


@pytest.mark.parametrize("name", [*PAIRS, *CAPTIONS])
def test_a_clip_with_nothing_is_finite(models, name):
    given = clips(0)
    for mask in ("frame_mask", "audio_mask"):
        given[mask][2] = False
    with torch.no_grad():
        found = RESULTS[name](models, given)
        alone = RESULTS[name](models, rows(given, [2]))
    same(alone, found[[2]])
