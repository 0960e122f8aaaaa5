"""Clients and test sets in a form that the package does not take are refused in one sentence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import fedlama
from fedlama import ClientData, ConfigError, DataError, FedAvg, Federation

X, Y = torch.zeros(8, 3), torch.zeros(8, dtype=torch.int64)


def federation(**changes: object) -> Federation:
    given: dict[str, Any] = {"clients": [ClientData(X, Y, 4)], "test_set": fedlama.TestSet(X, Y)}
    return Federation(nn.Linear(3, 2), strategy=FedAvg(1), local_steps=2, **{**given, **changes})


@pytest.mark.parametrize(
    ("clients", "remedy"),
    [({"ward 3": ClientData(X, Y, 4)}, r"give list\(clients\.values\(\)\)"), (X.numpy(), "give a list")],
)
def test_clients_that_are_not_a_list_are_refused(clients: object, remedy: str) -> None:
    with pytest.raises(DataError, match=f"expected a list of fedlama.ClientData .*; {remedy}"):
        federation(clients=clients).run()


@pytest.mark.parametrize("test_set", [[fedlama.TestSet(X, Y)], (X, Y), X])
def test_a_test_set_in_another_form_is_refused(test_set: object) -> None:
    with pytest.raises(ConfigError, match=r"test_set is '\w+', expected one fedlama\.TestSet, "):
        federation(test_set=test_set).run()
