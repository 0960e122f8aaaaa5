"""Whether a run folder holds the run of an app of the user's own, and not one with other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from fedlama.core.description import differences
from fedlama.errors import DataError, printable
from fedlama.federation.federation import Federation
from fedlama.federation.stored_description import shown_differences
from fedlama.runs.configuration import federation_differences, provenance
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

    def differences(self, stored: Config) -> list[str]:
        """Return what differs, one clause each."""
        before = stored.get(SETTINGS)
        changed = list(differences(before, dict(self.settings))) if isinstance(before, Mapping) else []
        return changed + federation_differences(stored_description(stored), self.federation)

    def provenance(self, stored: Config) -> list[str]:
        """Return what a user has to know of the stored run, one sentence each."""
        return provenance(stored, self.federation)


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
