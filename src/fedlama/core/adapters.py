"""Layers of a model with LoRA adapters (Hu et al., 2021): one for each adapted module and matrix, A or B.

Only what is trained is in a layer, so the frozen base model is never sent. Three settings say what is done with the two
matrices of an adapter, whose product B A is added to a frozen weight:

===========  ========================================================================================================
method       what happens
===========  ========================================================================================================
``fedit``    A and B are trained and sent (Zhang et al., 2023, "Towards Building the Federated GPT")
``ffa``      A is frozen at its first values, B is trained and sent (Sun et al., 2024, FFA-LoRA)
``fedsa``    A is trained and sent, B is trained and stays on its client (Guo et al., 2024, FedSA-LoRA)
===========  ========================================================================================================

The library peft is not needed here: the names of its parameters say everything. Layer names are those of the base
model, whatever wraps it (PEFT, DistributedDataParallel, Opacus, torch.compile), so that patterns stay the same.
"""

from __future__ import annotations

import re
from typing import Literal, get_args

from torch import nn

from fedlama.core.layers import Layers, StatisticsRule, Tag, by_mapping, tagged
from fedlama.errors import ConfigError, did_you_mean

AdapterMethod = Literal["fedit", "ffa", "fedsa"]
HeadTag = Literal["head", "local", "frozen"]

_WRAPPERS = ("base_model.model.", "module.", "_module.", "_orig_mod.")
"""What PEFT, DistributedDataParallel, Opacus and torch.compile write in front of the names of a model."""
_MATRIX = re.compile(r"(?P<path>.+)\.lora_(?:embedding_)?(?P<matrix>A|B|magnitude_vector)\.(?P<adapter>[^.]+)(?:\..+)?")
_SAVED = re.compile(r"(?P<path>.+)\.modules_to_save\.(?P<adapter>[^.]+)\.(?P<rest>.+)")


def unwrapped_name(name: str) -> str:
    """Return a parameter's name in the base model, without what wrappers write in front of it.

    >>> unwrapped_name("module.base_model.model.encoder.0.query.lora_A.default.weight")
    'encoder.0.query.lora_A.default.weight'
    """
    while prefix := next((prefix for prefix in _WRAPPERS if name.startswith(prefix)), ""):
        name = name.removeprefix(prefix)
    return name


def lora_layers(
    model: nn.Module,
    method: AdapterMethod = "fedit",
    *,
    head: HeadTag = "head",
    statistics: StatisticsRule = "average",
) -> Layers:
    """Return the layers of a model with LoRA adapters: one for each adapted module and matrix.

    A layer is named after its module in the base model and its matrix, such as ``encoder.0.query.A``; DoRA's magnitudes
    are a layer of their own and are treated as B is. What PEFT trains beside adapters (``modules_to_save``, usually the
    classifier) is one layer for each module, with the tag `head`; what else is trained is shared, module by module.

    Args:
        model: A model of :func:`peft.get_peft_model`, wrapped or not; it is not changed.
        method: ``"fedit"``, ``"ffa"`` or ``"fedsa"``; see the module's docstring.
        head: The tag of the modules that are trained whole: ``"head"`` (sent), ``"local"`` or ``"frozen"``.
        statistics: As in :func:`fedlama.core.layers.by_tensor`.

    Raises:
        ConfigError: The model has no trainable adapter, or a setting is not known.
    """
    for name, value, known in (("method", method, get_args(AdapterMethod)), ("head", head, get_args(HeadTag))):
        if value not in known:
            raise ConfigError(f"layers.{name} is {value!r}{did_you_mean(value, known)}")
    names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    matches = [match for name in names if (match := _MATRIX.fullmatch(unwrapped_name(name)))]
    if not matches:
        raise ConfigError(
            f"the model {type(model).__name__} has no parameter of a LoRA adapter that is trained, expected a model to "
            "which PEFT has added one; add it, or set layers.name='module'"
        )
    several = len({match["adapter"] for match in matches}) > 1
    tags = _tags(method, head)
    kinds = dict(_layer_of(name, several) for name in names)
    layers = by_mapping(model, lambda name: _layer_of(name, several)[0], statistics=statistics)
    wanted: dict[Tag, list[str]] = {"local": [], "head": [], "frozen": []}
    for layer, kind in kinds.items():
        if (tag := tags[kind]) != "shared":
            wanted[tag].append(_as_pattern(layer))
    return tagged(layers, local=wanted["local"], head=wanted["head"], frozen=wanted["frozen"])


def _tags(method: AdapterMethod, head: HeadTag) -> dict[str, Tag]:
    """Return the tag of each kind of layer."""
    first: Tag = "frozen" if method == "ffa" else "shared"
    second: Tag = "local" if method == "fedsa" else "shared"
    return {"A": first, "B": second, "magnitude": second, "head": head, "other": "shared"}


def _layer_of(name: str, several: bool) -> tuple[str, str]:
    """Return the name of a parameter's layer, and of which kind it is.

    Args:
        name: The parameter's name.
        several: Whether the model trains several adapters, whose names are then part of the layers' names.

    >>> _layer_of("base_model.model.encoder.query.lora_B.default.weight", False)
    ('encoder.query.B', 'B')
    >>> _layer_of("base_model.model.classifier.modules_to_save.default.out.bias", False)
    ('classifier.out', 'head')
    """
    plain = unwrapped_name(name)
    if match := _MATRIX.fullmatch(plain):
        kind = match["matrix"].partition("_")[0]
        adapter = f"{match['adapter']}." if several else ""
        return f"{match['path']}.{adapter}{kind}", kind
    if match := _SAVED.fullmatch(plain):
        return f"{match['path']}.{match['rest']}".rpartition(".")[0], "head"
    return plain.replace(".base_layer.", ".").rpartition(".")[0] or plain, "other"


def _as_pattern(name: str) -> str:
    """Return a pattern that matches a name alone, also one with brackets."""
    return re.sub(r"([*?[])", r"[\1]", name)
