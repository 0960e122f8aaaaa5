"""What the run folder of an app of the user's own stores, and whether it holds a run with other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from fedlama.core.description import differences
from fedlama.core.records import Result
from fedlama.errors import DataError, printable
from fedlama.federation.federation import Federation
from fedlama.federation.stored_description import shown_differences
from fedlama.runs.configuration import federation_differences, in_force, provenance
from fedlama.runs.folder import decision_keys
from fedlama.runs.reader import SETTINGS, Config, read_config, stored_description


@dataclass(frozen=True)
class Compared:
    """Compares a stored configuration with a federation of the user's own.

    Attributes:
        federation: The federation.
        settings: The run's configuration that decides its result.
    """

    federation: Federation
    settings: Mapping[str, object] = field(default_factory=dict)

    @property
    def config(self) -> dict[str, Any]:
        """The configuration that a run folder stores."""
        return {"seed": self.federation.seed, SETTINGS: dict(self.settings), **in_force(self.federation)}

    def differences(self, stored: Config) -> list[str]:
        """Return what differs, one clause each."""
        before = stored.get(SETTINGS)
        changed = list(differences(before, dict(self.settings))) if isinstance(before, Mapping) else []
        return changed + federation_differences(stored_description(stored), self.federation)

    def provenance(self, stored: Config) -> list[str]:
        """Return what a user has to know of the stored run, one sentence each."""
        return provenance(stored, self.federation)


def summary_of(result: Result) -> dict[str, object]:
    """Return the summary that a run folder stores.

    Args:
        result: The result.
    """
    summary = {"method": result.method, "rounds": len(result.rounds), "cost_percent": result.cost_percent}
    return summary | decision_keys(result)


def refuse_other_settings(path: Path, compared: Compared) -> None:
    """Refuse a folder that holds a run with other settings: it is neither overwritten nor continued with these.

    Args:
        path: The run folder.
        compared: Compares with its configuration.

    Raises:
        DataError: The folder holds one.
    """
    stored = read_config(path)
    if stored is not None and (changed := compared.differences(stored)):
        raise DataError(
            f"{printable(path)} has a run with other settings ({shown_differences(changed)}); choose another out, set "
            "them as they were, or remove the folder"
        )
