"""CLIP as others publish it: tags, caches, hashes. Nothing is downloaded here."""

import open_clip
import pytest
import torch
from foreign_weights import openai_state, tiny
from huggingface_hub import constants
from open_clip import pretrained as table
from safetensors.torch import save_file

from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.config.load import Weights
from clip4vla.models.clip4vla.architecture import resolve
from clip4vla.models.clip4vla.build import build_model
from clip4vla.models.clip4vla.importers import to_our_names
from clip4vla.models.clip4vla.model import CLIP4VLA
from clip4vla.models.clip4vla.settings import Model
from clip4vla.models.clip4vla.tags import check_tag
from clip4vla.models.common.published import (
    known_openai,
    published_as,
    tag_file,
    unverified_warning,
)

LAION = "ViT-B-32:laion2b_s34b_b79k"


def test_openai_files_are_known_by_the_hash_that_open_clip_ships():
    known = known_openai()
    assert known["40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"] == (
        "ViT-B-32",
        "ViT-B-32.pt",
    )
    assert {name for name, _ in known.values()} >= {"ViT-B-32", "ViT-B-16", "ViT-L-14", "RN50"}
    assert all(len(sha256) == 64 for sha256 in known)
    sha256 = next(key for key, (name, _) in known.items() if name == "ViT-B-32")
    assert published_as(sha256, Weights(path="renamed.pt")) == "OpenAI's ViT-B-32.pt"


def test_a_file_that_is_only_called_like_openais(tmp_path):
    sha256 = next(iter(known_openai()))
    assert unverified_warning(tmp_path / "ViT-B-32.pt", sha256) is None
    assert unverified_warning(tmp_path / "mine.pt", "0" * 64) is None
    assert "none of OpenAI's" in unverified_warning(tmp_path / "mine.pt", "0" * 64, archive=True)
    assert "none of OpenAI's" in unverified_warning(tmp_path / "ViT-B-32.pt", "0" * 64)


@pytest.mark.parametrize(
    ("tagged", "model"),
    [
        (LAION, {"activation": "gelu"}),
        ("ViT-B-32:openai", {}),
        ("ViT-B-32-quickgelu:openai", {}),
        ("ViT-B-16:dfn2b", {"architecture": "ViT-B-16"}),
        ("ViT-B-16:laion2b_s34b_b88k", {"architecture": "ViT-B-16", "activation": "gelu"}),
        ("ViT-L-14:metaclip_fullcc", {"architecture": "ViT-L-14"}),
    ],
)
def test_tags_that_fit(tagged, model):
    check_tag("weights.laion.open_clip", tagged, Model(**model))


@pytest.mark.parametrize(
    ("tagged", "model", "words"),
    [
        (LAION, {}, "set model.activation: gelu"),
        ("ViT-B-32:openai", {"activation": "gelu"}, "set model.activation: quick_gelu"),
        ("ViT-B-16:openai", {}, "is a ViT-B-16, but model.architecture is ViT-B-32"),
        ("ViT-B-32:laion2b_s34b_b97k", {}, "choose one like .*laion2b_s34b_b79k"),
        (
            "ViT-L-14:laion2b_s32b_b82k",
            {"architecture": "ViT-L-14", "activation": "gelu"},
            r"prepared differently from .* \(mean",
        ),
        ("RN50:openai", {}, "not a plain CLIP"),
        ("ViT-B-32-256:datacomp_s34b_b86k", {}, "not a plain CLIP"),
        ("ViT-B-16-SigLIP:webli", {}, "not a plain CLIP"),
        ("xlm-roberta-base-ViT-B-32:laion5b_s13b_b90k", {}, "not a plain CLIP"),
    ],
)
def test_tags_that_do_not_fit(tagged, model, words):
    with pytest.raises(UserError, match=words) as error:
        check_tag("weights.laion.open_clip", tagged, Model(**model))
    assert "\n" not in str(error.value)


def test_a_name_that_says_its_activation():
    assert resolve("ViT-B-32-quickgelu") == resolve("ViT-B-32")
    assert resolve("ViT-B-32", "gelu") != resolve("ViT-B-32")
    with pytest.raises(UserError, match=r"ViT-B-32-quickgelu has quick_gelu"):
        resolve("ViT-B-32-quickgelu", "gelu")


@pytest.fixture
def no_network(monkeypatch):
    """Any download fails the test."""

    def refuse(*args, **kwargs):
        raise AssertionError("asked the network")

    monkeypatch.setattr(table, "hf_hub_download", refuse)
    monkeypatch.setattr("urllib.request.urlopen", refuse)


def test_a_file_in_the_cache_is_used_without_asking_the_network(tmp_path, monkeypatch, no_network):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repository = tmp_path / "models--laion--CLIP-ViT-B-32-laion2B-s34B-b79K"
    snapshot = repository / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("0" * 40)
    save_file({"logit_scale": torch.tensor(4.0)}, snapshot / "open_clip_model.safetensors")
    file = tag_file("weights.laion", LAION)
    assert file.parent == snapshot
    # Whose a file is follows from its hash: by now a name may stand for another file.
    tagged = Weights(open_clip=LAION)
    assert published_as(sha256_of_file(file), tagged) == f"open_clip's {LAION}"
    assert published_as("0" * 64, tagged) is None
    assert published_as(sha256_of_file(file), Weights(path=file)) is None


def test_a_tag_is_downloaded_by_open_clip_once(tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    asked = []

    def download(config):
        asked.append(config["hf_hub"])
        return str(tmp_path / "file")

    assert tag_file("weights.laion", LAION, download) == tmp_path / "file"
    assert asked == ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K/"]

    def fail(config):
        raise FileNotFoundError("Failed to download file: no route\nto host")

    with pytest.raises(
        UserError, match=r"weights.laion: .*no route\)\. Fix: .*give it as `path`"
    ) as error:
        tag_file("weights.laion", LAION, fail)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-L-14"])
def test_the_towers_have_the_tensors_of_open_clips_models(name):
    """Names and shapes of every parameter, without memory for any; text grows by three words."""
    with torch.device("meta"):
        ours = dict(CLIP4VLA(resolve(name)).named_parameters())
        theirs = dict(open_clip.CLIP(**_plain(name)).named_parameters())
    given = to_our_names("x", "openai", theirs)
    wanted = {k: v for k, v in ours.items() if not k.startswith("audio.")}
    assert given.keys() == wanted.keys()
    different = [k for k in wanted if wanted[k].shape != given[k].shape]
    assert different == ["text.token_embedding.weight"]
    assert len(wanted[different[0]]) == len(given[different[0]]) + 3
    with torch.device("meta"):
        model = CLIP4VLA(resolve(name))
        model.add_fusion(4, 32, 12)  # the joint encoder has the text tower's width
        model.add_captioner(4, 32, 12, "bert")


def _plain(name):
    config = open_clip.get_model_config(name)
    return {key: config[key] for key in ("embed_dim", "vision_cfg", "text_cfg")}


@pytest.mark.parametrize("activation", ["quick_gelu", "gelu"])
def test_features_are_those_of_open_clips_model(tmp_path, activation):
    """The same file in open_clip's CLIP and in our towers, in float32, with each activation."""
    state = openai_state(seed=4)
    for value in state.values():
        value.mul_(4.0) if value.ndim > 1 else value  # so that the activations are not all linear
    theirs = open_clip.CLIP(
        embed_dim=64,
        vision_cfg={
            "image_size": 224,
            "layers": 2,
            "width": 64,
            "head_width": 32,
            "patch_size": 32,
        },
        text_cfg={"width": 64, "heads": 2, "layers": 2},
        quick_gelu=activation == "quick_gelu",
    )  # in training mode, whose results are the same: for evaluation torch has rougher kernels
    theirs.load_state_dict(state)
    torch.save(state, tmp_path / "clip.pt")
    config = Model(architecture="tiny", weights="laion", activation=activation)
    ours = build_model(config, {"laion": tmp_path / "clip.pt"}, "fusion").eval()
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(2, 3, 224, 224, generator=generator)
    tokens = torch.tensor([[49406, 320, 1929, 49407, 0, 0], [49406, 2368, 49407, 0, 0, 0]])
    padded = torch.nn.functional.pad(tokens, (0, 71))
    with torch.inference_mode():
        assert torch.allclose(ours.vision(images), theirs.encode_image(images), atol=1e-5)
        assert torch.allclose(ours.text(tokens)[1], theirs.encode_text(padded), atol=1e-5)
        other = tiny(activation="gelu" if activation == "quick_gelu" else "quick_gelu").eval()
        other.vision.load_state_dict(ours.vision.state_dict())
        assert not torch.allclose(other.vision(images), ours.vision(images), atol=1e-3)
        blocks = ours.fusion.joint.transformer.resblocks[0], ours.text.transformer.resblocks[0]
        x = torch.randn(2, 5, 64, generator=generator)
        assert torch.equal(*(block(x) for block in blocks))  # it copies them, activation included
