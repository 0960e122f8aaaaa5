"""Callbacks: the user's own code that a run calls at its start, after rounds and evaluations, and at its end.

What a callback does changes nothing that a run computes, except that it may end the run early: it raises
:class:`StopRun`, and the run returns its result so far. Any other exception ends the run as a :class:`CallbackError`,
which has the result so far; a run with a run folder has saved its state, and continues when it is started again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from fedlama.core.records import Result, RoundRecord
from fedlama.errors import FedlamaError, cut
from fedlama.federation.state import RunState


class RoundCallback(Protocol):
    """The least that a callback has. What else it has of :class:`Callback` is called too."""

    def on_round(self, record: RoundRecord) -> None:
        """Called after each round."""


class Callback:
    """What is called while a run trains; inherit from it and define what you need.

    All methods are called in the order of the callbacks, between two rounds, in the process that trains. A run that
    continues from a checkpoint calls `on_run_start`, then `on_round` and `on_evaluate` again for the rounds before it.
    """

    def on_run_start(self, run: RunState) -> None:
        """Called once, before the first round.

        Args:
            run: The run; read its `federation`, `layers`, `clients` and `round_index`, and change nothing.
        """

    def on_round(self, record: RoundRecord) -> None:
        """Called after each round.

        Args:
            record: The record of the round.

        Raises:
            StopRun: To end the run after this round.
        """

    def on_evaluate(self, record: RoundRecord) -> None:
        """Called after `on_round` of all callbacks, where the round was evaluated.

        Args:
            record: The record of the round; `score`, `validation` or `client_scores` is not None.

        Raises:
            StopRun: To end the run after this round.
        """

    def on_run_end(self, result: Result) -> None:
        """Called once, when the budget is used up or the run was stopped; not after an error.

        Args:
            result: The result, which the run returns next.
        """


class StopRun(Exception):  # noqa: N818  (nothing went wrong)
    """Raise it in `on_round` or `on_evaluate`: the run ends after this round and returns its result.

    Args:
        reason: Why, for `Result.stopped` and the summary.
    """

    def __init__(self, reason: str = "a callback stopped the run") -> None:
        self.reason = reason
        super().__init__(reason)


class CallbackError(FedlamaError):
    """A callback failed. The error of the callback is its `__cause__`.

    Args:
        message: Which callback failed, and how.
        result: The result of the rounds done; None when none was.
    """

    def __init__(self, message: str, result: Result | None = None) -> None:
        self.result = result
        super().__init__(message)


class Callbacks:
    """Calls all callbacks of a run.

    Args:
        callbacks: The callbacks.
    """

    def __init__(self, callbacks: Sequence[RoundCallback]) -> None:
        self._callbacks = callbacks

    def start(self, run: RunState) -> None:
        """Call `on_run_start`."""
        self._call("on_run_start", run, "before the first round")

    def round(self, record: RoundRecord) -> str | None:
        """Call `on_round`, and `on_evaluate` where the round was evaluated.

        Returns:
            Why a callback asked to stop; None if none did.
        """
        when = f"after round {record.round_index}"
        reason = self._call("on_round", record, when)
        return (self._call("on_evaluate", record, when) if record.is_evaluated else None) or reason

    def end(self, result: Result) -> None:
        """Call `on_run_end`."""
        self._call("on_run_end", result, "at the end")

    def _call(self, hook: str, argument: object, when: str) -> str | None:
        """Call one method of all callbacks, also of those behind one that fails; the first failure is raised then.

        Raises:
            CallbackError: A callback failed with an error that is not fedlama's own.
            FedlamaError: At once, such as a run folder that cannot be written.
        """
        reason: str | None = None
        failure: tuple[RoundCallback, Exception] | None = None
        for callback in self._callbacks:
            method = getattr(callback, hook, None)
            try:
                if method is not None:
                    method(argument)
            except StopRun as request:
                reason = reason or request.reason
            except FedlamaError:
                raise
            except Exception as error:
                failure = failure or (callback, error)
        if failure is not None:
            culprit, cause = failure
            reason = f"{type(cause).__name__}: {cut(cause)}" if str(cause) else type(cause).__name__
            raise CallbackError(
                f"the callback {type(culprit).__name__} failed in {hook} {when}: {reason}; correct it"
            ) from cause
        return reason
