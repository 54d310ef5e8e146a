"""Packages of which we use a few modules, and whose `__init__` costs more than torch itself.

A ViT needs `open_clip.transformer`, and a JPEG `torchvision.io`. Python runs the `__init__` of a
package before any of its modules, and these import CoCa, timm, torchvision's models and
torch._dynamo: four seconds of CPU at every start. Here the `__init__` runs when somebody first asks
the package for a name that only it defines (`open_clip.list_models`, `torchvision.__version__`).
`importlib.util.LazyLoader` cannot do it: it runs `__init__` before any module of a package.
"""

import gc
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.abc import Loader, MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder
from threading import RLock
from types import ModuleType
from typing import Any

LATE = {"open_clip", "torchvision", "torchvision.ops"}
DEFINED = {"__all__", "__version__"}  # dunder names that an `__init__` may define
_lock = RLock()


class _LatePackage(ModuleType):
    """A package whose `__init__` has not been run to its end."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name not in DEFINED:
            raise AttributeError(name)  # `inspect` and others ask every module for these
        with _lock:
            if self.__dict__.pop("_waits", False):  # else `__init__` asks its own package
                assert isinstance(self.__loader__, Loader), "as `_LateLoader` set it"
                try:
                    self.__loader__.exec_module(self)
                except BaseException:
                    self._waits = True
                    raise
                self.__class__ = ModuleType  # type: ignore[assignment]
        return ModuleType.__getattribute__(self, name)


class _LateLoader(Loader):
    """A loader that leaves the `__init__` of a package to `_LatePackage`."""

    def __init__(self, loader: Loader):
        self.loader = loader

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        """Return the module, empty."""
        return self.loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        """Make the module one that runs its `__init__` later."""
        assert module.__spec__ is not None, "made by `create_module`"
        module.__spec__.loader = module.__loader__ = self.loader
        module._waits = True  # type: ignore[attr-defined]
        module.__class__ = _LatePackage


class _LateFinder(MetaPathFinder):
    """Finds the packages of LATE for a `_LateLoader`, and no other module."""

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Return the spec of a package of LATE."""
        spec = PathFinder.find_spec(name, path) if name in LATE else None
        if spec is not None and spec.loader is not None:
            spec.loader = _LateLoader(spec.loader)
        return spec


@contextmanager
def without_collection() -> Iterator[None]:
    """Import large libraries without searching for garbage among their objects, then or later.

    Nothing of them is garbage. The searches take a sixth of the imports' time; those after a fork
    would copy the memory that readers share.
    """
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def delay_packages() -> None:
    """Delay the `__init__` of the packages of LATE, unless they are imported already.

    Repeated calls change nothing.
    """
    if not any(isinstance(finder, _LateFinder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _LateFinder())
