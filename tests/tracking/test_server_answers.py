"""Servers that do not answer, refuse, or are not MLflow: one line with the fix."""

import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from mlflow_servers import free_port

from clip4vla.cli import doctor
from clip4vla.common.errors import RetryLater, UserError
from clip4vla.config.load import load_config
from clip4vla.tracking import Target, sync
from clip4vla.tracking.server import check_server

LOGIN = '{"error_code": "UNAUTHENTICATED", "message": "no"}'
ANSWERS = {  # (status of /version, its text, status of a search, its text), part of the message
    "old": (
        (200, "2.9.2", 200, "{}"),
        "MLflow 2.9.2 has no logged models. Fix: upgrade it to MLflow 3",
    ),
    "another": ((200, "<html>hello</html>", 200, "{}"), "not an MLflow server. Fix: correct host"),
    "nothing": ((404, "<html>no</html>", 404, ""), "not an MLflow server. Fix: correct host"),
    "login": ((200, "3.17.2", 401, LOGIN), "MLFLOW_TRACKING_USERNAME"),
    "forbidden": ((200, "3.17.2", 403, "no"), "this login has no permission to write. Fix: export"),
    "host": ((200, "3.17.2", 403, "Invalid Host header - possible"), "--allowed-hosts 'NAME,"),
    "broken": ((200, "3.17.2", 503, "Bad"), "no MLflow server answers. Fix: start it"),
}


@pytest.fixture
def answering():
    """Starts a web server that gives these answers."""
    started = []

    def start(version, version_text, status, text):
        class Answer(BaseHTTPRequestHandler):
            def do_GET(self):
                first = self.path == "/version"
                self.send_response(version if first else status)
                self.end_headers()
                self.wfile.write((version_text if first else text).encode())

            def log_message(self, *arguments):
                pass

        made = HTTPServer(("127.0.0.1", 0), Answer)
        threading.Thread(target=made.serve_forever, daemon=True).start()
        started.append(made)
        return f"http://127.0.0.1:{made.server_port}"

    yield start
    for one in started:
        one.shutdown()


@pytest.mark.parametrize("case", ANSWERS)
def test_answers(answering, case):
    answers, message = ANSWERS[case]
    with pytest.raises((UserError, RetryLater)) as caught:
        check_server(answering(*answers))
    assert message in str(caught.value) and "\n" not in str(caught.value)
    assert isinstance(caught.value, RetryLater) == (case == "broken")


def test_no_server_is_a_retry(tmp_path):
    uri = f"http://127.0.0.1:{free_port()}"
    with pytest.raises(RetryLater, match=r"no MLflow server answers\. Fix: start it, or correct"):
        sync([], Target(uri, "test", tmp_path))
    found = doctor.mlflow_server(uri)
    assert (found.state, found.remedy[:8]) == ("warn", "start it")


def test_a_real_server(server):
    version = check_server(server.uri)
    assert doctor.mlflow_server(server.uri).found == f"{server.uri}: MLflow {version}"
    asked = server.uri.replace("127.0.0.1", "localhost.localdomain")
    try:
        check_server(asked)
    except RetryLater:
        pytest.skip("the name localhost.localdomain is not known here")
    except UserError as error:
        assert "--allowed-hosts" in str(error)
    else:
        pytest.fail("a name that the server was not started for")


@pytest.mark.parametrize(
    ("tracking", "message"),
    [
        ({"sink": "live"}, "live needs uri: http://HOST:PORT"),
        ({"uri": "http://me:secret@host:5000"}, "MLFLOW_TRACKING_TOKEN"),
        ({"uri": "postgresql://host/mlflow"}, "start `mlflow server` in front of the database"),
        ({"uri": "host:5000"}, "write http://HOST:PORT"),
        ({"uri": "http://host:port"}, "write http://HOST:PORT"),
        ({"sink": "lief"}, "tracking.sink"),
        ({"sinc": "live"}, "did you mean sink"),
    ],
)
def test_config(tracking, message):
    with pytest.raises(UserError) as caught:
        load_config([], {"targets": ["t"], "tracking": tracking})
    assert message in str(caught.value) and "secret" not in str(caught.value)


def test_off_is_not_a_boolean():
    config, _ = load_config(
        [], {"targets": ["t"], "tracking": {"sink": False, "uri": "http://h:1/"}}
    )
    assert (config.tracking.sink, config.tracking.uri) == ("off", "http://h:1")
