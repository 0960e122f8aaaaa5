"""Whether a round is long enough for a solver that begins with the head; a part of :mod:`fedlama.federation.checks`."""

from __future__ import annotations

from dataclasses import replace

from fedlama.data.clients import ClientSource
from fedlama.federation.settings import FederationSettings


def check_head_steps(federation: FederationSettings, source: ClientSource) -> list[str]:
    """Return that no client would come to the body, where a solver trains the head first; one sentence.

    Clients that are slow by chance do not count, and neither do some that are always slow.

    Args:
        federation: The settings.
        source: The clients' data.
    """
    first = getattr(federation.solver, "head_steps", None)
    if first is None:
        return []
    tau, clients = federation.strategy.local_steps, range(len(source))
    work = replace(federation.local_work, straggler_share=0.0)
    other = work.steps(source, clients, tau, round_index=0, seed=federation.seed)
    most = max((other.get(client, tau) for client in clients), default=tau)
    if most > first:
        return []
    return [
        f"solver.head_steps is {first}, but no client takes more than {most} local steps in a round, so the body would "
        "never be trained; lower it, or take more local steps in a round"
    ]
