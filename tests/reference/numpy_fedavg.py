"""FedAvg, slowly: the whole model is averaged at the end of every round."""

from __future__ import annotations

from tests.reference.federation import (
    Federation,
    RoundRecord,
    Slot,
    Trace,
    discrepancy,
    seat_cohort,
    train_locally,
    weighted_mean,
)


def train_fedavg(federation: Federation) -> Trace:
    """Train; a cycle is one round, so there is one cohort per round.

    It shares local training and the mean with the other methods, but none of FedLAMA's loop, so that equality with
    FedLAMA at phi = 1 says something.
    """
    trace, dims = Trace(federation.dims()), federation.dims()
    server, slots = federation.start(), list[Slot]()
    for e in range(federation.rounds):
        slots = seat_cohort(federation, slots, federation.cohort(e), server)
        losses = [train_locally(federation, slot, e) for slot in slots]
        p = federation.proportions([slot.client for slot in slots])
        trained = [list(variable) for variable in zip(*(slot.model for slot in slots), strict=True)]
        server = [weighted_mean(values, p) for values in trained]
        apart = [discrepancy(values, mean, p) for values, mean in zip(trained, server, strict=True)]
        for slot in slots:
            slot.model = list(server)
        trace.rounds.append(
            RoundRecord(
                cohort=[slot.client for slot in slots],
                losses=losses,
                travelled=[True for _ in dims],
                d=[
                    sum(apart[variable] for variable in layer) / (federation.steps * dim)
                    for layer, dim in zip(federation.layers, dims, strict=True)
                ],
                in_force=[1 for _ in dims],
                adjusted=[1 for _ in dims],
                clients=[list(slot.model) for slot in slots],
                server=list(server),
                counts=[e + 1 for _ in dims],
            )
        )
    return trace
