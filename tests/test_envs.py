"""The environments are one set of versions but for torch."""

from pathlib import Path

import yaml

REPO = Path(__file__).parents[1]
OLDER = {"torch": "2.7.1", "torchvision": "0.22.1", "torchaudio": "2.7.1"}


def pins(path):
    lines = path.read_text().splitlines()
    return dict(line.split("==") for line in lines if line and not line.startswith("#"))


def test_v100_differs_in_torch_alone():
    assert pins(REPO / "envs" / "v100-constraints.txt") == pins(REPO / "constraints.txt") | OLDER


def test_files_that_environments_name_exist():
    for path in (REPO / "envs").glob("*.yaml"):
        (pip,) = [item["pip"] for item in yaml.safe_load(path.read_text())["dependencies"][2:]]
        for option in pip:
            assert (path.parent / option.split()[1]).exists(), (path, option)
