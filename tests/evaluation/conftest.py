"""The tiny world and a trained model of each task."""

from world_fixtures import manifests, trained  # noqa: F401
