"""Operations on shapes against products counted by hand and by torch on real tensors."""

import coavt_cases
import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from clip4vla.config.run import Evaluate, Finetune, Pretrain, Source, Substitute
from clip4vla.config.sections import Decoding, Inputs, Optimiser
from clip4vla.cost.batches import clip_batch
from clip4vla.cost.counting import Counter
from clip4vla.cost.models import Models
from clip4vla.cost.operations import Operations, _training_batch
from clip4vla.cost.units import ClipSize
from clip4vla.loading.processor import ClipProcessor
from clip4vla.models.clip4vla.objective import Objective
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.family import family_of
from clip4vla.training.gradients import backward

SOURCE = Source(dataset="d", cache_id="c", split="s")
INPUTS = Inputs(max_frames=2, max_segments=2, max_words=16)
CLIP = ClipSize(frames=2, segments=1)
CPU = torch.device("cpu")


def finetune(task="retrieval", **given):
    given = {"model": {}, "modalities": ["vision", "audio"], "inputs": INPUTS, **given}
    model = Model(**{"architecture": "tiny", "weights": None, "joint_layers": 2, **given["model"]})
    return Finetune(
        start=None, task=task, train=SOURCE, val=None, selection="last", **given | {"model": model}
    )


def pretrain(**given):
    model = Model(architecture="tiny", weights=None)
    return Pretrain(sources=[SOURCE], model=model, inputs=INPUTS, **given)


def linear(frozen=False, learns=True):
    """Return the operations of a linear layer of 3 inputs and 5 outputs on 7 rows."""
    layer = nn.Linear(3, 5, device="meta").requires_grad_(not frozen)
    x = torch.empty(7, 3, device="meta", requires_grad=learns)
    return Counter()(lambda: layer(x).sum().backward() if learns or not frozen else layer(x))


def test_a_linear_layer_is_two_operations_for_each_weight_and_row():
    assert linear(frozen=True, learns=False) == 2 * 7 * 3 * 5
    assert linear(frozen=True) == linear(learns=False) == 2 * linear(frozen=True, learns=False)
    assert linear() == 3 * linear(frozen=True, learns=False)


def test_vit_b_32_costs_what_is_published():
    """4.4 GMAC for an image of 224 pixels; a text of 77 tokens 3.0."""
    run = Substitute(start=None, queries=[SOURCE], donors=SOURCE, model=Model(weights=None))
    one, two = (Models().donors(run, ClipSize(frames, 0)) for frames in (1, 2))
    assert one == pytest.approx(8.8e9, rel=0.01) and two == 2 * one
    by_text = run.model_copy(update={"neighbours": "text", "inputs": Inputs(max_words=77)})
    assert Models().donors(by_text, ClipSize(1, 0)) == pytest.approx(5.96e9, rel=0.01)


RUNS = {
    "pooled": finetune(),
    "vision": finetune(modalities=["vision"]),
    "frozen": finetune(freeze={"layer_num": 1}),
    "gate": finetune(model={"fusion": "query2feat"}),
    "mixing": finetune(model={"fusion": "global_to_local", "joint": "bert"}),
    "tight": finetune(model={"fusion": "tight"}),
    "local": finetune(model={"fusion": "local_to_local", "joint": "bert"}),
    "captioning": finetune("captioning"),
    "captioning_pads": finetune("captioning", pad_loss=True),
    "probe": finetune("classification"),
    "classes": finetune("classification", trainable="all"),
    "tags": finetune("tagging", trainable="all"),
    "stage_1": pretrain(),
    "stage_2": pretrain(trainable="all", objective=Objective(temperature="learnable")),
    "many_positives": pretrain(objective=Objective(multi_positive=True)),
    "microbatch": finetune(optimiser=Optimiser(microbatch=8)),
}


COAVT = {
    **coavt_cases.CASES,
    "alignments": coavt_cases.pretrain(objective=coavt_cases.Objective(audio_visual_text=0)),
    "coavt_probe": coavt_cases.finetune("classification"),
    "coavt_tags": coavt_cases.finetune("tagging", trainable="all"),
}


@pytest.mark.parametrize("name", RUNS | COAVT)
def test_a_step_costs_what_torch_counts_on_real_tensors(name):
    """In a batch of 18 the pairs of `tight` and `local` are more than fit on a device at once."""
    run, size = (RUNS | COAVT)[name], 18
    clip = ClipSize(frames=2, segments=1, bands=128, channels=1) if name in COAVT else CLIP
    family = family_of(run.model.family)
    task = run.task if isinstance(run, Finetune) else None
    heads = {name: name for name in ("captioning", "classification", "tagging")}
    fusions = {"query2feat": "gate", "global_to_global": None}
    fusion = fusions.get(run.model.fusion, "fusion") if name in RUNS else None
    head = heads.get(task, fusion)
    model = family.build(run.model, {}, head, 100, inputs=run.inputs).train()
    family.prepare(model, run)
    sizes = [8, 8, 2] if run.optimiser.microbatch else [size]
    batches = [_real(_training_batch(run, model, clip, one)) for one in sizes]
    counted = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counted:
        backward(family.task(model, run), batches, CPU, lambda loss: loss)
    models = Models()
    assert models.step(run, clip, size) == counted.get_total_flops() > 0
    # The same from what is known of its blocks.
    longer = run.model_copy(update={"seed": 1})
    models.known.clear()
    assert models.step(longer, clip, size) == counted.get_total_flops()


def _real(batch):
    if isinstance(batch, dict):
        return {name: _real(value) for name, value in batch.items()}
    if isinstance(batch, torch.Tensor) and batch.is_meta:
        return torch.ones(batch.shape, dtype=batch.dtype)
    return batch


class Block(nn.Linear):
    """A block that reads a second input."""

    def forward(self, x, y=None):
        return super().forward(x if y is None else x + y)


@pytest.mark.parametrize("inner", [6, 4])
def test_equal_blocks_count_each_even_if_they_change_the_width(inner):
    blocks = [Block(4, inner), Block(inner, 4), Block(4, inner), Block(inner, 4)]
    model = nn.Sequential(*blocks, nn.Identity()).to("meta")
    x = torch.empty(3, 4, device="meta", requires_grad=True)
    for counter in [Counter()] * 2:
        step = counter(lambda: model(x).sum().backward(), [*model])
        assert step == 4 * 3 * (2 * 3 * 4 * inner)


def test_a_block_hands_gradients_on_to_its_second_input():
    block, memory = Block(4, 4).to("meta"), nn.Linear(4, 4, device="meta")
    x = torch.empty(3, 4, device="meta")
    for counter in [Counter()] * 2:
        step = counter(lambda: block(x, memory(x)).sum().backward(), [block])
        assert step == (3 + 2) * 2 * 3 * 4 * 4  # `memory` needs no gradient of its input


def test_a_block_that_no_loss_reads_costs_no_backward_pass():
    block = Block(4, 4).to("meta")
    x = torch.empty(3, 4, device="meta", requires_grad=True)
    counter = Counter()
    for reads in (True, False, True):

        def step(reads=reads):
            read = block(x)
            (read if reads else x).sum().backward()

        assert counter(step, [block]) == (3 if reads else 1) * 2 * 3 * 4 * 4


def test_a_block_of_a_checkpoint_costs_its_forward_pass_again():
    block, memory = Block(4, 4).to("meta"), nn.Linear(4, 4, device="meta")
    x = torch.empty(3, 4, device="meta", requires_grad=True)

    def step():
        checkpoint(block, x, memory(x), use_reentrant=False).sum().backward()

    for counter in [Counter()] * 2:
        assert counter(step, [block]) == (4 + 3) * 2 * 3 * 4 * 4


def test_frozen_towers_cost_their_forward_pass_once():
    models, run = Models(), pretrain()
    frames, caption = models.frozen(run, CLIP)
    assert frames > caption > 0
    assert models.frozen(run.model_copy(update={"trainable": "all"}), CLIP) == (0.0, 0.0)
    every = run.model_copy(update={"trainable": "all"})
    more = models.step(every, CLIP, 2) - models.step(run, CLIP, 2)
    assert 2.2 * 2 * (frames + caption) < more < 3 * 2 * (frames + caption)


def test_all_pairs_of_a_joint_encoder_are_counted():
    """Quadratic beyond the texts and clips: a gallery of twice the side has four times the pairs."""
    joint = Models().scoring(RUNS["tight"], CLIP)
    assert joint.pair > 100 * Models().scoring(RUNS["pooled"], CLIP).pair > 0
    once, twice = joint.total(10, 10), joint.total(20, 20)
    assert twice - 2 * once == pytest.approx(joint.pair * 200)
    few, many = joint.total(10, 10, variants=0), joint.total(10, 10, variants=2)
    assert many - few == pytest.approx(2 * (10 * joint.encoded + 100 * joint.pair))


def test_sounds_that_find_pictures_need_no_text_tower():
    model = Model(architecture="tiny", weights=None)
    texts = Evaluate(start=None, task="retrieval", test=SOURCE, model=model, inputs=INPUTS)
    sounds = texts.model_copy(update={"query": "audio", "missing_audio": "filter"})
    usual, across = (Models().scoring(run, CLIP) for run in (texts, sounds))
    assert across.clip == usual.clip and across.text == 0 < usual.text
    assert across.pair == usual.pair / 2 > 0  # one product of vectors for each pair, not two


@pytest.mark.parametrize("method", ["greedy", "beam"])
def test_a_caption_of_typical_length_is_written(method):
    run = finetune("captioning", decoding=Decoding(method=method))
    models = Operations()
    model, clips = models._model(run).eval(), {}
    batch = clip_batch(CLIP, ClipProcessor(), 8, INPUTS, run.modalities)
    with torch.no_grad():
        Counter()(lambda: clips.update(model.encode_clips(batch, run.modalities)))
        direct = models._count(model, lambda: model.write_captions(clips, run.decoding, 11))
    assert Models().scoring(run, CLIP).encoded == pytest.approx(direct / 8, rel=1e-6)


def test_a_mask_decides_how_much_is_computed():
    run = RUNS["pooled"]
    model = Operations()._model(run)
    whole, half = (clip_batch(CLIP, ClipProcessor(), 4, INPUTS, ["vision"]) for _ in range(2))
    half["frame_mask"][:, 1] = False
    one, other = (
        Counter()(lambda batch=batch: model.encode_clips(batch, ["vision"]))
        for batch in (whole, half)
    )
    assert one == 2 * other
