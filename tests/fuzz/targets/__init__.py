"""One reader per file; `TARGETS` has them all."""

from __future__ import annotations

import importlib.util
import warnings

from tests.fuzz.harness import Target
from tests.fuzz.targets import (
    checkpoint,
    cifar,
    client_state,
    config_file,
    huggingface,
    idx,
    leaf,
    links_file,
    npz,
    overrides,
    picture_files,
    resume,
    round_messages,
    run_config,
    run_folder,
    speeches,
    tables,
    upload,
    writers,
)

TARGETS: tuple[Target, ...] = (
    config_file.TARGET,
    overrides.TARGET,
    run_config.TARGET,
    links_file.TARGET,
    idx.TARGET,
    writers.TARGET,
    cifar.BINARY,
    cifar.PICKLED,
    npz.TARGET,
    leaf.TARGET,
    speeches.TARGET,
    tables.TARGET,
    picture_files.TARGET,
    huggingface.TARGET,
    checkpoint.TARGET,
    resume.TARGET,
    run_folder.TARGET,
    client_state.TARGET,
    upload.TARGET,
    round_messages.TARGET,
)
if importlib.util.find_spec("flwr") is not None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # those of Flower's own libraries
        from tests.fuzz.targets import flower_records

    TARGETS += (flower_records.TARGET,)
