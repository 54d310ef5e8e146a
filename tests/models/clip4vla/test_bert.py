"""The BERT-style joint encoder (facts 7.3) and the released names of its weights."""

import pytest
import torch
from torch import nn

from clip4vla.common.errors import UserError
from clip4vla.config.sections import Inputs
from clip4vla.models.clip4vla.bert import BertJointEncoder
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.joint import JointInput, Kind
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.weights import load_into
from clip4vla.models.common.bert_block import BertBlock

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
D, LAYERS = 64, 2
CLIP_STYLE = Model(architecture="tiny", weights=None, joint_layers=LAYERS)
CONFIG = CLIP_STYLE.model_copy(update={"joint": "bert"})
INPUTS = Inputs(max_frames=3, max_segments=3, max_words=8)


def build(head="fusion", seed=1):
    return build_model(CONFIG, {}, head, seed=seed, inputs=INPUTS)


@pytest.fixture(scope="module")
def parts():
    generator = torch.Generator().manual_seed(0)
    text, vision, audio = (torch.randn(2, n, D, generator=generator) for n in (4, 3, 2))
    masks = torch.tensor([[1, 1, 1, 0], [1, 1, 0, 0]]), torch.tensor([[1, 1, 1], [1, 0, 0]])
    return [
        JointInput(Kind.TEXT, text, masks[0].bool(), 8),
        JointInput(Kind.VISION, vision, masks[1].bool(), 3),
        JointInput(Kind.AUDIO, audio, torch.tensor([[1, 1], [0, 0]]).bool(), 2),
    ]


@pytest.fixture(scope="module")
def joint():
    """Large weights, so that every term counts."""
    made = BertJointEncoder(D, 2, LAYERS, 20).eval()
    generator = torch.Generator().manual_seed(1)
    for parameter in made.parameters():
        parameter.data += 0.2 * torch.randn(parameter.shape, generator=generator)
    return made


def test_a_block_equals_torchs_post_norm_layer(joint):
    """GELU by erf, LayerNorm after each sum, eps 1e-12, six times wider inside."""
    block = joint.layers[0]
    theirs = nn.TransformerEncoderLayer(
        D, 2, 6 * D, activation="gelu", layer_norm_eps=1e-12, batch_first=True
    ).eval()
    qkv = block.query, block.key, block.value
    theirs.load_state_dict(
        {
            "self_attn.in_proj_weight": torch.cat([part.weight for part in qkv]),
            "self_attn.in_proj_bias": torch.cat([part.bias for part in qkv]),
            **names("self_attn.out_proj", block.output),
            **names("linear1", block.widen),
            **names("linear2", block.narrow),
            **names("norm1", block.output_norm),
            **names("norm2", block.norm),
        }
    )
    x = torch.randn(2, 5, D, generator=torch.Generator().manual_seed(2))
    valid = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]).bool()
    with torch.no_grad():
        ours = block(x, valid[:, None].expand(-1, 5, -1))
        expected = theirs(x, src_key_padding_mask=~valid)
    assert torch.allclose(ours[valid], expected[valid], **CLOSE)


def names(start, module):
    return {f"{start}.{name}": value for name, value in module.state_dict().items()}


def test_the_input_is_normalised(joint, parts):
    """Positions are the indices in a sequence whose parts fill their room; types 0, 1, 2."""
    expected = parts[1].features + joint.positional_embedding[8:11] + joint.type_embedding.weight[1]
    expected = nn.functional.layer_norm(expected, (D,), joint.norm.weight, joint.norm.bias, 1e-12)
    assert torch.allclose(joint.embed(parts[1], 8), expected, **CLOSE)


def test_padding_and_batch_do_not_matter(joint, parts):
    with torch.no_grad():
        whole = joint(parts)
        noisy = [p._replace(features=p.features + 9 * ~p.mask[..., None]) for p in parts]
        alone = [p._replace(features=p.features[[1]], mask=p.mask[[1]]) for p in parts[:2]]
        for part, ours, theirs in zip(parts, whole, joint(noisy), strict=True):
            assert torch.allclose(ours[part.mask], theirs[part.mask], **CLOSE)
        for part, ours, theirs in zip(parts, whole, joint(alone), strict=False):
            assert torch.allclose(ours[1][part.mask[1]], theirs[0][part.mask[1]], **CLOSE)


def test_pairs_go_through_the_pooler(joint):
    x = torch.randn(3, D, generator=torch.Generator().manual_seed(3))
    expected = torch.tanh(x @ joint.pooler.weight.T + joint.pooler.bias)
    assert torch.allclose(joint.pooled(x), expected, **CLOSE)


def test_dropout_acts_in_training_only():
    block = BertBlock(D, 2, hidden=2 * D, dropout=0.1)
    x, attend = torch.randn(1, 4, D), torch.ones(1, 4, 4).bool()
    assert not torch.equal(block(x, attend), block(x, attend))
    block.eval()
    assert torch.equal(block(x, attend), block(x, attend))


@pytest.mark.parametrize("head", ["fusion", "captioning"])
def test_it_starts_from_nothing(head):
    """N(0, 0.02) and zero biases; one seed gives one set; the text tower is not copied."""
    one, two = build(head), build(head)
    joint = (one.fusion or one.captioner).joint
    assert all(torch.equal(v, two.state_dict()[k]) for k, v in one.state_dict().items())
    drawn = {k: v for k, v in joint.named_parameters() if v.ndim > 1}
    assert len(drawn) == 2 + 6 * LAYERS + 1
    assert all(0.017 < v.std() < 0.023 for k, v in drawn.items() if "type" not in k)
    rest = {k: v for k, v in joint.named_parameters() if v.ndim == 1}
    assert all(
        torch.equal(v, torch.full_like(v, float("norm.weight" in k))) for k, v in rest.items()
    )
    before = joint.positional_embedding.clone()
    one.copy_from_clip("fusion" if head == "fusion" else "captioner")
    assert torch.equal(joint.positional_embedding, before)


def test_it_has_512_positions():
    inputs = Inputs(max_words=77, max_frames=100, max_segments=100)
    model = build_model(CONFIG, {}, "fusion", inputs=inputs)
    assert len(model.fusion.joint.positional_embedding) == 512
    with pytest.raises(UserError, match="has 77 positions"):
        build_model(CLIP_STYLE, {}, "fusion", inputs=inputs)
    long = Inputs(max_words=77, max_frames=490, max_segments=10)
    with pytest.raises(UserError, match="is 577, but the joint encoder has 512"):
        build_model(CONFIG, {}, "fusion", inputs=long)


def released(**shapes):
    """A state dict under the released names, every tensor drawn, in a tiny size."""
    generator = torch.Generator().manual_seed(8)
    plain = build_model(CONFIG, {}, seed=5)
    state = {}
    for part, theirs in {
        "vision": "clip.visual.",
        "text": "clip.",
        "audio": "audio.visual.",
    }.items():
        tower = getattr(plain, part).state_dict()
        state |= {theirs + name: value for name, value in tower.items()}
    state["clip.logit_scale"] = torch.tensor(4.0)
    square = {"weight": (D, D), "bias": (D,)}
    norm = {"weight": (D,), "bias": (D,)}
    wanted = {
        "cross.embeddings.position_embeddings": {"weight": (512, D)},
        "cross.embeddings.token_type_embeddings": {"weight": (3, D)},
        "cross.embeddings.LayerNorm": norm,
        "cross.pooler.dense": square,
    }
    for layer in range(LAYERS):
        start = f"cross.encoder.layer.{layer}."
        wanted |= {
            start + "attention.self.query": square,
            start + "attention.self.key": square,
            start + "attention.self.value": square,
            start + "attention.output.dense": square,
            start + "attention.output.LayerNorm": norm,
            start + "intermediate.dense": {"weight": (6 * D, D), "bias": (6 * D,)},
            start + "output.dense": {"weight": (D, 6 * D), "bias": (D,)},
            start + "output.LayerNorm": norm,
        }
    for name, tensors in (wanted | shapes).items():
        for leaf, shape in tensors.items():
            state[f"{name}.{leaf}"] = torch.randn(shape, generator=generator)
    return state


def test_released_names_are_understood(tmp_path):
    state = released(similarity_dense={"weight": (1, D), "bias": (1,)})
    torch.save(state, tmp_path / "old.bin")
    model = build()
    load_into(model, tmp_path / "old.bin")
    joint, layer = model.fusion.joint, model.fusion.joint.layers[1]
    places = {
        "embeddings.position_embeddings.weight": joint.positional_embedding,
        "embeddings.token_type_embeddings.weight": joint.type_embedding.weight,
        "embeddings.LayerNorm.bias": joint.norm.bias,
        "pooler.dense.weight": joint.pooler.weight,
        "encoder.layer.1.attention.self.key.weight": layer.key.weight,
        "encoder.layer.1.attention.output.dense.weight": layer.output.weight,
        "encoder.layer.1.attention.output.LayerNorm.weight": layer.output_norm.weight,
        "encoder.layer.1.intermediate.dense.weight": layer.widen.weight,
        "encoder.layer.1.output.dense.weight": layer.narrow.weight,
        "encoder.layer.1.output.LayerNorm.weight": layer.norm.weight,
    }
    for name, parameter in places.items():
        assert torch.equal(parameter, state[f"cross.{name}"]), name
    assert torch.equal(model.fusion.similarity.weight, state["similarity_dense.weight"])


def test_a_file_of_the_other_style_is_refused(tmp_path):
    torch.save(released(similarity_dense={"weight": (1, D), "bias": (1,)}), tmp_path / "old.bin")
    clip_style = build_model(CLIP_STYLE, {}, "fusion", inputs=INPUTS)
    with pytest.raises(UserError, match=r"fusion\.joint\.pooler.*left over.*style of the joint"):
        load_into(clip_style, tmp_path / "old.bin")


@pytest.mark.parametrize(
    ("kind", "shape"), [("feat2sim", (2, 2 * D)), ("query2sim", (2, D, 1)), ("query2sim", (2, D))]
)
def test_a_released_gate_is_understood(tmp_path, kind, shape):
    state = released(
        similarity_dense={"weight": (1, D), "bias": (1,)},
        moe_embd={"weight": shape, "bias": (2,)},
    )
    torch.save(state, tmp_path / "old.bin")
    model = build()
    model.add_gate(kind)
    load_into(model, tmp_path / "old.bin")
    assert torch.equal(model.gate.linear.weight.flatten(), state["moe_embd.weight"].flatten())
    without = build()
    with pytest.raises(UserError, match="gate.linear"):
        load_into(without, tmp_path / "old.bin")
    load_into(without, tmp_path / "old.bin", fresh=("gate",))
