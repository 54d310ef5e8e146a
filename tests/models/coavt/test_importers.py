"""Files of other projects as first weights of the joint audio-visual encoder."""

from dataclasses import replace

import pytest
import torch
from foreign_weights import cav_mae_state, prefixed, script_archive, vision_mae_state
from open_clip.transformer import QuickGELU, VisionTransformer
from safetensors.torch import save_file
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.models.coavt.cav_mae import known_classes
from clip4vla.models.coavt.encoder import AudioStack, SharedBlocks, VisualStack
from clip4vla.models.coavt.importers import kind_of, load_encoder
from clip4vla.models.coavt.initialise_encoder import initialise_encoder
from clip4vla.models.coavt.positions import grid_positions
from clip4vla.models.coavt.settings import Model
from clip4vla.models.coavt.sizes import sizes_of
from clip4vla.models.coavt.tags import check_tag
from clip4vla.models.common.encoded import FeatureSequence
from clip4vla.models.common.images import IMAGE_STATISTICS

SIZES = sizes_of("tiny", vocabulary=1, image=96, bands=64, steps=160)  # 3 x 3, 2 x 5 patches
DEEP = sizes_of("tiny", vocabulary=1, shared_layers=2, image=96, bands=64, steps=160)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}


IMAGENET = Model(image_stats="imagenet", activation="gelu", input_norm=False)
CLIP = Model(image_stats="clip", activation="quick_gelu", input_norm=True)


class Encoder(nn.Module):
    def __init__(self, sizes=SIZES, settings=IMAGENET):
        super().__init__()
        common = {"activation": settings.activation, "input_norm": settings.input_norm}
        statistics = IMAGE_STATISTICS[settings.image_stats]
        self.audio = AudioStack(sizes, **common)
        self.vision = VisualStack(sizes, **common, statistics=statistics)
        self.shared = SharedBlocks(sizes, settings.activation, missing="average")
        initialise_encoder(dict(self.named_children()), seed=3)


def loaded(path, state, sizes=SIZES, settings=IMAGENET):
    """A model with the tensors of a file, and the report."""
    torch.save(state, path)
    model = Encoder(sizes, settings)
    return model, load_encoder(model, path, sizes, settings)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "weights.pth"


@pytest.mark.parametrize("sizes", [SIZES, DEEP])
def test_cav_mae(path, sizes):
    """Every parameter comes from the file; the values are checked by tests/parity/coavt."""
    state = cav_mae_state(sizes)
    model, report = loaded(path, state, sizes)
    counts = {part: len(list(module.parameters())) for part, module in model.named_children()}
    assert (report.kind, report.loaded, report.fresh) == ("cav_mae", counts, ())
    assert sum(counts.values()) + len(report.unused) == len(state)
    assert "blocks_a.0.norm1_a.weight" in report.unused and "mask_token" in report.unused
    other = load_encoder(Encoder(sizes), path, sizes, IMAGENET)
    assert other == report and "CAV-MAE: audio" in str(report)


def test_cav_mae_of_distributed_training_is_the_same(path):
    plain, _ = loaded(path, cav_mae_state(SIZES))
    wrapped, _ = loaded(path, prefixed("module.", cav_mae_state(SIZES)))
    for one, other in zip(plain.parameters(), wrapped.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_classifier_of_a_fine_tuned_cav_mae_is_no_part_of_the_encoder(path):
    _, report = loaded(path, cav_mae_state(SIZES, n_classes=5))
    heads = {f"probe.{layer}.{end}" for layer in ("norm", "linear") for end in ("weight", "bias")}
    assert heads <= set(report.unused)


def test_the_released_order_of_classes():
    """Facts 8.4: that of stat.csv, where names are not sorted and have their commas."""
    classes = known_classes(309)
    assert len(set(classes)) == 309 and list(classes) != sorted(classes)
    assert classes[0] == "ambulance siren" and "bird chirping, tweeting" in classes
    assert known_classes(527) is None


@pytest.mark.parametrize("sizes", [SIZES, DEEP])
def test_vision_mae(path, sizes):
    state = vision_mae_state(sizes)
    model, report = loaded(path, {"model": state}, sizes)
    assert report.fresh == ("audio.positions", "audio.modality", "vision.modality")
    assert sorted(report.unused) == ["cls_token", "decoder_embed.bias", "decoder_embed.weight"]
    own, found = sizes.own_layers, model.state_dict()
    for part in ("audio", "vision"):
        for i in range(own):
            for name in ("norm1.bias", "attn.qkv.weight", "mlp.fc2.bias"):
                assert torch.equal(found[f"{part}.blocks.{i}.{name}"], state[f"blocks.{i}.{name}"])
    for i in range(sizes.shared_layers):
        theirs = f"blocks.{own + i}."
        weight = found[f"shared.blocks.{i}.attn.proj.weight"]
        assert torch.equal(weight, state[theirs + "attn.proj.weight"])
        for stream in ("audio", "vision", "av"):
            norm = found[f"shared.blocks.{i}.norm2.{stream}.weight"]
            assert torch.equal(norm, state[theirs + "norm2.weight"])
            assert torch.equal(found[f"shared.norm.{stream}.bias"], state["norm.bias"])
    assert torch.equal(found["vision.positions"], state["pos_embed"][0, 1:])
    assert torch.equal(found["audio.positions"], grid_positions(sizes.width, *sizes.audio_grid))


def test_sound_reads_a_grey_picture_as_the_source_did(path):
    """The sum of weights over RGB: one channel stands for three equal ones."""
    model, _ = loaded(path, vision_mae_state(SIZES))
    grey = torch.randn(2, 1, 96, 96)
    with torch.inference_mode():
        found, expected = (
            model.audio.patches(grey),
            model.vision.patches(grey.expand(-1, 3, -1, -1)),
        )
    torch.testing.assert_close(found, expected, **CLOSE)


def clip_tower(sizes, activation, seed=1):
    """open_clip's visual tower with norms that are not the identity."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tower = VisionTransformer(
            image_size=sizes.image,
            patch_size=sizes.patch,
            width=sizes.width,
            layers=sizes.own_layers + sizes.shared_layers,
            heads=sizes.heads,
            mlp_ratio=4.0,
            output_dim=32,
            act_layer=activation,
        )
        for parameter in tower.parameters():
            if parameter.ndim == 1:
                nn.init.normal_(parameter, 1.0, 0.3)
    return tower.eval()


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_a_visual_tower_of_open_clip(path, activation):
    """Without the class token, both compute the same."""
    tower = clip_tower(SIZES, {"quick_gelu": QuickGELU, "gelu": nn.GELU}[activation])
    text = {"token_embedding.weight": torch.zeros(4, 4), "logit_scale": torch.tensor(4.0)}
    settings = CLIP.model_copy(update={"activation": activation})
    state = prefixed("visual.", tower.state_dict()) | text
    model, report = loaded(path, state, settings=settings)
    biases = ("audio.patches.bias", "vision.patches.bias")
    assert report.fresh == (*biases, "audio.modality", "vision.modality")
    images = torch.randn(2, 3, 96, 96)
    with torch.inference_mode():
        for stack in (model.audio, model.vision):
            stack.modality.zero_()
            assert stack.patches.bias.eq(0).all()
        x = tower.conv1(images).flatten(2).transpose(1, 2) + tower.positional_embedding[1:]
        expected = tower.ln_post(tower.transformer(tower.ln_pre(x)))
        present = torch.ones(2, 1, dtype=torch.bool)
        found = model.shared({"vision": model.vision(images[:, None], present)})["vision"]
        torch.testing.assert_close(found.features, expected, **CLOSE)
        tokens = model.vision.embed(images)  # any tokens: sound has the same blocks and norms
        for block in model.audio.blocks:
            tokens = block(tokens)
        mask = torch.ones(tokens.shape[:2], dtype=torch.bool)
        for stream in ("audio", "av"):
            same = model.shared.stream(FeatureSequence(tokens, mask), stream).features
            torch.testing.assert_close(same, expected, **CLOSE)


def test_positions_of_sound_are_those_of_pictures_resized(path):
    """Between the centres of patches linearly, and constant beyond them."""
    tower = clip_tower(SIZES, QuickGELU)
    rows, columns = torch.meshgrid(torch.arange(3.0), torch.arange(3.0), indexing="ij")
    with torch.no_grad():
        tower.positional_embedding[1:, 0] = rows.flatten()
        tower.positional_embedding[1:, 1] = columns.flatten()
    model, _ = loaded(path, prefixed("visual.", tower.state_dict()), settings=CLIP)
    found = model.audio.positions.detach().unflatten(0, (2, 5))
    row = ((torch.arange(2) + 0.5) * 3 / 2 - 0.5).clamp(0, 2)
    column = ((torch.arange(5) + 0.5) * 3 / 5 - 0.5).clamp(0, 2)
    torch.testing.assert_close(found[..., 0], row[:, None].expand(2, 5))
    torch.testing.assert_close(found[..., 1], column.expand(2, 5))


def test_an_archive_of_openai_has_quick_gelu(tmp_path):
    """Its numbers are fp16, widened exactly."""
    sizes, path = replace(SIZES, own_layers=1), tmp_path / "archive.pt"
    tower = clip_tower(sizes, QuickGELU)
    script_archive(path, prefixed("visual.", tower.state_dict()))
    with pytest.raises(UserError, match="model.activation: quick_gelu, but the run has gelu"):
        load_encoder(Encoder(sizes), path, sizes, CLIP.model_copy(update={"activation": "gelu"}))
    model = Encoder(sizes, CLIP)
    load_encoder(model, path, sizes, CLIP)
    weight = tower.transformer.resblocks[1].mlp.c_fc.weight
    assert torch.equal(model.shared.blocks[0].mlp.fc1.weight, weight.half().float())
    summed = tower.conv1.weight.half().float().sum(dim=1, keepdim=True)
    assert torch.equal(model.audio.patches.weight, summed)


@pytest.mark.parametrize(
    ("state", "settings", "named"),
    [
        (
            cav_mae_state,
            IMAGENET.model_copy(update={"image_stats": "clip"}),
            "image_stats: imagenet",
        ),
        (
            vision_mae_state,
            IMAGENET.model_copy(update={"activation": "quick_gelu"}),
            "activation: gelu",
        ),
        (vision_mae_state, IMAGENET.model_copy(update={"input_norm": True}), "input_norm: false"),
    ],
)
def test_settings_that_weights_were_not_trained_with(path, state, settings, named):
    with pytest.raises(
        UserError, match=f"weights.pth: .*was trained with model.{named}, but .*Fix"
    ):
        loaded(path, state(SIZES), settings=settings)


def without(name):
    return lambda state: {k: v for k, v in state.items() if k != name}


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (without("norm_a.bias"), r"1 \(shared.norm.audio.bias\) missing"),
        (lambda state: state | {"extra.weight": torch.zeros(1)}, r"1 \(extra.weight\) left over"),
        (
            lambda state: state | {"norm.bias": torch.zeros(3)},
            r"shared.norm.av.bias \[3\] for \[64\]",
        ),
        (lambda state: state | {"norm.bias": torch.full((64,), torch.nan)}, "NaN"),
        (lambda state: state | {"pos_embed_a": torch.zeros(1, 7, 64)}, "segment_steps"),
    ],
)
def test_a_file_that_does_not_fit_changes_nothing(path, change, named):
    torch.save(change(cav_mae_state(SIZES)), path)
    model = Encoder()
    before = [parameter.clone() for parameter in model.parameters()]
    with pytest.raises(UserError, match=rf"weights.pth \(CAV-MAE\): .*{named}"):
        load_encoder(model, path, SIZES, IMAGENET)
    assert all(map(torch.equal, before, model.parameters()))


def test_another_number_of_shared_blocks_is_refused(path):
    with pytest.raises(UserError, match="left over.*Fix: compare .*model.shared_layers"):
        loaded(path, cav_mae_state(DEEP), SIZES)


def test_unknown_files_are_refused(tmp_path):
    path = tmp_path / "weights.safetensors"
    save_file({"layer.weight": torch.zeros(2)}, path)
    with pytest.raises(UserError, match="contains layer.weight .*CAV-MAE, a vision MAE, or CLIP"):
        load_encoder(Encoder(), path, SIZES, IMAGENET)
    assert kind_of({"visual.conv1.weight": torch.zeros(1)}) is None  # a ResNet's


def test_tags_that_fit():
    sizes = sizes_of("base", vocabulary=1)
    check_tag("weights.clip", "ViT-B-16-quickgelu:openai", sizes, CLIP)
    check_tag(
        "weights.clip",
        "ViT-B-16:laion2b_s34b_b88k",
        sizes,
        CLIP.model_copy(update={"activation": "gelu"}),
    )
    check_tag("weights.clip", "ViT-B-32-quickgelu:openai", sizes_of("base_32", vocabulary=1), CLIP)


@pytest.mark.parametrize(
    ("tag", "settings", "named"),
    [
        ("ViT-B-32-quickgelu:openai", CLIP, "patch_size 32, but model.architecture has 16"),
        ("ViT-L-14:openai", CLIP, "but model.architecture"),
        ("RN50:openai", CLIP, "not a plain ViT"),
        ("ViT-B-16:laion2b_s34b_b88k", CLIP, "set model.activation: gelu"),
        ("ViT-B-16-quickgelu:openai", IMAGENET, "set model.image_stats: clip"),
    ],
)
def test_tags_that_do_not_fit(tag, settings, named):
    with pytest.raises(UserError, match=f"weights.clip.*{tag}.*{named}"):
        check_tag("weights.clip", tag, sizes_of("base", vocabulary=1), settings)
