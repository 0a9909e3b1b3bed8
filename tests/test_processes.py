"""Models in processes of their own: idleness, exits, forks, interrupts, no network."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.test_runtime import python

SETUP = """
import numpy as np, os, sys, threading, time
import nbconv, nbconv.runtime
from tests.test_runtime import layers
model = layers(threads=2)
x = np.random.default_rng(0).standard_normal((2, 24, 12, 12), np.float32)
"""


@pytest.mark.skipif(not Path("/proc/self/schedstat").exists(), reason="processor time of threads is read from /proc")
def test_idle_costs_nothing() -> None:
    """Of the threads that helped: a sleep alone takes Python up to a millisecond on some machines."""
    out = python(
        SETUP
        + textwrap.dedent("""
        def helpers():
            tasks = [task for task in os.listdir("/proc/self/task") if int(task) != os.getpid()]
            return sum(int(open(f"/proc/self/task/{task}/schedstat").read().split()[0]) for task in tasks) / 1e9
        for _ in range(20): model.run({"x": x})
        begin = helpers()
        time.sleep(1)
        print(begin > 0, helpers() - begin)
        """)
    )
    helped, seconds = out.split()
    assert helped == "True" and float(seconds) <= 1e-3


def test_from_another_thread() -> None:
    python(
        SETUP
        + textwrap.dedent("""
        found = []
        t = threading.Thread(target=lambda: found.append(model.run({"x": x})["y3"]))
        t.start(); t.join()
        assert np.array_equal(found[0], model.run({"x": x}, threads=1)["y3"])
        """)
    )


def test_exit_right_after_a_run() -> None:
    """In one process after another: forks of an interpreter that has run nothing yet."""
    python(
        SETUP
        + textwrap.dedent("""
        model.plan({"x": x.shape})
        for i in range(20):
            pid = os.fork()
            if pid == 0:
                model.run({"x": x})
                if i % 2: model.run_async({"x": x})
                sys.exit(0)
            assert os.waitpid(pid, 0)[1] == 0, i
        """)
    )
    for i in range(3):
        python(SETUP + 'model.run({"x": x})\n' + 'model.run_async({"x": x})\n' * (i == 1))


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_fork() -> None:
    """With workers awake, and while other threads run and plan."""
    python(
        SETUP
        + textwrap.dedent("""
        want = model.run({"x": x})["y3"].tobytes()
        stop = False
        def busy():
            i = 0
            while not stop:
                i += 1
                model.run({"x": x})
                layers().run({"x": x[:1]}, fetch=["s0"])
        others = [threading.Thread(target=busy) for _ in range(2)]
        for t in others: t.start()
        for i in range(12):
            time.sleep(0.01)
            pid = os.fork()
            if pid == 0:
                ok = all(model.run({"x": x}, threads=t)["y3"].tobytes() == want for t in (2, 1, 2))
                ok = ok and model.run({"x": x[:1]}, fetch=["y3", "s1"])["y3"].tobytes() == want[: len(want) // 2]
                os._exit(0 if ok else 1)
            assert os.waitpid(pid, 0)[1] == 0, i
        stop = True
        for t in others: t.join()
        assert model.run({"x": x})["y3"].tobytes() == want
        """)
    )


@pytest.mark.skipif(not hasattr(__import__("os"), "fork"), reason="no fork on this system")
def test_fork_while_another_thread_plans() -> None:
    python(
        SETUP
        + textwrap.dedent("""
        want = model.run({"x": x})["y3"].tobytes()
        assert model._lock.acquire(), "what a planning thread holds"
        pid = os.fork()
        if pid == 0:
            os._exit(0 if model.run({"x": x})["y3"].tobytes() == want else 1)
        for _ in range(100):
            done, status = os.waitpid(pid, os.WNOHANG)
            if done: break
            time.sleep(0.1)
        else:
            os.kill(pid, 9)
        assert done and status == 0
        """)
    )


def test_interrupt_leaves_the_model_usable() -> None:
    python(
        SETUP
        + textwrap.dedent("""
        import signal
        model = layers(threads=2, nodes=12)
        x = np.ones((64, 24, 12, 12), np.float32)
        want = model.run({"x": x})["y11"].tobytes()
        hits = 0
        signal.signal(signal.SIGALRM, signal.default_int_handler)
        for i in range(40):
            try:
                signal.setitimer(signal.ITIMER_REAL, 0.0005 + 0.0005 * i)
                while True: model.run({"x": x})
            except KeyboardInterrupt:
                hits += 1
            assert model.run({"x": x})["y11"].tobytes() == want
        assert hits == 40
        assert not nbconv.runtime.executor._loop()._busy._is_owned()
        assert len(model._plans) == 1
        """)
    )


def test_no_network() -> None:
    python(
        """
        import socket
        def refuse(*_, **__): raise OSError("no network")
        socket.socket = socket.create_connection = socket.getaddrinfo = refuse
        import numpy as np, nbconv
        from tests.models import small_model
        y = nbconv.load(small_model().SerializeToString())(np.ones((1, 3, 9, 7), np.float32))
        assert y.shape == (1, 5)
        """
    )
