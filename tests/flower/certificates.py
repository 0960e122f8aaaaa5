"""Throw-away certificates and keys, made with the commands of the guide."""

from __future__ import annotations

import subprocess
from pathlib import Path


def certificates(folder: Path, name: str = "ca") -> Path:
    """Make a CA and a server certificate for this machine in a folder; return the CA's certificate."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ext.cnf").write_text(
        "subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth\n"
        "keyUsage=critical,digitalSignature\nbasicConstraints=CA:FALSE\n"
    )
    for command in (
        "openssl ecparam -name prime256v1 -genkey -noout -out ca.key",
        f"openssl req -x509 -new -key ca.key -sha256 -days 2 -subj /CN={name} -addext"
        " basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign -out ca.crt",
        "openssl ecparam -name prime256v1 -genkey -noout -out server.key",
        "openssl req -new -key server.key -subj /CN=localhost -out server.csr",
        "openssl x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 2 -sha256 -extfile ext.cnf"
        " -out server.pem",
    ):
        subprocess.run(command.split(), cwd=folder, check=True, capture_output=True)
    return folder / "ca.crt"


def node_key(folder: Path, name: str) -> Path:
    """Make a node's key; the public key is in a file beside it that ends in .pub."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    command = ["ssh-keygen", "-q", "-t", "ecdsa", "-b", "384", "-N", "", "-C", "", "-f", str(path)]
    subprocess.run(command, check=True, capture_output=True)
    return path
