"""TLS and authentication: registered nodes train; without a registered key or with the wrong CA a node gets nothing."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from fedlama.flower.deploy.processes import Services, program
from fedlama.flower.deploy.submit import Operator, run_config, write_app, write_connection
from tests.flower.certificates import certificates, node_key
from tests.flower.live import small, wait

pytestmark = pytest.mark.slow


def test_only_registered_nodes_with_the_right_ca_take_part(tmp_path: Path) -> None:
    authority, stranger = certificates(tmp_path / "ours"), certificates(tmp_path / "other", "other")
    keys = tmp_path / "ours"
    tls = ["--ssl-ca-certfile", str(authority), "--ssl-certfile", str(keys / "server.pem")]
    tls += ["--ssl-keyfile", str(keys / "server.key"), "--enable-supernode-auth"]
    experiment = small("partition.clients=2", "strategy.base_interval=6", "strategy.increase_factor=2")
    with Services(tmp_path / "live", tls=tls) as services:
        services.start_link()
        address = f"127.0.0.1:{services.port}"
        write_connection(services.folder / "home-operator", "tls", address, authority)
        operator = services.environment("operator")
        security = {}
        for number in range(2):
            key = node_key(keys, f"node{number}")
            command = [program("flwr"), "supernode", "register", f"{key}.pub", "tls"]
            subprocess.run(command, env=operator, check=True, capture_output=True, timeout=120)
            security[number] = ("--root-certificates", str(authority), "--auth-supernode-private-key", str(key))
        unknown = ("--root-certificates", str(authority), "--auth-supernode-private-key", str(node_key(keys, "thief")))
        wrong = ("--root-certificates", str(stranger), *security[1][2:])
        services.start_node(7, security=unknown, config={"state-dir": str(tmp_path / "thief")})
        services.start_node(8, "--max-retries", "1", security=wrong, config={"state-dir": str(tmp_path / "wrong")})
        wait(lambda: services.processes["node7"].poll() is not None, 120, "the unregistered node to be turned away")
        assert services.processes["node7"].returncode != 0
        time.sleep(1)
        for number, arguments in security.items():
            services.start_node(number, security=arguments)
        app, config, out = tmp_path / "app", tmp_path / "run.toml", tmp_path / "runs"
        write_app(app)
        config.write_text(run_config(experiment, {"out": str(out), "deadline": 240.0}), encoding="utf-8")
        Operator(program("flwr"), "tls", operator).submit(app, config)
        wait(lambda: any(out.rglob("summary.json")), 300, "the run to finish")
        assert not (tmp_path / "thief").exists()
        assert not (tmp_path / "wrong").exists()
