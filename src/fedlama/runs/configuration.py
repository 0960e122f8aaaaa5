"""What ``config.json`` holds, and whether a stored one is of the same run.

===============  ====================================================================================================
key              content
===============  ====================================================================================================
(top level)      the experiment as it was resolved: every setting and section; of a federation that was built in
                 Python its seed, and `initial_model`: digests of the model's structure and of its initial values
`in_force`       what ran, after a preset has changed some settings; see :mod:`fedlama.federation.describe`
`frozen_layers`  the layers that are neither trained nor sent, with their numbers of parameters; missing without any
`environment`    versions, platform and commit, never compared; when the run has finished, also `files`: the SHA-256
                 of its files by name, so that a change is noticed
===============  ====================================================================================================

Folders that an older version wrote are compared in today's words (:mod:`fedlama.core.deprecations`), and what that
version did not write counts as what it implied.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from importlib import metadata
from typing import Protocol

from fedlama.core.description import differences
from fedlama.core.modules import model_digests
from fedlama.errors import ConfigError
from fedlama.experiment import Experiment
from fedlama.experiment.settings import added_sections
from fedlama.federation.settings import FederationSettings
from fedlama.federation.state import Snapshot
from fedlama.federation.stored_description import data_differences, lacks_data
from fedlama.runs.files import printable_json
from fedlama.runs.reader import FROZEN, INITIAL_MODEL, Config, stored_description


class Comparison(Protocol):
    """Compares a stored configuration with a run."""

    def differences(self, stored: Config) -> list[str]:
        """Return what differs, one clause each."""

    def provenance(self, stored: Config) -> list[str]:
        """Return what a user has to know of the stored run before it is used, one sentence each."""


def config_of(experiment: Experiment | None, federation: FederationSettings) -> dict[str, object]:
    """Return the configuration of a run, without its environment.

    Args:
        experiment: The experiment as it was resolved; None for a federation that was built in Python.
        federation: The federation as it runs.

    Raises:
        ConfigError: A choice cannot be described.
    """
    if experiment is None:
        settings = {"seed": federation.seed, INITIAL_MODEL: model_digests(federation.model)}
        return {**settings, **in_force(federation)}
    return {**experiment.to_json(), **in_force(federation)}


def in_force(federation: FederationSettings) -> dict[str, object]:
    """Return what runs, and the layers that do not.

    Args:
        federation: The federation as it runs.

    Raises:
        ConfigError: A choice cannot be described.
    """
    trained = {layer.name for layer in federation.trained_labelling() if layer.parameters}
    frozen = {
        layer.name: layer.parameters
        for layer in federation.full_labelling()
        if layer.parameters and layer.name not in trained
    }
    return {"in_force": federation.describe(), **({FROZEN: frozen} if frozen else {})}


def config_differences(stored: Config, experiment: Experiment | None, federation: FederationSettings) -> list[str]:
    """Return what differs between a stored configuration and a run.

    Args:
        stored: The content of ``config.json``, in today's words.
        experiment: The experiment of the run; None for a federation that was built in Python.
        federation: The federation of the run.

    Returns:
        One clause for each difference; empty when both are of the same run.
    """
    if experiment is None:
        changed = federation_differences(stored_description(stored), federation)
        return changed or _model_differences(stored, federation)
    return _settings_differences(stored, experiment) or federation_differences(stored_description(stored), federation)


def replaced_data(stored: Config, experiment: Experiment | None, federation: FederationSettings) -> list[str]:
    """Return which data of a stored run were replaced since, although its settings are those of a run.

    Args:
        stored: The content of ``config.json``, in today's words.
        experiment: The experiment of the run; None when there is no experiment.
        federation: The federation of the run.

    Returns:
        One clause for each difference; empty when the data or the settings are the same, or not known.
    """
    if experiment is not None and _settings_differences(stored, experiment):
        return []
    return data_differences(stored_description(stored), federation.describe())


def provenance(stored: Config, federation: FederationSettings) -> list[str]:
    """Return what a user has to know of a stored run before its results are used or continued, one sentence each.

    Args:
        stored: The content of ``config.json``, in today's words.
        federation: The federation of the run.
    """
    sentences = []
    environment = stored.get("environment")
    versions = environment.get("versions") if isinstance(environment, Mapping) else None
    known = versions if isinstance(versions, Mapping) else {}
    changed = [
        f"{library} {then}, here it is {version(library)}"
        for library in ("fedlama", "torch")
        if (then := known.get(library)) is not None and then != version(library)
    ]
    if changed:
        sentences.append(f"it was trained with {' and with '.join(changed)}, so that single bits may differ")
    if lacks_data(stored_description(stored), federation.describe()):
        sentences.append("it holds no digest of its data, as before version 0.2, so changed data are not noticed")
    return sentences


def version(library: str) -> str | None:
    """Return the version of an installed library; None when it is not installed."""
    try:
        return metadata.version(library)
    except metadata.PackageNotFoundError:
        return None


def _model_differences(stored: Config, federation: FederationSettings) -> list[str]:
    """Return in what a model differs from the one of a stored run, where that is known."""
    then, now = stored.get(INITIAL_MODEL), model_digests(federation.model)
    known = then if isinstance(then, Mapping) else {}
    if known.get("structure", now["structure"]) != now["structure"]:
        return ["the model has other modules, or other code in a forward"]
    if known.get("values", now["values"]) != now["values"]:
        return ["the model's initial values are others (are they drawn after torch.manual_seed?)"]
    return []


def _settings_differences(stored: Config, experiment: Experiment) -> list[str]:
    settings = printable_json(json.loads(json.dumps(experiment.to_json())))
    before = json.loads(json.dumps(added_sections())) | dict(stored)
    return list(differences({key: before[key] for key in settings if key in before}, settings))


def federation_differences(description: Config, federation: FederationSettings) -> list[str]:
    """Return what differs between a stored description and a federation.

    Args:
        description: As :func:`stored_description` returns it, or of a checkpoint.
        federation: The federation.

    Returns:
        One clause for each difference; the reason, when they cannot be compared.
    """
    try:
        return federation.differences(description)
    except ConfigError as error:
        return list(error.problems)


def completed(snapshot: Snapshot, stored: Config) -> Snapshot:
    """Return a snapshot with a whole description: before version 0.2 checkpoints described a part of the federation.

    Args:
        snapshot: A snapshot of a run folder.
        stored: That folder's configuration.
    """
    known = snapshot.facts.get("federation")
    if not isinstance(known, Mapping) or "version" in known:
        return snapshot
    return replace(snapshot, facts={**snapshot.facts, "federation": {**known, **stored_description(stored)}})
