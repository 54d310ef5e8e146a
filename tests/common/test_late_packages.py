"""Packages whose `__init__` waits until it is needed, and which are whole from then on."""

import gc
import importlib
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from clip4vla.common import late_packages
from clip4vla.common.late_packages import delay_packages, without_collection


@pytest.fixture
def parcel(tmp_path, monkeypatch):
    """A late package with one module, and the list of what its `__init__` did."""
    folder = tmp_path / "parcel"
    folder.mkdir()
    (folder / "light.py").write_text("VALUE = 1\n")
    (folder / "__init__.py").write_text(
        "import builtins, time\n"
        "builtins.parcel_log.append('begun')\n"
        "from parcel import light\n"
        "time.sleep(0.05)\n"
        "if builtins.parcel_fails:\n"
        "    raise ValueError('no luck')\n"
        "HEAVY = light.VALUE + 1\n"
        "__version__ = '3'\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(late_packages, "LATE", {"parcel"})
    log = []
    monkeypatch.setattr("builtins.parcel_log", log, raising=False)
    monkeypatch.setattr("builtins.parcel_fails", False, raising=False)
    yield log
    for name in [name for name in sys.modules if name.split(".")[0] == "parcel"]:
        del sys.modules[name]


def test_modules_of_a_late_package_do_not_run_its_init(parcel):
    from parcel.light import VALUE

    assert VALUE == 1 and parcel == []
    package = sys.modules["parcel"]
    assert package.__file__.endswith("__init__.py") and package.light.VALUE == 1
    with pytest.raises(AttributeError):
        _ = package.__warningregistry__
    assert parcel == []


@pytest.mark.parametrize("name, value", [("HEAVY", 2), ("__version__", "3")])
def test_a_name_of_the_init_runs_it_once(parcel, name, value):
    package = importlib.import_module("parcel")
    assert parcel == [] and getattr(package, name) == value
    assert getattr(importlib.import_module("parcel"), name) == value and parcel == ["begun"]
    with pytest.raises(AttributeError, match="nothing"):
        _ = package.nothing
    assert parcel == ["begun"]


def test_from_import_of_a_name_of_the_init(parcel):
    from parcel import HEAVY

    assert HEAVY == 2


def test_an_init_that_fails_runs_again(parcel, monkeypatch):
    package = importlib.import_module("parcel")
    monkeypatch.setattr("builtins.parcel_fails", True, raising=False)
    with pytest.raises(ValueError, match="no luck"):
        _ = package.HEAVY
    monkeypatch.setattr("builtins.parcel_fails", False, raising=False)
    assert package.HEAVY == 2 and parcel == ["begun", "begun"]


def test_threads_wait_for_the_init(parcel):
    package = importlib.import_module("parcel")
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda _: package.HEAVY, range(8))) == [2] * 8
    assert parcel == ["begun"]


def test_packages_are_delayed_once():
    before = len(sys.meta_path)
    delay_packages()
    assert len(sys.meta_path) == before


def test_the_libraries_are_whole_when_asked():
    import open_clip
    import torchvision
    from torchvision import transforms

    assert "ViT-B-32" in open_clip.list_models() and open_clip.__version__
    assert torchvision.__version__ and transforms.Resize and torchvision.ops.nms
    assert (
        open_clip.transformer.LayerNorm
        is importlib.import_module("open_clip.transformer").LayerNorm
    )


def test_imports_without_collection():
    frozen = gc.get_freeze_count()
    with pytest.raises(ImportError), without_collection():
        assert not gc.isenabled()
        raise ImportError
    assert gc.isenabled() and gc.get_freeze_count() > frozen
    gc.unfreeze()
