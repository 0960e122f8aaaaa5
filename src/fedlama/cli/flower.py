"""`fedlama flower`: an experiment as a real deployment, on this machine or on a SuperLink elsewhere."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import Annotated

import typer

from fedlama.cli.options import SECTIONS, Json, expand_home
from fedlama.errors import MissingExtraError, printable

app = typer.Typer(no_args_is_help=True, help="Run an experiment as a real deployment on Flower.")

Name = Annotated[str, typer.Argument(metavar="EXPERIMENT", help="A TOML file or an experiment's name.")]
Overrides = Annotated[list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings to change.")]
Deadline = Annotated[float, typer.Option(help="Seconds that a round waits for replies.")]
MinReplies = Annotated[float, typer.Option(help="Share of the cohort that must reply, or the round is not averaged.")]
Rejoin = Annotated[str, typer.Option(help="When a client that missed a round may rejoin: now or next-cycle.")]
Aggregation = Annotated[
    str, typer.Option(help="models, or sums (the discrepancy is computed from one scalar per client and layer).")
]


Banned = Annotated[str, typer.Option("--ban", help="Clients that are never asked, such as 3,5.")]
KeepCheckpoints = Annotated[
    int, typer.Option(min=0, help="Earlier rounds that can be returned to, also after the run has finished.")
]
FromRound = Annotated[
    int, typer.Option(min=-1, help="Take the run back, and compute it again from this round on; -1 to continue it.")
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
    ban: Banned = "",
    keep_checkpoints: KeepCheckpoints = 10,
    from_round: FromRound = -1,
    as_json: Json = False,
) -> None:
    """Start a SuperLink and one SuperNode per client on this machine, run the experiment, and stop them."""
    from fedlama.experiment import load_experiment
    from fedlama.experiment.files import catalogue_for
    from fedlama.flower.deploy.loopback import run_on_loopback
    from fedlama.reporting.observer import draw_run
    from fedlama.runs.stored import load_run

    options = _options(deadline, min_replies, rejoin, aggregation)
    options |= {"banned": ban, "keep-checkpoints": keep_checkpoints, "from-round": from_round}
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
    superlink: Annotated[str, typer.Option(help="The connection's name in Flower's config.toml.")] = "",
    out: Annotated[str, typer.Option(help="Folder for the run folders on the SuperLink's machine.")] = "runs/flower",
    deadline: Deadline = 600.0,
    min_replies: MinReplies = 0.5,
    rejoin: Rejoin = "now",
    aggregation: Aggregation = "models",
    clients_file: ClientsFile = "",
    ban: Banned = "",
    keep_checkpoints: KeepCheckpoints = 10,
    from_round: FromRound = -1,
    plugins_dir: Annotated[
        str, typer.Option(help="Folder on the SuperLink's machine with the files of your own options.")
    ] = "",
) -> None:
    """Submit the experiment to a SuperLink with `flwr run`; the SuperNodes are started by their owners."""
    from fedlama.experiment import load_experiment
    from fedlama.flower.deploy.processes import QUIET
    from fedlama.flower.deploy.submit import Operator, run_config
    from fedlama.flower.deploy.submit import write_app as write_app_folder

    resolved = load_experiment(experiment, overrides or ())
    options = _options(deadline, min_replies, rejoin, aggregation)
    options |= {"banned": ban, "keep-checkpoints": keep_checkpoints, "from-round": from_round}
    options |= {"out": out, "plugins-dir": plugins_dir, "clients-file": clients_file}
    flwr = shutil.which("flwr")
    if flwr is None:
        raise MissingExtraError("flwr", "flower")
    with tempfile.TemporaryDirectory() as folder:
        target, config = Path(folder) / "app", Path(folder) / "run.toml"
        write_app_folder(target)
        config.write_text(run_config(resolved, options), encoding="utf-8")
        run_id = Operator(flwr, superlink, {**os.environ, **QUIET}).submit(target, config)
    typer.echo(f"submitted; follow it with: flwr log {run_id} {superlink}".rstrip())
    typer.echo(f"the run folder will be below {out} on the SuperLink's machine")


@app.command("app")
def write_app(folder: Annotated[Path, typer.Argument(callback=expand_home, help="Folder to write it to.")]) -> None:
    """Write the Flower app that runs any experiment, for plain `flwr run`."""
    from fedlama.flower.deploy.submit import write_app as write_app_folder

    write_app_folder(folder)
    typer.echo(f"try: flwr run {folder}")


def _options(deadline: float, min_replies: float, rejoin: str, aggregation: str) -> dict[str, str | float]:
    return {"deadline": deadline, "min-replies": min_replies, "rejoin": rejoin, "aggregation": aggregation}
