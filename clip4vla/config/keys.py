"""Names that are hashes of content: run keys, dataset versions, cache ids."""

from clip4vla.common.files import canonical_json, sha256_of
from clip4vla.config.base import Section
from clip4vla.config.data import Cache, Dataset


def run_key(run: Section) -> str:
    """Return `sha256(canonical JSON of the scientific config)[:12]`: enough for 10,000 runs."""
    return sha256_of(canonical_json(run.scientific()))[:12]


def cache_id(cache: Cache) -> str:
    """Return the name of a cache, a hash of the settings that decide the bytes of its shards."""
    return sha256_of(canonical_json(cache.scientific()))[:8]


def dataset_version(name: str, dataset: Dataset) -> str:
    """Return the folder name of a dataset version, such as `msrvtt-v1-0a1b2c`."""
    digest = sha256_of(canonical_json({"name": name, **dataset.scientific()}))[:6]
    return f"{name}-{dataset.version}-{digest}"
