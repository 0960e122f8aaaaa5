"""The submission of an experiment to a SuperLink: the app's folder, the run's configuration, and `flwr run`."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

from fedlama.core.validation import refuse
from fedlama.errors import FedlamaError, cut, printable
from fedlama.experiment import Experiment
from fedlama.flower.deploy.fit import check_factored, misfits
from fedlama.flower.settings import DEFAULTS
from fedlama.flower.sites import check_server_config

_PROJECT = """\
[project]
name = "fedlama-app"
version = "{version}"
description = "FedLAMA: layer-wise aggregation intervals over a real network"
license = "Apache-2.0"
dependencies = ["fedlama[flower]>={version}"]

[tool.flwr.app]
publisher = "fedlama"

[tool.flwr.app.components]
serverapp = "fedlama_app.server_app:app"
clientapp = "fedlama_app.client_app:app"

[tool.flwr.app.config]
{config}
"""
_SERVER = '''"""The ServerApp: runs the experiment with fedlama."""

from fedlama.flower.apps import server_app

app = server_app()
'''
_CLIENT = '''"""The ClientApp: one client of the experiment, which keeps its model between rounds."""

from fedlama.flower.apps import client_app

app = client_app()
'''


def write_app(folder: Path) -> None:
    """Write the Flower app that runs any experiment; `examples/flower` is its output.

    Args:
        folder: The folder of the app; it is made when missing.
    """
    config = "\n".join(f"{key} = {json.dumps(value)}" for key, value in DEFAULTS.items())
    files = {
        "pyproject.toml": _PROJECT.format(version=metadata.version("fedlama"), config=config),
        "fedlama_app/__init__.py": '"""FedLAMA as a Flower app."""\n',
        "fedlama_app/server_app.py": _SERVER,
        "fedlama_app/client_app.py": _CLIENT,
    }
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(content, encoding="utf-8")


def run_config(experiment: Experiment, options: Mapping[str, str | float]) -> str:
    """Return the TOML of a run's configuration.

    Args:
        experiment: The experiment; all of its keys are sent, not only those that differ from the defaults.
        options: Values for other keys of :data:`fedlama.flower.settings.DEFAULTS`.

    Raises:
        ConfigError: The experiment asks for something that a deployment cannot do.
    """
    refuse(misfits(experiment, str(options.get("aggregation", DEFAULTS["aggregation"]))))
    check_factored(experiment)
    check_server_config(experiment, str(options.get("server-config", "")))
    text = json.dumps(experiment.to_json(), separators=(",", ":"))
    lines = {"experiment": text, **options}
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in lines.items())


def write_connection(home: Path, name: str, address: str, certificate: Path | None = None) -> None:
    """Write the configuration in which `flwr` finds the address of a SuperLink.

    Args:
        home: Flower's home, FLWR_HOME.
        name: The connection's name.
        address: Host and port.
        certificate: The CA's certificate; None connects without TLS.
    """
    security = "insecure = true" if certificate is None else f"root-certificates = {json.dumps(str(certificate))}"
    home.mkdir(parents=True, exist_ok=True)
    text = f'[superlink]\ndefault = "{name}"\n\n[superlink.{name}]\naddress = "{address}"\n{security}\n'
    (home / "config.toml").write_text(text, encoding="utf-8")


@dataclass(frozen=True)
class RunStatus:
    """How far a run is.

    Attributes:
        status: In Flower's words, such as ``"running"`` or ``"finished:completed"``.
        details: Why it failed, in the words of its ServerApp; empty where there is nothing to say.
    """

    status: str
    details: str

    @property
    def has_ended(self) -> bool:
        """Whether the run is over."""
        return self.status.startswith("finished")

    @property
    def has_failed(self) -> bool:
        """Whether the run is over and not complete."""
        return self.status in ("finished:failed", "finished:stopped")

    def __str__(self) -> str:
        """Return the status with its details."""
        return f"{self.status}: {self.details}" if self.details else self.status


@dataclass(frozen=True)
class Operator:
    """Calls `flwr` as an operator of a SuperLink does.

    Args:
        command: Path of `flwr`.
        connection: The connection's name in Flower's `config.toml`; empty for the default one.
        environment: The environment, FLWR_HOME included.
    """

    command: str
    connection: str
    environment: Mapping[str, str]

    def submit(self, app: Path, config: Path) -> str:
        """Submit a run.

        Args:
            app: The app's folder.
            config: File with the run's configuration.

        Returns:
            The run's number.

        Raises:
            FedlamaError: `flwr` refused the run.
        """
        done = self._call("run", str(app), *self._names, "--run-config", str(config), "--format", "json")
        try:
            return str(json.loads(done.stdout[done.stdout.index("{") :])["run-id"])
        except (LookupError, ValueError) as error:
            raise FedlamaError(f"flwr refused the run: {cut(_words(done), 2000)}; check --superlink") from error

    def status(self, run_id: str) -> RunStatus | None:
        """Return how far a run is; None while the SuperLink does not answer.

        Args:
            run_id: The run's number.
        """
        done = self._call("ls", *self._names, "--run-id", run_id, "--format", "json")
        try:
            (run,) = json.loads(done.stdout)["runs"]
            status, details = printable(run["status"]), printable(run["status-details"])
        except (LookupError, TypeError, ValueError):
            return None
        return RunStatus(status, "" if details == "N/A" else details)

    def failure(self, run_id: str) -> str:
        """Return why a run failed, in the words of its ServerApp; empty while it is running or when it is complete."""
        status = self.status(run_id)
        return "" if status is None or not status.has_failed else status.details or status.status

    def stop(self, run_id: str) -> None:
        """Stop a run.

        Args:
            run_id: The run's number.

        Raises:
            FedlamaError: The SuperLink refused, or does not answer.
        """
        done = self._call("stop", run_id, *self._names, "--format", "json")
        if done.returncode or '"success": false' in done.stdout:
            raise FedlamaError(
                f"flwr did not stop run {run_id}: {cut(_words(done), 500)}; check its number, and --superlink"
            )

    def stream(self, run_id: str) -> None:
        """Print what a run's ServerApp prints, until the run ends.

        Args:
            run_id: The run's number.
        """
        command = [self.command, "log", run_id, *self._names, "--stream"]
        subprocess.run(command, env=dict(self.environment), check=False)

    def log(self, run_id: str) -> str:
        """Return what a run's ServerApp has printed so far."""
        done = self._call("log", run_id, *self._names, "--show")
        return done.stdout + done.stderr

    @property
    def _names(self) -> list[str]:
        return [self.connection] if self.connection else []

    def _call(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                [self.command, *arguments],
                env=dict(self.environment),
                capture_output=True,
                text=True,
                timeout=180,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise FedlamaError(
                "flwr did not answer within 180 seconds; check that the SuperLink runs, and --superlink"
            ) from error


def _words(done: subprocess.CompletedProcess[str]) -> str:
    """Return what `flwr` said of a failure, without the JSON around it."""
    said = done.stderr or done.stdout
    try:
        message = str(json.loads(done.stdout[done.stdout.index("{") :])["error-message"])
    except (LookupError, TypeError, ValueError):
        return said
    return message.strip().splitlines()[-1] if message.strip() else said
