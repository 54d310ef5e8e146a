"""A frozen dataset version of small media, and the tiny world."""

from cache_fixtures import build, cache, frozen, ledger, manifest_path, vectors  # noqa: F401
from world_fixtures import manifests  # noqa: F401
