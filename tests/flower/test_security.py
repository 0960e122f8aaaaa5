"""TLS, node keys and the guide's proxy: who takes part, who can submit, and how large a request may be.

The proxy is nginx with the files of the guide. Without nginx, nodes and the operator connect to the SuperLink itself,
and what only the proxy refuses is skipped.
"""

from __future__ import annotations

import http.client
import re
import ssl
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

pytest.importorskip("flwr", reason="needs Flower: pip install 'fedlama[flower]'")

from fedlama.errors import FedlamaError
from fedlama.flower.deploy.processes import Services, free_port, program
from fedlama.flower.deploy.submit import Operator, run_config, write_app, write_connection
from fedlama.runs.network_log import NAME, read_log
from tests.docs.blocks import DOCS, blocks
from tests.flower import nginx
from tests.flower.certificates import certificates, node_key
from tests.flower.live import small, wait

pytestmark = pytest.mark.slow
needs_nginx = pytest.mark.skipif(not nginx.installed(), reason="needs nginx: apt-get install nginx")


@dataclass(frozen=True)
class Secured:
    """A SuperLink with TLS, registered node keys and, where there is nginx, the proxy of the guide before it.

    Attributes:
        services: The processes.
        keys: Folder with keys and certificates.
        node_port: Where nodes connect.
        operator_port: Where an operator's certificate is asked for; 0 without the proxy.
        operator: Has a certificate.
    """

    services: Services
    keys: Path
    node_port: int
    operator_port: int
    operator: Operator

    @property
    def authority(self) -> Path:
        return self.keys / "ca.crt"

    def log(self, name: str) -> list[str]:
        """The lines of one of the proxy's logs."""
        return (self.services.folder / "superlink" / f"{name}.log").read_text().splitlines()

    def post(self, port: int, path: str, body: bytes = b"", certificate: str = "") -> int:
        """Send a request to the proxy, with a certificate or without; return the status."""
        context = ssl.create_default_context(cafile=str(self.authority))
        if certificate:
            context.load_cert_chain(self.keys / f"{certificate}.pem", self.keys / f"{certificate}.key")
        connection = http.client.HTTPSConnection("localhost", port, context=context, timeout=30)
        try:
            connection.request("POST", path, body, {"Content-Type": "application/protobuf"})
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def secured(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Secured]:
    folder = tmp_path_factory.mktemp("secured")
    keys = folder / "keys"
    authority = certificates(keys)
    tls = ["--ssl-ca-certfile", str(authority), "--ssl-certfile", str(keys / "server.pem")]
    tls += ["--ssl-keyfile", str(keys / "server.key"), "--enable-supernode-auth"]
    with Services(folder / "live", tls=tls) as services:
        services.start_link()
        home, node_port, operator_port = services.folder / "home-operator", services.port, 0
        if nginx.installed():
            operator_certificates(keys)
            node_port, operator_port = behind_nginx(services, keys)
            address, trusted = f"127.0.0.1:{start_operators_proxy(services, keys, operator_port)}", None
        else:
            address, trusted = f"127.0.0.1:{services.port}", authority
        write_connection(home, "ours", address, trusted)
        operator = Operator(program("flwr"), "ours", services.environment("operator"))
        yield Secured(services, keys, node_port, operator_port, operator)


def operator_certificates(keys: Path) -> None:
    """Make the operator's certificate by the guide's commands, and one by another CA of the same name."""
    page = blocks(DOCS / "how-to" / "secure-deployment.md")
    (made,) = [block for block in page if block.kind == "sh" and "anna.key" in block.text]
    for folder in (keys / "other", keys):
        folder.mkdir(exist_ok=True)
        subprocess.run(["bash", "-ec", made.text], cwd=folder, check=True, capture_output=True)
    for kind in ("pem", "key"):
        (keys / "other" / f"anna.{kind}").rename(keys / f"stranger.{kind}")


def behind_nginx(services: Services, keys: Path) -> tuple[int, int]:
    """Start the proxy of the SuperLink's machine; return the ports of nodes and of operators."""
    node_port, operator_port = free_port(), free_port()
    changes = {
        "listen 8000 ssl": f"listen {node_port} ssl",
        "listen 8443 ssl": f"listen {operator_port} ssl",
        "127.0.0.1:8001": f"127.0.0.1:{services.port}",
        "/etc/fedlama": str(keys),
    }
    nginx.start(services, "superlink.conf", changes, node_port)
    return node_port, operator_port


def start_operators_proxy(services: Services, keys: Path, operator_port: int) -> int:
    """Start the proxy of the operator's machine; return its port."""
    port = free_port()
    changes = {
        "127.0.0.1:8002": f"127.0.0.1:{port}",
        "superlink.example.org:8443": f"127.0.0.1:{operator_port}",
        "proxy_ssl_name superlink.example.org": "proxy_ssl_name localhost",
        "/etc/fedlama": str(keys),
    }
    nginx.start(services, "operator.conf", changes, port)
    return port


def test_only_registered_nodes_with_the_right_ca_take_part(secured: Secured, tmp_path: Path) -> None:
    services, keys, port = secured.services, secured.keys, secured.node_port
    stranger = certificates(tmp_path / "other", "other")
    experiment = small("partition.clients=2", "strategy.base_interval=6", "strategy.increase_factor=2")
    security = {}
    for number in range(2):
        key = node_key(keys, f"node{number}")
        command = [secured.operator.command, "supernode", "register", f"{key}.pub", "ours"]
        subprocess.run(command, env=dict(secured.operator.environment), check=True, capture_output=True, timeout=120)
        security[number] = ("--root-certificates", str(secured.authority), "--auth-supernode-private-key", str(key))
    unknown = (*security[0][:3], str(node_key(keys, "thief")))
    wrong = ("--root-certificates", str(stranger), *security[1][2:])
    services.start_node(7, port=port, security=unknown, config={"state-dir": str(tmp_path / "thief")})
    more = "--max-retries", "1"
    services.start_node(8, *more, port=port, security=wrong, config={"state-dir": str(tmp_path / "wrong")})
    wait(lambda: services.processes["node7"].poll() is not None, 120, "the unregistered node to be turned away")
    assert services.processes["node7"].returncode != 0
    time.sleep(1)
    for number, arguments in security.items():
        services.start_node(number, port=port, security=arguments, warm=True)
    app, config, out = tmp_path / "app", tmp_path / "run.toml", tmp_path / "runs"
    write_app(app)
    config.write_text(run_config(experiment, {"out": str(out), "deadline": 240.0}), encoding="utf-8")
    secured.operator.submit(app, config)
    wait(lambda: any(out.rglob("summary.json")), 300, "the run to finish")
    (log,) = out.rglob(NAME)
    assert not any(line["incidents"] for line in read_log(log).values())
    assert not (tmp_path / "thief").exists()
    assert not (tmp_path / "wrong").exists()
    if nginx.installed():
        passed = {line.split('"')[1].split()[1] for line in secured.log("access") if '" 200 ' in line}
        assert {"/v1/fleet/pull-messages", "/v1/fleet/push-object"} <= passed
        assert all(path.startswith("/v1/fleet/") for path in passed)
        calls = {tuple(line.split()[1:]) for line in secured.log("operators")}
        assert {("CN=anna", f"/v1/control/{call}", "200") for call in ("register-node", "start-run")} <= calls


@needs_nginx
def test_the_nodes_port_passes_nothing_but_the_fleet_api(secured: Secured, tmp_path: Path) -> None:
    """Those who have the CA's certificate cannot submit code there, or register a key."""
    write_connection(tmp_path / "home", "outside", f"localhost:{secured.node_port}", secured.authority)
    environment = {**secured.operator.environment, "FLWR_HOME": str(tmp_path / "home")}
    attacker, app, config = Operator(program("flwr"), "outside", environment), tmp_path / "app", tmp_path / "run.toml"
    write_app(app)
    config.write_text(run_config(small(), {"out": str(tmp_path / "runs")}), encoding="utf-8")
    with pytest.raises(FedlamaError, match="flwr refused the run"):
        attacker.submit(app, config)
    assert attacker.status("1") is None
    refused = {line.split('"')[1].split()[1] for line in secured.log("access") if '" 403 ' in line}
    assert "/v1/control/start-run" in refused
    for path in ("/v1/runtime/push-messages", "/v1/control/register-node", "/", "/v1/fleet/../control/list-runs"):
        assert secured.post(secured.node_port, path) == 403, path


@needs_nginx
def test_the_operators_port_wants_a_certificate_of_their_ca(secured: Secured) -> None:
    port, calls = secured.operator_port, len(secured.log("operators"))
    assert secured.post(port, "/v1/control/list-runs") == 400  # nginx's status without a certificate
    assert secured.post(port, "/v1/control/list-runs", certificate="stranger") == 400
    assert secured.post(port, "/v1/control/list-runs", certificate="server") == 400  # of the nodes' CA
    assert secured.post(port, "/v1/control/list-runs", certificate="anna") == 200
    assert secured.post(port, "/v1/fleet/register-node", certificate="anna") == 403
    assert secured.post(port, "/v1/runtime/push-messages", certificate="anna") == 403
    wait(lambda: len(secured.log("operators")) >= calls + 6, 20, "six lines, each written after its reply")
    named = [line.split()[1:] for line in secured.log("operators")[calls:]]
    assert named[-3:] == [
        ["CN=anna", "/v1/control/list-runs", "200"],
        ["CN=anna", "/v1/fleet/register-node", "403"],
        ["CN=anna", "/v1/runtime/push-messages", "403"],
    ]


@needs_nginx
def test_the_proxy_limits_a_piece_and_the_list_of_pieces(secured: Secured) -> None:
    port = secured.node_port
    assert secured.post(port, "/v1/fleet/push-messages", b"x" * 17_000) == 413
    assert secured.post(port, "/v1/fleet/push-messages", b"x" * 16_000) != 413
    assert secured.post(port, "/v1/fleet/push-object", b"x" * 6_300_000) == 413
    assert secured.post(port, "/v1/fleet/push-object", b"x" * (5 * 2**20 + 1000)) != 413


def test_the_guide_lets_the_superlink_listen_on_its_own_machine_alone() -> None:
    text = (DOCS / "how-to" / "secure-deployment.md").read_text(encoding="utf-8")
    proxy = nginx.configurations()["superlink.conf"]
    assert re.findall(r"location (?:= )?(\S+) \{", proxy) == [
        "/v1/fleet/push-messages", "/v1/fleet/", "/", "/v1/control/", "/",
    ]  # fmt: skip
    assert len(re.findall(r"location / \{\s*return 403;", proxy)) == 2
    assert "server 127.0.0.1:8001;" in proxy
    assert "listen 127.0.0.1:8002;" in nginx.configurations()["operator.conf"]
    assert "--host 127.0.0.1 --port 8001" in text
