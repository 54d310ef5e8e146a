"""The limit on parallel downloads, over all processes."""

import multiprocessing
import os
import signal
import threading

from fetching import rows, start
from synthetic import Misbehaving

from clip4vla.media import server
from clip4vla.media.server import Server


def test_slots_are_counted_and_released(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "POLL_SECONDS", 0.01)
    address, entered, order = "http://one.example:80/{file}", threading.Event(), []

    def third():
        with Server(address, tmp_path).slot(2):
            order.append("third")
            entered.set()

    with Server(address, tmp_path).slot(2):
        with Server(address, tmp_path).slot(2):
            waiting = threading.Thread(target=third)
            waiting.start()
            assert not entered.wait(0.2)
            with Server("http://other.example/", tmp_path).slot(1):
                order.append("other server")
        assert entered.wait(10)
    waiting.join()
    assert order == ["other server", "third"]


def test_no_folder_no_slots(tmp_path):
    alone = Server("http://x/", None)
    with alone.slot(1), alone.slot(1):
        alone.refuse(5.0)
    assert alone.refused_until() == 5.0


def test_a_killed_job_frees_its_slot(tmp_path, monkeypatch):
    monkeypatch.setattr(server, "POLL_SECONDS", 0.01)
    context = multiprocessing.get_context("spawn")
    ready = context.Event()
    holder = context.Process(target=hold, args=(str(tmp_path), ready))
    holder.start()
    assert ready.wait(30)
    os.kill(holder.pid, signal.SIGKILL)
    holder.join()
    with Server("http://x/", tmp_path).slot(1):
        pass


def hold(folder, ready):
    with Server("http://x/", folder).slot(1):
        ready.set()
        threading.Event().wait(60)


def test_refusals_are_shared_and_the_longest_counts(tmp_path):
    Server("http://user:secret@x:1/a", tmp_path).refuse(100.0)
    Server("http://x:1/b", tmp_path).refuse(50.0)
    assert Server("http://x:1/", tmp_path).refused_until() == 100.0
    assert Server("http://x:2/", tmp_path).refused_until() == 0.0
    assert {path.name for path in tmp_path.iterdir()} == {"x%3A1"}


def test_jobs_of_several_processes_take_turns(tmp_path, clip):
    site = Misbehaving(clip.read_bytes())
    with site.serving() as url:
        plan = rows(*(f"slow/{n}.mp4" for n in range(2)))
        jobs = [
            start(plan, tmp_path / str(n) / "m", url, network=str(tmp_path / "network"))
            for n in range(3)
        ]
        for job in jobs:
            _, errors = job.communicate()
            assert job.returncode == 0, errors
    assert 1 <= site.busiest <= 2
    assert len({path for path in site.asked}) == 2
