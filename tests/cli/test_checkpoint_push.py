"""`clip4vla checkpoint push`: what is sent, when, by whom; an upload that breaks."""

import hashlib
import json

import pytest
import yaml
from embed_files import write_tiny
from hub_server import TOKEN, Repo

import clip4vla
from clip4vla.cli.main import main
from clip4vla.common.files import sha256_of_file
from clip4vla.config.plan import Plan
from clip4vla.stages.export import export

ID = "me/my-model"
FILES = {"README.md", "config.json", "model.safetensors"}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An export, in the working directory."""
    monkeypatch.chdir(tmp_path)
    write_tiny(tmp_path / "run" / "model.safetensors")
    (tmp_path / "run" / "config.json").write_text('{"stage": "finetune", "seed": 3}')
    return exported(tmp_path)


def exported(tmp_path, licence="cc-by-4.0", source="run", out="out"):
    source = str(tmp_path / source / "model.safetensors")
    export(source, tmp_path / out, "ours", [], licence, lambda line: None, known=Plan)
    return tmp_path / out


@pytest.fixture
def push(capsys):
    """Push; return the exit code, stdout and the last line of stderr. No output has the token."""

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main(["checkpoint", "push", *map(str, arguments)])
        out, err = capsys.readouterr()
        assert TOKEN not in out + err
        return stop.value.code or 0, out, (err.strip().splitlines() or [""])[-1]

    return run


def files_of(repo, branch="main"):
    return {name for name in repo.commits[repo.branches[branch]] if name[0] != "."}


def test_a_push_is_one_private_commit_that_loads(hub, folder, push):
    code, out, error = push(folder, ID)
    assert code == 0, error
    repo = hub.repos[ID]
    assert repo.private and files_of(repo) == FILES | {"run.json"}
    assert len(repo.commits) == 2  # the first is the Hub's own, of an empty repository
    commit = repo.branches["main"]
    assert f"\nprivate: {hub.url}/{ID}/commit/{commit}" in out
    assert f'clip4vla.load("hf://{ID}@{commit}")' in out
    model = clip4vla.load(f"hf://{ID}@{commit}", device="cpu")
    assert sha256_of_file(model.source.path) == sha256_of_file(folder / "model.safetensors")


def test_a_dry_run_lists_bytes_and_asks_nobody(hub, folder, push, monkeypatch):
    monkeypatch.delenv("HF_TOKEN")
    (folder / "secret.txt").write_text("x")
    code, out, _ = push(folder, ID, "--dry-run", "--revision", "v2")
    assert code == 0 and hub.asked == []
    assert f"would send to hf://{ID} (branch v2, private if new)" in out
    sizes = [(folder / name).stat().st_size for name in (*FILES, "run.json")]
    for size in (*sizes, sum(sizes)):
        assert f"{size:,} bytes" in out
    assert "never sent, since an export does not write them: secret.txt" in out


def test_a_repeated_push_sends_nothing_and_commits_nothing(hub, folder, push):
    assert push(folder, ID)[0] == 0
    before = dict(hub.repos[ID].branches)
    hub.asked.clear()
    code, out, _ = push(folder, ID)
    assert code == 0 and hub.repos[ID].branches == before
    assert f"unchanged, nothing was sent; private: {hub.url}/{ID}/commit/{before['main']}" in out
    assert hub.paths("PUT") == [] and not any("/commit/" in path for path in hub.paths("POST"))


def test_a_new_export_replaces_the_files_and_removes_the_old_config_of_the_run(
    hub, folder, push, tmp_path
):
    assert push(folder, ID)[0] == 0
    hub.repos[ID].commits[hub.repos[ID].branches["main"]]["images/plot.png"] = b"of the user"
    write_tiny(tmp_path / "other" / "model.safetensors", task="retrieval")
    other = exported(tmp_path, source="other", out="out2")
    code, _, error = push(other, ID)
    assert code == 0, error
    assert files_of(hub.repos[ID]) == FILES | {"images/plot.png"}


def test_a_branch_is_created(hub, folder, push):
    hub.repos[ID] = Repo(private=True)
    first = hub.repos[ID].commit("main", {"README.md": b"an older card"})
    code, out, error = push(folder, ID, "--revision", "v2")
    assert code == 0, error
    assert hub.repos[ID].branches["main"] == first
    assert files_of(hub.repos[ID], "v2") == FILES | {"run.json"}
    code, _, error = push(folder, ID, "--revision", first)
    assert code == 78 and "a commit" in error and "name a branch" in error


def test_public_is_asked_for_and_needs_a_licence(hub, folder, push, tmp_path):
    hub.repos["me/open"] = Repo(private=False)
    code, _, error = push(folder, "me/open")
    assert code == 78 and "everybody can read it. Fix: pass --public" in error
    assert hub.paths("PUT") == [] and hub.repos["me/open"].commits == {}
    assert push(folder, "me/new", "--public")[0] == 0 and not hub.repos["me/new"].private
    bare = exported(tmp_path, licence=None, out="bare")
    code, _, error = push(bare, "me/bare", "--public")
    assert code == 78 and "states no license" in error and "--license" in error
    assert push(bare, "me/bare")[0] == 0
    code, out, _ = push(folder, "me/bare", "--public")
    assert code == 0 and "private: http" in out and hub.repos["me/bare"].private


def test_mistakes_are_one_line(hub, folder, push, monkeypatch, tmp_path):
    for name, words in (
        ("model", "not the address of a model"),
        ("me/a@b@c", "not the name of a branch"),
        ("datasets/me", "not the address of a model"),
        ("me/a--b", "Cannot have --"),
    ):
        code, _, error = push(folder, name)
        assert code == 78 and words in error and ". Fix: " in error
    code, _, error = push(folder, "others/model")
    assert code == 78 and "refused with status 403" in error and "the rights to create" in error
    assert hub.paths("PUT") == []
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    code, _, error = push(folder, ID)
    assert code == 78 and "status 401" in error and "hf auth login" in error
    monkeypatch.delenv("HF_TOKEN")
    code, _, error = push(folder, ID)
    assert code == 78 and "no access token" in error and "HF_TOKEN" in error
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    invalid = exported(tmp_path, licence="no-such-licence", out="invalid")
    code, _, error = push(invalid, ID)
    assert code == 78 and '"license" must be one of' in error and hub.paths("PUT") == []


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("README.md", "# my own", "does not state the sha256"),
        ("config.json", "{}", "not the metadata of model.safetensors"),
        ("config.json", "{", "not JSON"),
        ("model.safetensors", "x" * 200, "cannot be read as weights"),
        ("model.safetensors", None, "no model.safetensors in it"),
        ("README.md", None, "no README.md in it"),
    ],
)
def test_a_folder_that_is_not_a_whole_export_is_not_sent(hub, folder, push, name, content, words):
    (folder / name).unlink() if content is None else (folder / name).write_text(content)
    code, _, error = push(folder, ID)
    assert code == 78 and words in error and ". Fix: " in error and hub.asked == []


@pytest.mark.parametrize("chunk_size", [None, 5_000_000])
def test_an_upload_that_breaks_is_tried_again(hub, folder, push, chunk_size):
    hub.chunk_size = chunk_size
    part = "/part" if chunk_size else "/large"
    hub.broken = {f"PUT {part}": [2, 100_000]}
    code, _, error = push(folder, ID)
    assert code == 0, error
    assert len([path for path in hub.paths("PUT") if path.startswith(part)]) > 2
    sent = (folder / "model.safetensors").read_bytes()
    repo = hub.repos[ID]
    assert repo.commits[repo.branches["main"]]["model.safetensors"] == sent


def test_a_push_that_fails_changes_nothing_and_resumes(hub, folder, push):
    hub.broken = {"PUT /large": [100, 100_000]}
    code, _, error = push(folder, ID)
    assert code == 78 and "the transfer failed" in error and "run the same command again" in error
    assert files_of(hub.repos[ID]) == set() and hub.large == {}
    hub.broken = {"POST /api/models/me/my-model/commit": [1, 500]}
    code, _, error = push(folder, ID)
    assert code == 78 and "status 500" in error and files_of(hub.repos[ID]) == set()
    assert [*hub.large] == [sha256_of_file(folder / "model.safetensors")]
    hub.asked.clear()
    assert push(folder, ID)[0] == 0
    assert hub.paths("PUT") == [], "the weights had arrived"
    assert files_of(hub.repos[ID]) == FILES | {"run.json"} and len(hub.repos[ID].commits) == 2


def test_the_card_has_what_the_hub_reads(folder):
    card = (folder / "README.md").read_text()
    front = yaml.safe_load(card.split("---")[1])
    assert front == {
        "license": "cc-by-4.0",
        "library_name": "clip4vla",
        "pipeline_tag": "feature-extraction",
        "tags": ["clip", "audio", "video"],
    }
    assert "trained with: seed 3" in card and "hf://OWNER/NAME" in card
    stated = json.loads((folder / "config.json").read_text())
    assert stated["format"] == 1
    content = (folder / "model.safetensors").read_bytes()
    assert hashlib.sha256(content).hexdigest() in card


def test_an_export_of_an_export_is_equal(folder, tmp_path):
    again = exported(tmp_path, source="out", out="again")
    names = {path.name for path in folder.iterdir()}
    assert {path.name for path in again.iterdir()} == names == FILES | {"run.json"}
    for name in names:
        assert (again / name).read_bytes() == (folder / name).read_bytes()


def test_files_of_an_earlier_export_do_not_stay(folder, tmp_path):
    write_tiny(tmp_path / "other" / "model.safetensors", task="retrieval")
    exported(tmp_path, source="other")
    assert {path.name for path in folder.iterdir()} == FILES
