"""Import MLflow quietly, check its server, and explain its errors in one line."""

import logging
import os
import re
from types import ModuleType
from typing import TYPE_CHECKING

from clip4vla.common.errors import RetryLater, UserError
from clip4vla.common.late_packages import without_collection
from clip4vla.common.packaged import see

if TYPE_CHECKING:
    from requests import Response

SECONDS = 10  # timeout of a request
LATER = "start it, or correct tracking.uri; runs lose nothing: `clip4vla sync` sends them later"
LOGIN = (
    "export MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD, or MLFLOW_TRACKING_TOKEN, here "
    "and where jobs are submitted"
)
HOST = "start it with --allowed-hosts 'NAME,NAME:*' for the name in tracking.uri" + see(
    "tracking.md"
)
NOT_MLFLOW = "correct host, port and path of tracking.uri"
OLD = "upgrade it to MLflow 3 (pip install -U mlflow; mlflow db upgrade URI)"


def quiet_mlflow(retries: int = 3) -> ModuleType:
    """Import mlflow without telemetry and log lines, and return the module.

    retries: of a request without an answer. Environment variables that the user set win.
    """
    os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")
    os.environ.setdefault("DO_NOT_TRACK", "true")
    os.environ.setdefault("MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR", "false")
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", str(retries))
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR", "1")
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    for name in ("mlflow", "alembic", "urllib3"):
        logging.getLogger(name).setLevel(logging.ERROR)
    with without_collection():
        import mlflow

    logging.getLogger("mlflow").setLevel(logging.ERROR)  # its import sets the level again
    return mlflow


def check_server(uri: str) -> str:
    """Return the version of the MLflow server at a URI, once it has answered a search.

    Raises RetryLater when nothing answers, UserError for errors that the user can fix.
    """
    quiet_mlflow()
    from mlflow.tracking._tracking_service.utils import get_default_host_creds
    from mlflow.utils.rest_utils import http_request

    def request(path: str) -> "Response":
        answer = http_request(
            get_default_host_creds(uri),
            path,
            "GET",
            timeout=SECONDS,
            max_retries=0,
            raise_on_status=False,
        )
        if answer.status_code != 200:
            raise explained(uri, f"error code {answer.status_code}: {answer.text}")
        return answer

    try:
        version = request("/version").text.strip()
        if not re.fullmatch(r"\d+\.\d+\S*", version):
            raise UserError(f"{uri}: not an MLflow server. Fix: {NOT_MLFLOW}")
        if int(version.split(".")[0]) < 3:
            raise UserError(f"{uri}: MLflow {version} has no logged models. Fix: {OLD}")
        request("/api/2.0/mlflow/experiments/search?max_results=1").json()
    except (UserError, RetryLater):
        raise
    except Exception as error:  # requests, urllib3 and MLflow have dozens
        raise explained(uri, error) from None
    return version


def explained(uri: str, error: Exception | str) -> Exception:
    """Return the UserError or RetryLater for a failed request: its cause and fix in one line."""
    if isinstance(error, (UserError, RetryLater)):
        return error
    text = " ".join(str(error).split())
    for pattern, problem, fix in KNOWN:
        if re.search(pattern, text, re.IGNORECASE):
            return (RetryLater if fix is LATER else UserError)(f"{uri}: {problem}. Fix: {fix}")
    return UserError(f"{uri}: MLflow answers: {text[:200]}. Fix: see the log of the server")


KNOWN = (
    ("invalid host header", "the server refuses requests to this host name", HOST),
    (
        r"\b401\b|unauthenticated|not authenticated|customer_unauthorized",
        "a login is needed",
        LOGIN,
    ),
    (r"error code 403|permission_?denied", "this login has no permission to write", LOGIN),
    (
        r"certificate|sslerror|wrong_version_number",
        "no trusted https certificate",
        "correct tracking.uri, or name its certificate in MLFLOW_TRACKING_SERVER_CERT_PATH",
    ),
    (r"name or service not known|name resolution|nodename nor", "no such host", LATER),
    (r"error code 404|jsondecode|<html", "not an MLflow server", NOT_MLFLOW),
    (
        r"refused|timed? ?out|timeout|max retries|unreachable|reset by peer|connection"
        r"|error code 50[0234]|error code 429",
        "no MLflow server answers",
        LATER,
    ),
)
