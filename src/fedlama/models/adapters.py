"""Adapters as files that PEFT reads: ``adapter_model.safetensors`` and ``adapter_config.json``."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from fedlama.errors import ConfigError, DataError, MissingExtraError, cut


def save_adapter(
    model: nn.Module, values: Mapping[str, Tensor] | str | Path, folder: str | Path, *, adapter: str = "default"
) -> Path:
    """Write a model's adapter so that ``PeftModel.from_pretrained(base, folder)`` loads it.

    The values may be those after any round: ``run.global_model()`` between rounds, ``result.model`` at the end, or one
    client's own model (``record.client_models[client]``), whose local layers are then in the files. What is not among
    them, such as a frozen matrix, has the model's own values.

    Args:
        model: The model of :func:`peft.get_peft_model` that the federation was given, wrapped or not; not changed.
        values: Tensors by the names that they have in `model`, or the folder of a finished run.
        folder: Where to write; it is made if it is missing.
        adapter: The adapter's name in the model.

    Returns:
        The folder.

    Raises:
        MissingExtraError: The library peft is not installed.
        ConfigError: The model has no such adapter.
        DataError: The values are of another model, or the run's folder cannot be read.
    """
    peft = _peft()
    prefix, adapted = _peft_model(model, peft)
    if adapter not in adapted.peft_config:
        known = ", ".join(adapted.peft_config)
        raise ConfigError(f"adapter is {adapter!r}, expected one of the model's adapters ({known}); give its name")
    given = values if isinstance(values, Mapping) else _stored(Path(values))
    state = {name.removeprefix(prefix): value for name, value in adapted.state_dict().items()}
    for name, value in given.items():
        plain = name.removeprefix(prefix)
        if plain in state and state[plain].shape != value.shape:
            raise DataError(
                f"the tensor {name} has shape {tuple(value.shape)}, expected {tuple(state[plain].shape)} as in the "
                "model; give the model with which the run was made"
            )
        if plain in state:
            state[plain] = value
    if not any(name.removeprefix(prefix) in state for name in given):
        raise DataError("the values hold no tensor of the model, expected those of a run of this model; give its own")
    # Without the embeddings, which PEFT would otherwise compare with a model of the same name on a server.
    tensors = peft.get_peft_model_state_dict(adapted, state, adapter_name=adapter, save_embedding_layers=False)
    path = Path(folder)
    path.mkdir(parents=True, exist_ok=True)
    # safetensors refuses tensors that share memory; contiguous clones never do.
    dense = {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    save_file(dense, path / "adapter_model.safetensors", metadata={"format": "pt"})
    config = copy.deepcopy(adapted.peft_config[adapter])
    config.inference_mode = True
    config.save_pretrained(str(path))
    return path


def _peft() -> Any:  # noqa: ANN401  (a module)
    try:
        return import_module("peft")
    except ModuleNotFoundError as error:
        raise MissingExtraError("peft", "peft") from error


def _peft_model(model: nn.Module, peft: Any) -> tuple[str, Any]:  # noqa: ANN401
    """Return the model of PEFT inside of any wrappers, and what their names begin with."""
    for name, module in model.named_modules():
        if isinstance(module, peft.PeftModel):
            return (f"{name}." if name else ""), module
    raise ConfigError(
        f"the model {type(model).__name__} has no adapter of PEFT, expected the model that PEFT made; give that one"
    )


def _stored(path: Path) -> dict[str, Tensor]:
    """Return the global model of a run's folder."""
    file = path / "model.safetensors" if path.is_dir() else path
    try:
        return dict(load_file(file))
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"{file} cannot be read ({cut(error, 120)}); give the folder of a run that has finished"
        ) from error
