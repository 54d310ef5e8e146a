"""Our towers, similarities and caption generator against the reference vectors, key by key."""

import numpy as np
import pytest
import torch
from encoded_clips import encoded_clips

from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.pair_scoring import score_pairs
from clip4vla.models.clip4vla.weights import load_into
from clip4vla.models.common.losses import contrast, intra_modal
from clip4vla.models.common.pooling import normalise, pool
from clip4vla.models.common.similarity import similarities

SCALE = 100.0


def close(ours, theirs, tolerance):
    worst = np.abs(ours.numpy().astype(np.float64) - theirs.astype(np.float64)).max()
    assert worst <= tolerance, f"worst difference {worst:.3g} is over {tolerance:g}"


def joint_layers(layout, kind):
    blocks = "cross.transformer.resblocks."
    return len({k.split(".")[3] for k in layout["layouts"][kind] if k.startswith(blocks)})


@pytest.mark.parametrize(
    ("key", "share"),
    [
        ("audio_nb_or_vb_0", 0.0),
        ("audio_mix_0.25", 0.25),
        ("audio_mix_0.5", 0.5),
        ("audio_mix_1", 1.0),
    ],
)
def test_audio_with_one_mixed_type_token(pretrained, clips, vectors, key, share):
    everything = torch.ones_like(clips["audio_mask"])
    shares = torch.full((len(everything),), share)
    with torch.inference_mode():
        close(pretrained.encode_audio(clips["audio"], everything, shares), vectors[key], 1e-4)


def test_audio_per_sample_2(pretrained, clips, vectors):
    everything = torch.ones_like(clips["audio_mask"])
    with torch.inference_mode():
        ours = pretrained.encode_audio(clips["audio"], everything, clips["type"])
    close(ours, vectors["audio_per_sample_2"], 1e-4)


def test_audio_both_3(sizes, released_file, clips, vectors):
    model = CLIP4VLA(sizes, "both").eval()
    load_into(model, released_file("pretrain"))
    everything = torch.ones_like(clips["audio_mask"])
    with torch.inference_mode():
        ours = model.encode_audio(clips["audio"], everything, torch.zeros(len(everything)))
    close(ours, vectors["audio_both_3"], 1e-4)


def test_vision(pretrained, clips, vectors):
    everything = torch.ones_like(clips["frame_mask"])
    with torch.inference_mode():
        close(pretrained.encode_vision(clips["frames"], everything), vectors["vision"], 1e-4)


def test_text(pretrained, clips, vectors):
    with torch.inference_mode():
        close(pretrained.encode_text(clips["tokens"])[0], vectors["text"], 1e-4)


@pytest.mark.parametrize("pair", ["t_v", "t_a", "t_va"])
def test_pretrain_logits(pooled, vectors, pair):
    ours = similarities(pooled["text"], pooled["vision"], pooled["audio"], SCALE)
    close(ours[pair], vectors[f"pretrain_logits_{pair}"], 2e-3)


def test_pretrain_logits_a_v(pooled, vectors):
    ours = similarities(pooled["vision"], None, pooled["audio"], SCALE)["t_a"]  # rows are videos
    close(ours, vectors["pretrain_logits_a_v"], 2e-3)


@pytest.mark.parametrize("rows", ["text", "vision"])
def test_nce_with_audio(pooled, vectors, rows):
    ours = contrast(pooled[rows], pooled["audio"], SCALE)
    close(ours, vectors[f"nce_{rows}_audio"], 1e-4)


def test_nce_audio_audio(pretrained, pooled, clips, vectors):
    with torch.inference_mode():
        masked = pretrained.encode_audio(clips["augmented"], clips["audio_mask"], clips["type"])
    ours = intra_modal(pooled["audio"], pool(masked, clips["audio_mask"]), SCALE)
    close(ours, vectors["nce_audio_audio"], 1e-4)


@pytest.fixture(scope="module")
def retrieval(layout, sizes, released_file, vectors):
    """The checkpoint of retrieval with its joint encoder."""
    model = CLIP4VLA(sizes)
    layers = joint_layers(layout, "retrieval")
    model.add_fusion(layers, vectors["ids"].shape[1], vectors["video_mask"].shape[1])
    load_into(model, released_file("retrieval"))
    return model.eval()


@pytest.fixture(scope="module")
def encoded(retrieval, clips):
    """Outputs of its towers, with half of each type token."""
    half = torch.full((len(clips["tokens"]),), 0.5)
    with torch.inference_mode():
        words, end = retrieval.encode_text(clips["tokens"])
        return {
            "words": words,
            "end": end,
            "vision": retrieval.encode_vision(clips["frames"], clips["frame_mask"]),
            "audio": retrieval.encode_audio(clips["audio"], clips["audio_mask"], half),
        }


FUSED = {"": "t_va", "_vision_only": "t_v", "_audio_only": "t_a"}


def given(encoded, clips, only):
    """Encoded clips, without the modality that the key leaves out."""
    made = encoded_clips(
        encoded["vision"], clips["frame_mask"], encoded["audio"], clips["audio_mask"]
    )
    left_out = {"_audio_only": "vision", "_vision_only": "audio"}.get(only)
    return {name: sequence for name, sequence in made.items() if name != left_out}


def pooled_similarities(end, clip):
    pooled = {name: pool(*sequence) for name, sequence in clip.items()}
    return similarities(normalise(end), pooled.get("vision"), pooled.get("audio"), SCALE)


@pytest.mark.parametrize("only", FUSED)
def test_fusion_global_to_global(encoded, clips, vectors, only):
    ours = pooled_similarities(encoded["end"], given(encoded, clips, only))[FUSED[only]]
    close(ours, vectors[f"fusion_global_to_global{only}"], 2e-3)


@pytest.mark.parametrize("only", FUSED)
def test_fusion_global_to_local(retrieval, encoded, clips, vectors, only):
    with torch.inference_mode():
        mixed = retrieval.fusion.global_to_local(given(encoded, clips, only))
    ours = pooled_similarities(encoded["end"], mixed)[FUSED[only]]
    close(ours, vectors[f"fusion_global_to_local{only}"], 2e-3)


@pytest.mark.parametrize("only", FUSED)
def test_fusion_tight(retrieval, encoded, clips, vectors, only):
    with torch.inference_mode():
        ours = retrieval.fusion.tight(encoded["end"], given(encoded, clips, only), SCALE)
    close(ours, vectors[f"fusion_tight{only}"], 2e-2)


@pytest.mark.parametrize("only", FUSED)
def test_fusion_local_to_local(retrieval, encoded, clips, vectors, only):
    words = encoded["words"], clips["token_mask"]
    with torch.inference_mode():
        ours = retrieval.fusion.local_to_local(*words, given(encoded, clips, only), SCALE)
    close(ours, vectors[f"fusion_local_to_local{only}"], 2e-2)


@pytest.mark.parametrize("block_tokens", [20, 10_000])
@pytest.mark.parametrize("only", FUSED)
def test_fusion_tight_without_padding(retrieval, encoded, clips, vectors, only, block_tokens):
    given_clips = given(encoded, clips, only)
    ours = score_pairs(retrieval.fusion, encoded["end"], None, given_clips, SCALE, block_tokens)
    close(ours, vectors[f"fusion_tight{only}"], 2e-2)


@pytest.mark.parametrize("block_tokens", [20, 10_000])
@pytest.mark.parametrize("only", FUSED)
def test_fusion_local_to_local_without_padding(
    retrieval, encoded, clips, vectors, only, block_tokens
):
    words = encoded["words"], clips["token_mask"]
    given_clips = given(encoded, clips, only)
    ours = score_pairs(retrieval.fusion, *words, given_clips, SCALE, block_tokens)
    close(ours, vectors[f"fusion_local_to_local{only}"], 2e-2)


@pytest.fixture(scope="module")
def caption_logits(layout, sizes, released_file, clips, vectors):
    """Teacher-forced logits [B, L, V], with sound and without."""
    model = CLIP4VLA(sizes)
    layers = joint_layers(layout, "caption")
    model.add_captioner(layers, vectors["ids"].shape[1], vectors["video_mask"].shape[1])
    load_into(model.eval(), released_file("caption"))
    half = torch.full((len(clips["tokens"]),), 0.5)
    with torch.inference_mode():
        words = model.encode_text(clips["tokens"])[0], clips["token_mask"]
        vision = model.encode_vision(clips["frames"], clips["frame_mask"])
        audio = model.encode_audio(clips["audio"], clips["audio_mask"], half)
        both = encoded_clips(vision, clips["frame_mask"], audio, clips["audio_mask"])
        alone = {"vision": both["vision"]}
        return model.captioner(*words, both), model.captioner(*words, alone)


def test_caption_logits_first_1000(caption_logits, vectors):
    expected = vectors["caption_logits_first_1000"]
    close(caption_logits[0][..., : expected.shape[-1]], expected, 1e-3)


def test_caption_logits_argmax(caption_logits, vectors):
    assert np.array_equal(caption_logits[0].argmax(-1).numpy(), vectors["caption_logits_argmax"])


def test_caption_logsumexp(caption_logits, vectors):
    close(caption_logits[0].logsumexp(-1), vectors["caption_logsumexp"], 1e-3)


def test_caption_logsumexp_vision_only(caption_logits, vectors):
    close(caption_logits[1].logsumexp(-1), vectors["caption_logsumexp_vision_only"], 1e-3)
