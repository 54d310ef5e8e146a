"""Checkpoints by address: what is fetched, which commit, from the cache; errors in one line."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch
from embed_files import write_tiny
from hub_server import TOKEN, Repo

import clip4vla
from clip4vla.checkpoints.hub import Repository, repository_of, source_of
from clip4vla.common.errors import UserError
from clip4vla.common.files import sha256_of_file
from clip4vla.models.common.tensor_files import read_metadata
from clip4vla.search.opening import open_checkpoint
from clip4vla.search.table import read_description

ID = "me/my-model"


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    return write_tiny(tmp_path_factory.mktemp("weights") / "model.safetensors")


@pytest.fixture
def repo(hub, weights):
    """A repository with a checkpoint, and files that nobody asks for."""
    found = hub.repos[ID] = Repo(private=False)
    files = {
        "model.safetensors": weights.read_bytes(),
        "config.json": json.dumps(read_metadata(weights)).encode(),
        "README.md": b"a card",
        "pytorch_model.bin": b"a pickle",
    }
    found.commit("main", files)
    return found


def refused(address, *words):
    with pytest.raises(UserError) as error:
        source_of(address)
    message = str(error.value)
    assert "\n" not in message and message.startswith(address) and ". Fix: " in message
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("address", "id", "revision"),
    [
        ("hf://me/my-model", ID, None),
        ("hf:/me/my-model", ID, None),  # as a Path writes it
        ("hf://me/my-model@v1.0", ID, "v1.0"),
        ("hf://me/my-model@refs/pr/3", ID, "refs/pr/3"),
        ("hf://me/my-model@" + "a" * 40, ID, "a" * 40),
    ],
)
def test_an_address_names_a_repository_and_a_revision(address, id, revision):
    assert repository_of(address) == Repository(id, revision)


@pytest.mark.parametrize(
    "address",
    [
        "hf://",
        "hf://me",
        "hf://me/",
        "hf://me/model/model.safetensors",
        "hf://datasets/me",
        "hf://me/..",
        "hf://../model",
        "hf://me/mo--del",
        "hf://me/model.git",
        "hf://me/model@",
        "hf://me/model@../../x",
        "hf://me/model@/etc",
        "hf://me/model@a b",
        "hf://me/model@-x",
        "hf://me/mo del",
        "hf://me/model?x=1",
        "hf://me/model\n",
    ],
)
def test_other_addresses_are_refused(address):
    with pytest.raises(UserError, match=r"\A'?hf:.*\. Fix: .*\Z"):
        source_of(address)


def test_it_loads_and_embeds_as_the_file_does(hub, repo, weights):
    model = clip4vla.load(f"hf://{ID}", device="cpu")
    commit = repo.branches["main"]
    assert model.source.hub == f"hf://{ID}@{commit}"
    assert sha256_of_file(model.source.path) == sha256_of_file(weights)
    assert open_checkpoint(f"hf://{ID}", "cpu").source == model.source.hub  # of an index
    own = clip4vla.load(weights, device="cpu")
    texts = ["a dog barks"]
    assert np.array_equal(model.embed_text(texts), own.embed_text(texts))
    resolved = {path.rsplit("/", 1)[1] for path in hub.paths("GET") if "/resolve/" in path}
    assert resolved <= {"config.json", "model.safetensors"}  # the latter redirects in HEAD
    assert [path.split("/")[1] for path in hub.paths("GET")].count("cdn") == 1
    hosts = {asked: host for host, _, asked, token in hub.asked if token}
    assert set(hosts.values()) == {"127.0.0.1"}  # no token for the host of the large files


def test_a_download_is_used_again_without_network(hub, repo, monkeypatch):
    from huggingface_hub import constants

    first = source_of(f"hf://{ID}")
    hub.asked.clear()
    assert source_of(f"hf://{ID}") == first
    assert {method for _, method, _, _ in hub.asked} == {"HEAD"}
    hub.asked.clear()
    assert source_of(first.hub) == first and hub.asked == []  # a commit cannot have changed
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert source_of(f"hf://{ID}") == first and hub.asked == []
    refused("hf://me/other", "HF_HUB_OFFLINE is set", "unset it")


def test_a_server_that_is_away_is_replaced_by_the_cache(hub, repo):
    first = source_of(f"hf://{ID}")
    hub.stop()
    assert source_of(f"hf://{ID}") == first
    refused("hf://me/other", "no answer from http://127.0.0.1", "check the network")


def test_a_revision_is_a_branch_or_a_commit(hub, repo, weights, tmp_path):
    before = repo.branches["main"]
    other = write_tiny(tmp_path / "other.safetensors", task="retrieval")
    files = {"model.safetensors": other.read_bytes()}
    files["config.json"] = json.dumps(read_metadata(other)).encode()
    repo.commit("v2", files)
    assert sha256_of_file(source_of(f"hf://{ID}@v2").path) == sha256_of_file(other)
    assert sha256_of_file(source_of(f"hf://{ID}").path) == sha256_of_file(weights)
    repo.commit("main", files)
    assert sha256_of_file(source_of(f"hf://{ID}").path) == sha256_of_file(other)
    assert sha256_of_file(source_of(f"hf://{ID}@{before}").path) == sha256_of_file(weights)
    refused(f"hf://{ID}@v3", "no such branch, tag or commit")


def test_a_broken_download_resumes_where_it_ended(hub, repo, weights):
    hub.broken = {"GET /cdn": [2, 300_000]}
    source = source_of(f"hf://{ID}")
    assert sha256_of_file(source.path) == sha256_of_file(weights)
    assert len([path for path in hub.paths("GET") if path.startswith("/cdn")]) == 3


def test_a_download_that_keeps_breaking_leaves_nothing_and_can_be_repeated(hub, repo, tmp_path):
    hub.broken = {"GET /cdn": [100, 0]}
    refused(f"hf://{ID}", "the transfer failed", "run the same command again")
    hub.broken = {}
    blobs = tmp_path / "cache" / "models--me--my-model" / "blobs"
    assert [path.name for path in blobs.iterdir() if path.stat().st_size > 100_000] == []
    assert clip4vla.load(f"hf://{ID}", device="cpu").dim == 64


def test_a_damaged_file_of_the_cache_is_refused(hub, repo):
    path = source_of(f"hf://{ID}").path
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.resolve().write_bytes(content)
    refused(f"hf://{ID}", "is damaged", "delete that file")
    path.resolve().unlink()
    assert source_of(f"hf://{ID}").path == path


def test_what_is_not_ours_is_refused_before_its_weights_are_fetched(hub, repo):
    files = repo.commits[repo.branches["main"]]
    for content, words in (
        (b'{"model_type": "bert"}', "not written by `clip4vla checkpoint export`"),
        (b"[1]", "not written by"),
        (b"<html>", "not written by"),
        (b'{"format": 99}', "has format 99"),
        (b'{"format": 1, "model": {"architecture": 3}}', "invalid model.architecture"),
    ):
        repo.commit("main", files | {"config.json": content})
        refused(f"hf://{ID}", words)
    repo.commit("main", {"README.md": b""})
    refused(f"hf://{ID}", "not a checkpoint of this project", "clip4vla checkpoint import")
    repo.commit("main", {key: files[key] for key in ("config.json", "pytorch_model.bin")})
    refused(f"hf://{ID}", "no model.safetensors")
    torch.save({"weight": torch.ones(2)}, pickle := io.BytesIO())
    repo.commit("main", files | {"model.safetensors": pickle.getvalue()})
    with pytest.raises(UserError, match="not written by this project"):
        clip4vla.load(f"hf://{ID}", device="cpu")
    assert not any(".bin" in path for _, _, path, _ in hub.asked)


def test_missing_private_and_gated_repositories(hub, repo, monkeypatch):
    refused("hf://me/none", "no such repository, or a private one", "hf auth login")
    monkeypatch.delenv("HF_TOKEN")
    repo.gated = True
    refused(f"hf://{ID}", "gated", f"{hub.url}/{ID}", "HF_TOKEN")
    repo.gated, repo.private = False, True
    refused(f"hf://{ID}", "a private one")
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert source_of(f"hf://{ID}").path.is_file()
    hub.broken = {"HEAD /me/busy": [100, 503]}
    refused("hf://me/busy", "503", "check the network")


def test_the_command_line_takes_an_address(hub, repo, weights, tmp_path):
    """In a process of its own, with the variables of a user."""
    address, out = f"hf://{ID}@main", tmp_path / "text.npz"
    (tmp_path / "texts.txt").write_text("a dog barks")
    command = [sys.executable, "-m", "clip4vla", "embed", "text", address, tmp_path / "texts.txt"]
    variables = {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path / "home"), "HF_TOKEN": TOKEN}
    ended = subprocess.run(
        [*command, "--out", out], env=os.environ | variables, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert f"embed text {address} " in ended.stderr  # the line to run it again by
    assert TOKEN not in ended.stderr + ended.stdout
    stated = read_description(out)["checkpoint"]
    assert stated["hub"] == f"hf://{ID}@{repo.branches['main']}"
    assert stated["sha256"] == sha256_of_file(weights)


def test_a_web_address_is_not_taken_for_a_path():
    with pytest.raises(UserError, match=r"https://hub/owner/name: .* Fix: .* hf://OWNER/NAME"):
        clip4vla.load("https://hub/owner/name")


def test_a_file_that_is_not_there_is_one_line(tmp_path):
    with pytest.raises(
        UserError, match=r"gone\.bin: no such file\. Fix: name a model\.safetensors"
    ):
        clip4vla.load(tmp_path / "gone.bin")
    with pytest.raises(UserError, match=r": a folder\. Fix: name a file of weights, such as"):
        clip4vla.load(tmp_path)
