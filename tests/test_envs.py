"""The environments are one set of versions but for torch."""

import tomllib
from importlib.metadata import requires, version
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPO = Path(__file__).parents[1]
OLDER = {"torch": "2.7.1", "torchvision": "0.22.1", "torchaudio": "2.7.1"}


def pins(path):
    lines = path.read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_v100_differs_in_torch_alone():
    assert pins(REPO / "envs" / "v100-constraints.txt") == pins(REPO / "constraints.txt") | OLDER


def needed():
    """All packages that an installation with all extras brings, as installed here."""
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    waiting = [*project["dependencies"], *(one for extra in extras.values() for one in extra)]
    waiting = [one for one in waiting if not one.startswith("clip4vla[")]
    found = set()
    while waiting:
        one = Requirement(waiting.pop())
        for extra in {"", *one.extras}:
            if (key := (canonicalize_name(one.name), extra)) not in found:
                found.add(key)
                waiting += [text for text in requires(one.name) or [] if applies(text, extra)]
    return {name for name, _ in found}


def applies(text, extra):
    """Whether a requirement of a package holds here, with one of its extras ("": none)."""
    marker = Requirement(text).marker
    return marker is None or marker.evaluate({"extra": extra})


def test_pins_are_those_of_the_packages_that_are_needed():
    pinned = {canonicalize_name(name): pin for name, pin in pins(REPO / "constraints.txt").items()}
    if any(version(name) != pin for name, pin in pinned.items() if not name.startswith("torch")):
        pytest.skip("other versions than the pinned ones are installed")
    cuda = ("cuda-", "nvidia-", "triton", "setuptools")  # of torch, each version its own
    brought = {name for name in needed() if not name.startswith(cuda) or name in pinned}
    assert brought == set(pinned)
    # yt-dlp[default] would bring it; it is GPL and only writes covers into sound files.
    assert "mutagen" not in brought


def test_files_that_environments_name_exist():
    for path in (REPO / "envs").glob("*.yaml"):
        (pip,) = [item["pip"] for item in yaml.safe_load(path.read_text())["dependencies"][2:]]
        for option in pip:
            name = option.split()[1].removesuffix("[all]")
            assert (path.parent / name).exists(), (path, option)


def test_all_names_every_extra_but_the_tools_of_developers():
    project = tomllib.loads((REPO / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    (everything,) = extras["all"]
    assert Requirement(everything).extras == set(extras) - {"all", "test", "docs"}
