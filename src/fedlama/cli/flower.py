"""`fedlama flower`: an experiment as a real deployment, on this machine or on a SuperLink elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fedlama.cli.options import SECTIONS, Json, expand_home
from fedlama.errors import FedlamaError, MissingExtraError, printable

if TYPE_CHECKING:
    from fedlama.flower.deploy.submit import Operator

_LOOK_SECONDS = 3.0  # between two questions how far a run is; each starts a Python process
_MOST_MISSES = 20  # questions in a row without an answer

app = typer.Typer(no_args_is_help=True, help="Run an experiment as a real deployment on Flower.")

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A TOML file or an experiment's name.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]
RunId = Annotated[str, typer.Argument(metavar="RUN", help="The run's number, as `fedlama flower run` printed it.")]
SuperLink = Annotated[str, typer.Option(help="The connection's name in Flower's config.toml.")]
Deadline = Annotated[float, typer.Option(help="Seconds that a round waits for replies.")]
MinReplies = Annotated[float, typer.Option(help="Share of the cohort that must reply, or the run stops.")]
Rejoin = Annotated[str, typer.Option(help="When a client that missed a round may rejoin: now or next-cycle.")]
Aggregation = Annotated[
    str, typer.Option(help="models, sums (of weighted changes, in fixed point), or secure (sums of masked uploads).")
]
SecureThreshold = Annotated[
    float, typer.Option(help="Share of the clients whose help takes the masks off a secure sum, more than 0.5.")
]


Banned = Annotated[str, typer.Option("--ban", help="Clients that are never asked, such as 3,5.")]
KeepCheckpoints = Annotated[
    int, typer.Option(min=0, help="Earlier rounds that can be returned to, also after the run has finished.")
]
FromRound = Annotated[
    int, typer.Option(min=-1, help="Take the run back, and compute it again from this round on; -1 to continue it.")
]
SendFinal = Annotated[bool, typer.Option("--send-final", help="Send the final model to every node, with its digest.")]
ServerConfig = Annotated[
    str, typer.Option(help="Where the server has an example of data on the nodes, such as 'data=\"/srv/example\"'.")
]
ClientsFile = Annotated[
    str, typer.Option(help="File with the node, weight and ban of each client, on the SuperLink's machine.")
]


@app.command(epilog=SECTIONS)
def up(
    experiment: Name,
    overrides: Overrides = None,
    out: Annotated[
        Path, typer.Option(callback=expand_home, help="Folder for the run folders, logs and states.")
    ] = Path("runs/flower"),
    deadline: Deadline = 600.0,
    min_replies: MinReplies = 0.5,
    rejoin: Rejoin = "now",
    aggregation: Aggregation = "models",
    secure_threshold: SecureThreshold = 0.6,
    ban: Banned = "",
    keep_checkpoints: KeepCheckpoints = 10,
    from_round: FromRound = -1,
    send_final: SendFinal = False,
    as_json: Json = False,
) -> None:
    """Start a SuperLink and one SuperNode per client on this machine, run the experiment, and stop them."""
    from fedlama.experiment import load_experiment
    from fedlama.experiment.files import catalogue_for
    from fedlama.flower.deploy.loopback import run_on_loopback
    from fedlama.flower.settings import check_operation
    from fedlama.reporting.observer import draw_run
    from fedlama.runs.stored import load_run

    options = _options(
        deadline=deadline, min_replies=min_replies, rejoin=rejoin, aggregation=aggregation, banned=ban,
        secure_threshold=secure_threshold,
        keep_checkpoints=keep_checkpoints, from_round=from_round, send_final=send_final,
    )  # fmt: skip
    check_operation(options)
    resolved = load_experiment(experiment, overrides or ())
    options["plugins-dir"] = str(catalogue_for(experiment).folder.resolve())
    summary = run_on_loopback(
        resolved, out, options, report=lambda line: None if as_json else typer.echo(printable(line))
    )
    stored = load_run(Path(summary["run_folder"]))
    result = stored.result()
    draw_run(stored.title, result, stored.path)
    if as_json:
        typer.echo(json.dumps(summary))
        return
    counted = int(summary["bytes_up"]) + int(summary["bytes_down"])
    measured = int(summary["socket_bytes_up"]) + int(summary["socket_bytes_down"])
    scored = f"{result.score.primary} {result.score.value:.4g}, " if result.score else ""
    typer.echo(f"{summary['method']}: {scored}{summary['rounds']} rounds")
    typer.echo(f"ledger {counted} bytes, on the sockets {measured} bytes; run folder {summary['run_folder']}")


@app.command(epilog=SECTIONS)
def run(
    experiment: Name,
    overrides: Overrides = None,
    superlink: SuperLink = "",
    out: Annotated[str, typer.Option(help="Folder for the run folders on the SuperLink's machine.")] = "runs/flower",
    deadline: Deadline = 600.0,
    min_replies: MinReplies = 0.5,
    rejoin: Rejoin = "now",
    aggregation: Aggregation = "models",
    secure_threshold: SecureThreshold = 0.6,
    clients_file: ClientsFile = "",
    ban: Banned = "",
    keep_checkpoints: KeepCheckpoints = 10,
    from_round: FromRound = -1,
    send_final: SendFinal = False,
    server_config: ServerConfig = "",
    plugins_dir: Annotated[
        str, typer.Option(help="Folder on the SuperLink's machine with the files of your own options.")
    ] = "",
    wait: Annotated[bool, typer.Option("--wait", help="Wait for the end, and fail if the run does.")] = False,
    stream: Annotated[bool, typer.Option("--stream", help="Likewise, and print what the server says.")] = False,
) -> None:
    """Submit the experiment to a SuperLink with `flwr run`; the SuperNodes are started by their owners."""
    from fedlama.experiment import load_experiment
    from fedlama.flower.deploy.submit import run_config
    from fedlama.flower.deploy.submit import write_app as write_app_folder
    from fedlama.flower.settings import check_operation

    resolved = load_experiment(experiment, overrides or ())
    options = _options(
        deadline=deadline, min_replies=min_replies, rejoin=rejoin, aggregation=aggregation, banned=ban,
        secure_threshold=secure_threshold,
        keep_checkpoints=keep_checkpoints, from_round=from_round, send_final=send_final, out=out,
        plugins_dir=plugins_dir, clients_file=clients_file, server_config=server_config,
    )  # fmt: skip
    check_operation(options)
    operator = _operator(superlink)
    with tempfile.TemporaryDirectory() as folder:
        target, config = Path(folder) / "app", Path(folder) / "run.toml"
        write_app_folder(target)
        config.write_text(run_config(resolved, options), encoding="utf-8")
        run_id = operator.submit(target, config)
    named = f" --superlink {superlink}" if superlink else ""
    typer.echo(f"submitted run {run_id}; see it with: fedlama flower status {run_id}{named}")
    typer.echo(f"the run folder will be below {out} on the SuperLink's machine")
    if stream:
        operator.stream(run_id)
    if stream or wait:
        _wait(operator, run_id)


@app.command()
def status(run_id: RunId, superlink: SuperLink = "") -> None:
    """Say how far a submitted run is, and why it failed."""
    seen = _operator(superlink).status(run_id)
    if seen is None:
        raise FedlamaError(f"the SuperLink knows no run {run_id}, or does not answer; check the number and --superlink")
    typer.echo(f"run {run_id} is {seen}")
    raise typer.Exit(1 if seen.has_failed else 0)


@app.command()
def stop(run_id: RunId, superlink: SuperLink = "") -> None:
    """Stop a submitted run; the same `fedlama flower run` continues it after its last whole round."""
    _operator(superlink).stop(run_id)
    typer.echo(f"stopped run {run_id}")


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def node(context: typer.Context) -> None:
    """Start a SuperNode with the arguments of `flower-supernode`; it trains in a warm process, so rounds are short."""
    from fedlama.flower.deploy.warm_node import start_node

    start_node(context.args)


@app.command()
def forget(
    states: Annotated[Path, typer.Argument(callback=expand_home, help="A node's state-dir.")],
    days: Annotated[float, typer.Option(min=0, help="Keep what was written in the last days.")] = 30.0,
) -> None:
    """Delete the clients' states of runs that have ended; a run that goes on sends the full model again."""
    from fedlama.flower.client.state import forget_old

    if not states.is_dir():
        raise FedlamaError(f"{printable(states)} is not a folder; give the state-dir of a node")
    deleted = forget_old(states, days)
    for folder in deleted:
        typer.echo(f"deleted {printable(folder)}")
    typer.echo(f"{len(deleted)} runs deleted")


@app.command("app")
def write_app(folder: Annotated[Path, typer.Argument(callback=expand_home, help="Folder to write it to.")]) -> None:
    """Write the Flower app that runs any experiment, for plain `flwr run`."""
    from fedlama.flower.deploy.submit import write_app as write_app_folder

    write_app_folder(folder)
    typer.echo(f"try: flwr run {folder}")


def _operator(superlink: str) -> Operator:
    """Return the calls of `flwr`.

    Raises:
        MissingExtraError: Flower is not installed.
    """
    from fedlama.flower.deploy.processes import QUIET
    from fedlama.flower.deploy.submit import Operator

    # Beside the running Python too, for those who call it without activating its environment.
    flwr = shutil.which("flwr") or shutil.which("flwr", path=str(Path(sys.executable).parent))
    if flwr is None:
        raise MissingExtraError("flwr", "flower")
    return Operator(flwr, superlink, {**os.environ, **QUIET})


def _wait(operator: Operator, run_id: str) -> None:
    """Wait until a run is over, and print its states.

    Raises:
        FedlamaError: It failed, or was stopped.
    """
    last, misses = "", 0
    named = f"{run_id} {operator.connection}".strip()
    while True:
        seen = operator.status(run_id)
        misses = 0 if seen is not None else misses + 1
        if misses == _MOST_MISSES:
            connection = f" --superlink {operator.connection}" if operator.connection else ""
            raise FedlamaError(
                f"the SuperLink has not answered {_MOST_MISSES} times in a row, and run {run_id} may go on; ask again "
                f"with fedlama flower status {run_id}{connection}"
            )
        if seen is not None and str(seen) != last:
            last = str(seen)
            typer.echo(f"run {run_id} is {last}")
        if seen is not None and seen.has_failed:
            raise FedlamaError(f"run {run_id} is {seen}; its whole log: flwr log {named}")
        if seen is not None and seen.has_ended:
            return
        time.sleep(_LOOK_SECONDS)


def _options(**given: str | float) -> dict[str, str | float]:
    """Return options under the names that they have in a run's configuration."""
    return {name.replace("_", "-"): value for name, value in given.items()}
