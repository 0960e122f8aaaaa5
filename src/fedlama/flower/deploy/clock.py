"""How far a machine's clock is from the SuperLink's: Flower refuses nodes by it, and does not say why.

A SuperNode signs each request with the time. The SuperLink turns it away when that is more than 5 seconds ahead of its
own clock, or more than 305 seconds behind. Every reply over HTTP names the time in its header ``Date``, in whole
seconds.
"""

from __future__ import annotations

import argparse
import http.client
import logging
import ssl
import time
from collections.abc import Callable, Sequence
from email.utils import parsedate_to_datetime

AHEAD_SECONDS, BEHIND_SECONDS = 5.0, 305.0
_WAIT_SECONDS = 10.0
_LOG = logging.getLogger("fedlama.flower")


def seconds_ahead(
    host: str, port: int, certificate: str | None = None, *, tls: bool = True, now: Callable[[], float] = time.time
) -> float | None:
    """Return by how many seconds this machine's clock is ahead of a server's, to about a second.

    Args:
        host: The server.
        port: Its port.
        certificate: File with the CA's certificate; None for those that the system trusts.
        tls: Whether to connect by TLS.
        now: Returns this machine's time, in seconds.

    Returns:
        The seconds, negative where it is behind; None where the server does not answer, or names no time.
    """
    try:
        if tls:
            context = ssl.create_default_context(cafile=certificate)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                host, port, timeout=_WAIT_SECONDS, context=context
            )
        else:
            connection = http.client.HTTPConnection(host, port, timeout=_WAIT_SECONDS)
        try:
            before = now()
            connection.request("HEAD", "/")
            date, after = connection.getresponse().headers["Date"], now()
        finally:
            connection.close()
        their = parsedate_to_datetime(date).timestamp() + 0.5  # on average half a second is cut off
    except (OSError, TypeError, ValueError, http.client.HTTPException):
        return None
    return (before + after) / 2 - their


def clock_problem(ahead: float) -> str:
    """Return what is wrong with a clock, as a sentence; empty where nothing is.

    Args:
        ahead: By how many seconds it is ahead of the SuperLink's.

    >>> clock_problem(2.0), clock_problem(-200.0).partition(",")[0]
    ('', "this machine's clock is 200 s behind the SuperLink's")
    """
    if -AHEAD_SECONDS <= ahead <= AHEAD_SECONDS:
        return ""
    refused = ", so that the SuperLink refuses this node" if ahead > AHEAD_SECONDS or ahead < -BEHIND_SECONDS else ""
    where = "ahead of" if ahead > 0 else "behind"
    return (
        f"this machine's clock is {abs(ahead):.0f} s {where} the SuperLink's{refused}, expected the same time; run an "
        "NTP client such as chrony"
    )


def warn_of_clock(arguments: Sequence[str]) -> str:
    """Compare the clock with that of the SuperLink that a SuperNode is about to connect to, and log a difference.

    Args:
        arguments: Those of `flower-supernode`.

    Returns:
        The sentence that was logged; empty where there is none.
    """
    parser = argparse.ArgumentParser(add_help=False, exit_on_error=False, allow_abbrev=False)
    parser.add_argument("--superlink", default="127.0.0.1:8000")
    parser.add_argument("--root-certificates")
    parser.add_argument("--insecure", action="store_true")
    try:
        given, _ = parser.parse_known_args(list(arguments))
    except argparse.ArgumentError:  # Flower says what is wrong with its arguments
        return ""
    host, _, port = str(given.superlink).rpartition(":")
    if not port.isdigit():
        return ""
    ahead = seconds_ahead(host.strip("[]"), int(port), given.root_certificates, tls=not given.insecure)
    problem = "" if ahead is None else clock_problem(ahead)
    if problem:
        _LOG.warning(problem)
    return problem
