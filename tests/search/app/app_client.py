"""A page of an index on loopback, and the requests of its users."""

import http.client
import json
import socket
import threading
import time
from contextlib import contextmanager

import uvicorn

from clip4vla.search.app.server import make_app
from clip4vla.search.app.site import Site
from clip4vla.search.index import Index

JSON = {"Content-Type": "application/json"}
ODD = "at <b>the & 'harbour' #1?%2f.flac"


class Answer:
    def __init__(self, response):
        self.status, self.headers, self.body = (
            response.status,
            dict(response.headers),
            response.read(),
        )

    @property
    def json(self):
        return json.loads(self.body)

    @property
    def error(self):
        """The sentence of a refused request."""
        sentence = self.json["error"]
        assert self.status >= 400 and "\n" not in sentence and ". Fix: " in sentence
        return sentence


class Client:
    """The requests of one user."""

    def __init__(self, port):
        self.port, self.url = port, f"http://127.0.0.1:{port}/"

    def ask(self, method, address, body=None, **headers):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request(method, address, body, headers)
            return Answer(connection.getresponse())
        finally:
            connection.close()

    def get(self, address, **headers):
        return self.ask("GET", address, **headers)

    def search(self, **asked):
        return self.ask("POST", "/api/search", json.dumps(asked), **JSON)

    def upload(self, content, address="/api/search/file?name=query.bin"):
        return self.ask("POST", address, content)

    def rows(self, path):
        """The windows of a file, in their order."""
        hits = self.search(words="anything", top=100).json["hits"]
        mine = [hit for hit in hits if hit["path"] == path]
        return [hit["row"] for hit in sorted(mine, key=lambda hit: hit["start"])]


@contextmanager
def served(index, folder, **options):
    """A client of the page of an index."""
    folder.mkdir(exist_ok=True)
    site = Site(Index(index, device="cpu"), folder, **options)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        config = uvicorn.Config(make_app(site), log_level="critical", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()
        try:
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)
            client = Client(listening.getsockname()[1])
            client.site = site
            yield client
        finally:
            server.should_exit = True
            thread.join()
