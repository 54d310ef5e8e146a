"""A frozen dataset version of small media."""

from cache_fixtures import build, cache, frozen, ledger, manifest_path, vectors  # noqa: F401
