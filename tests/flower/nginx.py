"""The guide's configuration of nginx, run by an ordinary user with this test's files and ports."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from fedlama.flower.deploy.processes import Services
from tests.docs.blocks import DOCS

_MAIN = """\
daemon off;
{user}
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{}}
http {{
    access_log {folder}/access.log;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    include {folder}/site.conf;
}}
"""


def installed() -> bool:
    """Return whether this machine has nginx."""
    return program() is not None


def program() -> str | None:
    """The path of nginx; system programs are not in every user's PATH."""
    return shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")


def configurations() -> dict[str, str]:
    """The guide's configurations, by the name of the file."""
    text = (DOCS / "how-to" / "secure-deployment.md").read_text(encoding="utf-8")
    return {Path(name).name: block for name, block in re.findall(r'```nginx title="(.*?)"\n(.*?)```', text, re.DOTALL)}


def start(services: Services, name: str, changes: Mapping[str, str], port: int) -> Path:
    """Start nginx with one of the guide's files.

    Args:
        services: Stops it at the end.
        name: The file's name, such as ``superlink.conf``.
        changes: Text to replace in it.
        port: A port on which it listens then.

    Returns:
        Its folder, with ``access.log`` and ``error.log``.
    """
    folder, text = services.folder / name.removesuffix(".conf"), configurations()[name]
    folder.mkdir()
    for old, new in changes.items():
        assert old in text, old
        text = text.replace(old, new)
    (folder / "site.conf").write_text(text.replace("/var/log/nginx", str(folder)))
    user = "user root;" if os.geteuid() == 0 else ""
    (folder / "nginx.conf").write_text(_MAIN.format(folder=folder, user=user))
    command = [str(program()), "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    subprocess.run([*command, "-t"], check=True, capture_output=True)
    services.start(folder.name, command)
    services.wait_for_port(folder.name, port)
    return folder
