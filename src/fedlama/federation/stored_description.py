"""Descriptions that were stored: read in today's form, and whose data differ; see :mod:`fedlama.federation.describe`.

Run folders are read with this module alone, without the choices, the engines and PyTorch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import islice
from typing import Any

Description = dict[str, Any]
"""A description: plain JSON types."""
_CROSS_ENTROPY = "fedlama.core.losses:cross_entropy"
"""The objective of descriptions before version 0.2 that is classification."""
OWNERS = {"clients": "the clients'", "test_set": "the test set's", "validation_set": "the validation set's"}
"""The parts with digests of data, and how a sentence names them."""


def modern(then: Mapping[str, Any]) -> Description:
    """Return a stored description in today's form; its words have been translated when it was read.

    >>> modern({"labelling": {"fc": [10, True]}, "clients": 4})
    {'layers': {'fc': {'parameters': 10, 'adaptive': True}}, 'clients': {'count': 4}}
    """
    modern = {key: value for key, value in then.items() if key not in ("labelling", "statistics_travel")}
    if isinstance(labelling := then.get("labelling"), Mapping):
        modern = {"layers": {name: _old_layer(layer) for name, layer in labelling.items()}} | modern
    if isinstance(count := then.get("clients"), int):
        modern["clients"] = {"count": count}
    objective = modern.pop("objective", _CROSS_ENTROPY)
    if objective != _CROSS_ENTROPY:  # which the default task implies
        from fedlama.choices.tasks.functions import loss_name  # needs PyTorch, which most folders do not

        modern["task"] = {"name": loss_name(objective), "function": objective, "make_metrics": None}
        modern["task"] |= {"primary": "accuracy", "direction": "higher", "target_key": "labels"}
    return modern


def shown_differences(differences_found: list[str], limit: int = 3) -> str:
    """Return the first differences as one clause for a message."""
    more = f" and {len(differences_found) - limit} more" if len(differences_found) > limit else ""
    return f"{', '.join(islice(differences_found, limit))}{more}"


def data_differences(
    then: Mapping[str, Any], now: Mapping[str, Any], names: Sequence[str] = ("inputs", "targets", "rows")
) -> list[str]:
    """Word which data differ between two descriptions; what only one of them has a digest of is not compared.

    Args:
        then: A stored description.
        now: Another one.
        names: What is compared of the data.

    Returns:
        One clause for each difference.

    >>> one = {"clients": {"data": {"inputs": {"shape": [2, 3], "dtype": "torch.uint8", "sha256": "0123456789"}}}}
    >>> two = {"clients": {"data": {"inputs": {"shape": [2, 3], "dtype": "torch.uint8", "sha256": "abcdef0123"}}}}
    >>> data_differences(one, two)
    ["the clients' inputs were [2, 3] torch.uint8 sha256 01234567, and are [2, 3] torch.uint8 sha256 abcdef01 now"]
    """
    pairs = [(OWNERS[part], _data(then, part), _data(now, part)) for part in OWNERS]
    return [
        f"{owner} {name} were {_facts(before[name])}, and are {_facts(after[name])} now"
        for owner, before, after in pairs
        for name in names
        if name in before and name in after and before[name] != after[name]
    ]


def lacks_data(then: Mapping[str, Any], now: Mapping[str, Any]) -> bool:
    """Return whether a description lacks digests of data that another one has, as before version 0.2."""
    return any(_data(now, part) and not _data(then, part) for part in ("clients", "test_set"))


def _data(description: Mapping[str, Any], part: str) -> dict[str, Any]:
    """Return the digests of the data of the clients or of the test set; empty without any."""
    inner = description.get(part)
    data = inner.get("data") if isinstance(inner, Mapping) else None
    return dict(data) if isinstance(data, Mapping) else {}


def _facts(facts: object) -> str:
    if not isinstance(facts, Mapping):
        return "unknown"
    digest = f"sha256 {str(facts.get('sha256'))[:8]}"
    return " ".join([*(str(facts[key]) for key in ("shape", "dtype") if key in facts), digest])


def _old_layer(layer: object) -> object:
    if isinstance(layer, list) and len(layer) == 2:
        return {"parameters": layer[0], "adaptive": layer[1]}
    return layer
