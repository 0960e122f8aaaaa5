"""Tasks and batches of several kinds over a real network: a SuperLink and three SuperNodes. Slow; needs ``flower``.

`tests/tasks/test_every_engine.py` has all kinds in deployments inside one process.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

import fedlama as fl
from tests.docs.blocks import ROOT
from tests.flower.cases import assert_same_bits
from tests.flower.live import Live
from tests.tasks.cases import federation

pytestmark = pytest.mark.slow

STEPS = 4
APP = {
    "pyproject.toml": """\
[project]
name = "tasks"
version = "0.1.0"
license = "Apache-2.0"
dependencies = []

[tool.flwr.app]
publisher = "fedlama"

[tool.flwr.app.components]
serverapp = "task_app.apps:server"
clientapp = "task_app.apps:client"

[tool.flwr.app.config]
out = ""
case = ""
""",
    "task_app/__init__.py": "",
    "task_app/apps.py": f"""\
from fedlama.flower.apps import client_app, server_app
from fedlama.flower.client.trainer import LoopTrainer
from tests.tasks.cases import federation


def build(clients, config):
    return federation(config["case"], clients=clients, local_steps={STEPS})


def trainer(client, config):
    return LoopTrainer(federation(config["case"], local_steps={STEPS}).engine_setup(), client)


server = server_app(build, clients=3)
client = client_app(trainer)
""",
}


@pytest.fixture(scope="module")
def live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Live]:
    """A network whose app takes the federations of the tests of tasks."""
    path = os.pathsep.join([str(ROOT), str(ROOT / "src"), os.environ.get("PYTHONPATH", "")])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", path)
        with Live(tmp_path_factory.mktemp("live"), nodes=3, warm=True) as started:
            for name, content in APP.items():
                file = started.folder / "tasks" / name
                file.parent.mkdir(parents=True, exist_ok=True)
                file.write_text(content, encoding="utf-8")
            yield started


@pytest.mark.parametrize("case", [pytest.param("language-model", marks=pytest.mark.thorough), "cox", "huggingface"])
def test_a_network_has_the_bits_of_the_loop_engine(live: Live, case: str) -> None:
    """A batch of named tensors, a loss that is no mean over samples, and one that the model computes."""
    out, config = live.folder / "runs" / case, live.folder / f"{case}.toml"
    config.write_text(f'out = "{out}"\ncase = "{case}"\n', encoding="utf-8")
    live.operator.submit(live.folder / "tasks", config)
    stored, expected = fl.load_run(live.finish(out)).result(), federation(case, engine="loop", local_steps=STEPS).run()
    in_order = {name: stored.model[name] for name in expected.model}  # files of models are sorted by names
    assert stored.model.keys() == in_order.keys()
    assert_same_bits(replace(stored, model=in_order), expected)
