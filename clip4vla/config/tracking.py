"""Config of MLflow, which enters no run key."""

from typing import Literal, Self
from urllib.parse import urlsplit

from pydantic import field_validator, model_validator

from clip4vla.config.base import Section, runtime

SQLITE = "sqlite:///"


class Tracking(Section):
    """MLflow (docs/tracking.md)."""

    sink: Literal["off", "live", "deferred"] = runtime(
        "deferred",
        description="off; live: send runs to a server while they run; deferred: send finished runs "
        "by `clip4vla sync`, the last rule of `all`, which also completes live runs",
    )
    uri: str | None = runtime(
        None,
        description="a server, such as http://mlflow.lab:5000, or sqlite:///PATH; null: "
        "mlflow/mlflow.db of the working directory",
    )
    experiment: str = runtime(
        "clip4vla",
        pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._-]*$",
        description="experiments are named EXPERIMENT/STAGE",
    )
    seconds: float = runtime(
        30.0, ge=1, description="live: between samples of CPU, memory, GPUs and progress"
    )

    @field_validator("sink", mode="before")
    @classmethod
    def _yaml_reads_off_as_false(cls, sink: object) -> object:
        return "off" if sink is False else sink

    @field_validator("uri")
    @classmethod
    def _is_a_store(cls, uri: str | None) -> str | None:
        if uri is None:
            return None
        if uri.startswith(SQLITE) and len(uri) > len(SQLITE):
            return uri
        shown = "uri" if "@" in uri else repr(uri)  # the text before an @ may be a password
        try:
            parts = urlsplit(uri)
            host, _ = parts.hostname, parts.port  # a port that is not a number raises here
        except ValueError as error:
            reason = "" if "@" in uri else f" ({error})"
            raise ValueError(f"{shown}: invalid uri{reason}. Fix: write http://HOST:PORT") from None
        if parts.username or parts.password:
            raise ValueError(
                "a login in the uri. Fix: remove it, and export MLFLOW_TRACKING_USERNAME and "
                "MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN"
            )
        if parts.scheme not in ("http", "https") or not host:
            database = parts.scheme.startswith(("postgresql", "mysql", "mssql"))
            fix = "start `mlflow server` in front of the database and " if database else ""
            raise ValueError(
                f"{shown}: invalid uri. Fix: {fix}write http://HOST:PORT, or sqlite:///PATH"
            )
        if parts.query or parts.fragment:
            raise ValueError(
                "a query or fragment in the uri. Fix: remove ? or # and the text after it; for a "
                "token, export MLFLOW_TRACKING_TOKEN"
            )
        return uri.rstrip("/")

    @model_validator(mode="after")
    def _live_needs_a_server(self) -> Self:
        if self.sink == "live" and not self.is_server:
            raise ValueError(
                "sink: live needs uri: http://HOST:PORT, since jobs cannot share an sqlite file. "
                "Fix: set uri"
            )
        return self

    @property
    def is_server(self) -> bool:
        """Return whether runs are sent to a server."""
        return self.uri is not None and not self.uri.startswith(SQLITE)
