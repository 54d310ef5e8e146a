"""A Hub on loopback."""

from hub_fixtures import hub  # noqa: F401
