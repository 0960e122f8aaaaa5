"""Install the rivals in a separate environment: ``python -m benchmarks.setup FOLDER``.

They get the PyTorch version of the calling environment, so all sides compute with the same kernels.
"""

from __future__ import annotations

import subprocess
import sys
import venv
from pathlib import Path

import torch

RIVALS = ("flwr[simulation]", "pfl[pytorch]")
SHARED = ("transformers>=4.40", "peft>=0.11")  # for the models of the workloads
OURS = ("numpy", "pydantic>=2.7", "rich>=13.7", "safetensors>=0.4.3", "typer>=0.15", "matplotlib>=3.8")


def main(folder: str) -> None:
    """Create the environment and install everything; pip reports what does not fit together."""
    venv.create(folder, with_pip=True)
    pip = [str(Path(folder) / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    version = torch.__version__.partition("+")[0]
    subprocess.run([*pip, f"torch=={version}", "--extra-index-url", "https://download.pytorch.org/whl/cpu"], check=True)
    for rival in RIVALS:
        subprocess.run([*pip, f"torch=={version}", rival, *SHARED, *OURS], check=True)


if __name__ == "__main__":
    main(sys.argv[1])
