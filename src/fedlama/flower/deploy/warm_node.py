"""A SuperNode that answers in a fraction of the time: it forks from a warm process, and looks for work more often.

Flower starts a new Python for every request, which then imports PyTorch: more than three seconds of a processor's
time. Here the SuperNode's helper (`flower-superexec`) is this module's :func:`execute`, in a process that the
SuperNode forked when it had imported Flower and had no threads yet. A further process, forked from the helper, imports
everything else once, does nothing else and has one thread; it forks for each request. After a request the SuperNode
looks for the next one every 0.3 to 1 seconds for a minute, instead of every 3, and wakes the helper when there is one.
It also sends replies that wait while no request comes: Flower's looks for replies only after a request, so once a
reply was late (its ClientApp hung and was killed), each later reply would wait for the request after it, and the round
for its deadline. And it gives up a reply whose ClientApp died while it handed it over, for the rest of which Flower's
waits without an end.

These replace parts of Flower that are not public. Where a version of Flower lacks them, the SuperNode works as Flower's
own.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from types import SimpleNamespace
from typing import Any

from fedlama.errors import FedlamaError, MissingExtraError
from fedlama.flower.deploy.clock import warn_of_clock

_LOG = logging.getLogger("fedlama.flower")
_INTERNAL = "flwr.supernode.start_client_internal"
_LONGEST = 1 << 16  # bytes of a message between the node, its helper and the process that forks
_FOR_REQUESTS = (
    *("flwr.clientapp", "fedlama.flower.apps", "fedlama.experiment.build"),
    *("httpcore", "numpy.ctypeslib", "numpy.ma", "numpy.random"),  # which others import when they first use them
)
"""Modules that every request needs."""
_UNFINISHED = ("pending", "starting", "running")  # of Flower's tasks
_BUSY_SECONDS = 60.0  # after work
_SHORTEST_PAUSE, _LONGEST_PAUSE, _SHARE = 0.3, 1.0, 0.1  # between two looks then: seconds, and the share of the wait


def start_node(arguments: Sequence[str]) -> None:
    """Run a SuperNode in this process until it is stopped.

    Args:
        arguments: Those of `flower-supernode`.

    Raises:
        MissingExtraError: Flower is not installed.
    """
    try:
        internal = importlib.import_module(_INTERNAL)
        cli = importlib.import_module("flwr.supernode.cli")
    except ImportError as error:
        raise MissingExtraError("flwr", "flower") from error
    warn_of_clock(arguments)
    pull, push = (getattr(internal, name, None) for name in ("_pull_and_store_message", "_push_messages"))
    if pull is None or push is None or not hasattr(internal, "time") or not hasattr(internal, "subprocess"):
        _LOG.warning("this version of Flower has other parts; the SuperNode runs as Flower's own")
    elif not hasattr(os, "fork"):
        _LOG.warning("this system cannot fork processes; the SuperNode runs as Flower's own")
    else:
        helper = Helper()
        clock = Polling(pull, helper.wake)
        internal._pull_and_store_message = clock.pull  # type: ignore[attr-defined]
        internal._push_messages = Sending(push).push  # type: ignore[attr-defined]
        internal.time = SimpleNamespace(**{**vars(time), "sleep": clock.sleep})  # type: ignore[attr-defined]
        internal.subprocess = SimpleNamespace(Popen=helper.start)  # type: ignore[attr-defined]
    sys.argv = ["flower-supernode", *arguments]
    cli.flower_supernode()


class Polling:
    """Shortens the SuperNode's pauses after work, and has replies sent that wait.

    For a minute after a message a pause is a tenth of the time since then, within limits, so that many nodes that wait
    for another one do not keep the SuperLink busy.

    Args:
        pull: Flower's function that looks for a message; it returns None when there is none.
        wake: Called when there was one, which has a task by then.
        now: Returns the time in seconds.
        pause: Sleeps.
    """

    def __init__(
        self,
        pull: Callable[..., Any],
        wake: Callable[[], None],
        now: Callable[[], float] = time.monotonic,
        pause: Callable[[float], None] = time.sleep,
    ) -> None:
        self._pull, self._wake, self._now, self._pause = pull, wake, now, pause
        self._latest = -math.inf

    def pull(self, *arguments: Any, **named: Any) -> Any:  # noqa: ANN401  (Flower's own)
        """Look for a message, and note when there was one; without one, return 0 if a reply waits to be sent.

        Flower's function returns the message's run, or None, after which replies are not sent.
        """
        pulled = self._pull(*arguments, **named)
        if pulled is not None:
            self._latest = self._now()
            self._wake()
        return 0 if pulled is None and _has_unsent_reply(named.get("state")) else pulled

    def sleep(self, seconds: float) -> None:
        """Sleep as long as Flower wants, or less after work."""
        waited = self._now() - self._latest
        short = min(max(_SHORTEST_PAUSE, _SHARE * waited), _LONGEST_PAUSE)
        self._pause(min(seconds, short) if waited < _BUSY_SECONDS else seconds)


def _has_unsent_reply(state: Any) -> bool:  # noqa: ANN401  (Flower's own)
    """Return whether a reply waits in the SuperNode's state; False where this version of Flower has another state."""
    lock, entries = getattr(state, "lock_msg_store", None), getattr(state, "msg_store", None)
    if lock is None or not isinstance(entries, dict):
        return False
    with lock:  # the state's own method would mark the reply as sent
        return any(
            not entry.is_retrieved and bool(entry.message.metadata.reply_to_message_id) for entry in entries.values()
        )


class Sending:
    """Has the SuperNode give up a reply that will never be complete.

    Args:
        push: Flower's function that sends the replies that wait; it logs what is raised, and goes on.
    """

    def __init__(self, push: Callable[..., Any]) -> None:
        self._push, self._run = push, 0

    def push(self, *, state: Any, object_store: Any, send: Callable[..., Any], **named: Any) -> None:  # noqa: ANN401
        """Send the replies that wait."""

        def begin(message: Any, *others: Any) -> Any:  # noqa: ANN401  (Flower's own)
            self._run = message.metadata.run_id
            return send(message, *others)

        store = _Handed(object_store, lambda: _has_client_app(state, self._run))
        self._push(state=state, object_store=store, send=begin, **named)


class _Handed:
    """A SuperNode's store, in which an object that is still to come is an error once no sender can bring it.

    Args:
        store: The store.
        is_alive: Returns whether a ClientApp of the run is alive.
    """

    def __init__(self, store: Any, is_alive: Callable[[], bool]) -> None:  # noqa: ANN401  (Flower's own)
        self._store, self._is_alive = store, is_alive

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401  (whatever the store has)
        return getattr(self._store, name)

    def get(self, number: str) -> bytes | None:
        """Return an object; empty where it is still to come.

        Raises:
            FedlamaError: It will never come.
        """
        content: bytes | None = self._store.get(number)
        if content == b"" and not self._is_alive():
            content = self._store.get(number)  # it may have come just before its ClientApp ended
            if content == b"":
                raise FedlamaError(
                    "the ClientApp ended before it had handed its reply over; the server asks again within minutes"
                )
        return content


def _has_client_app(state: Any, run: int) -> bool:  # noqa: ANN401  (Flower's own)
    """Return whether a ClientApp of a run is alive, by its heartbeats; True where this version has another state."""
    find = getattr(state, "get_tasks", None)
    return find is None or bool(find(run_ids=[run], statuses=_UNFINISHED))


class Helper:
    """The process of the SuperNode's helper; it is forked when this is made, and waits for its command."""

    def __init__(self) -> None:
        self._near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        if os.fork() == 0:
            self._near.close()
            command = far.recv(_LONGEST)
            if command:  # none where the SuperNode ended before, as after `--help`
                _run(partial(execute, far), json.loads(command))
            os._exit(0)
        far.close()

    def start(self, command: Sequence[str]) -> None:
        """Have it do what a command of `flower-superexec` says."""
        self._near.send(json.dumps(list(command)).encode())

    def wake(self) -> None:
        """Have it look for tasks now."""
        with suppress(OSError):  # it has ended, or has not yet seen that many wakes
            self._near.send(b"look", socket.MSG_DONTWAIT)


def execute(wakes: socket.socket) -> None:
    """Do what `flower-superexec` does, but look for tasks when woken, and fork for each request to a ClientApp.

    Args:
        wakes: Where a message comes whenever there is a task.
    """
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    forker = os.fork()
    if forker == 0:
        near.close()
        serve(far, _import_all())
        os._exit(0)
    far.close()
    executor = importlib.import_module("flwr.supercore.superexec.executor.subprocess_executor")
    started = executor.subprocess.Popen

    def launch(arguments: Sequence[str], **named: Any) -> Any:  # noqa: ANN401  (as Popen)
        if arguments[0] != "flwr-clientapp":
            return started(arguments, **named)
        near.send(json.dumps([*_without_parent(arguments), "--parent-pid", str(forker)]).encode())
        return None

    executor.subprocess = SimpleNamespace(Popen=launch, DEVNULL=subprocess.DEVNULL)  # type: ignore[attr-defined]
    looks = importlib.import_module("flwr.supercore.superexec.run_superexec")
    if hasattr(looks, "time"):
        looks.time = SimpleNamespace(**{**vars(time), "sleep": partial(wait, wakes)})  # type: ignore[attr-defined]
    else:
        os.environ.setdefault("FLWR_SUPEREXEC_TASK_POLL_INTERVAL", "0.4")
    importlib.import_module("flwr.supercore.cli").flower_superexec()


def wait(wakes: socket.socket, seconds: float) -> None:
    """Sleep until a message comes, or the time is over.

    Args:
        wakes: Where the message comes.
        seconds: The time.
    """
    if select.select([wakes], [], [], seconds)[0] and not wakes.recv(_LONGEST):
        time.sleep(seconds)  # the SuperNode has ended, and this process is about to


def _without_parent(arguments: Sequence[str]) -> list[str]:
    """Return arguments without the parent's number: the process that forks is another one."""
    kept = list(arguments)
    if "--parent-pid" in kept:
        at = kept.index("--parent-pid")
        del kept[at : at + 2]
    return kept


def _import_all() -> Callable[[], None]:
    """Import what every request needs, and return the program of a ClientApp.

    An experiment is resolved, too: that imports all options, and prepares the checks of their settings. No number is
    computed here.
    """
    for name in _FOR_REQUESTS:
        importlib.import_module(name)
    experiment = importlib.import_module("fedlama.experiment")
    experiment.resolve(experiment.resolve(experiment.read("digits")).to_json())  # in the form of a run's configuration
    program: Callable[[], None] = importlib.import_module("flwr.supernode.cli").flwr_clientapp
    return program


def serve(orders: socket.socket, program: Callable[[], None]) -> None:
    """Fork for each order until the other end is closed.

    Args:
        orders: Each message is a command, as JSON: a list with the program's name and its arguments.
        program: What a child runs, with this list in `sys.argv`.
    """
    while data := orders.recv(_LONGEST):
        with suppress(ChildProcessError):
            while os.waitpid(-1, os.WNOHANG)[0]:  # children that have ended
                pass
        if os.fork() == 0:
            orders.close()
            _run(program, json.loads(data))


def _run(program: Callable[[], None], command: list[str]) -> None:
    """Run the program in this child process, with the command in `sys.argv`, and end it."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGCHLD):
        signal.signal(number, signal.SIG_DFL)
    sys.argv, code = command, 1
    try:
        program()
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
    except BaseException:
        _LOG.exception("%s failed", command[0])
    finally:
        for stream in (sys.stdout, sys.stderr):
            with suppress(OSError, ValueError):
                stream.flush()
        os._exit(code)
