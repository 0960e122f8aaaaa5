"""The Kronecker factors of a client's layers, by hooks, in one pass over its data after its training (FedLPA).

Liu et al., NeurIPS 2024; the scales are those of the authors' program. With a the input of a dense layer, and 1 behind
it where the layer has a bias, and g the gradient of a sample's own loss by the output, of a batch of b samples

    A = 1/b sum a a^T,    B = 1/b sum g g^T.

Of a convolution with S output positions a is the patch (channel, row, column), 1 behind it, all divided by S, and the
sums run over samples and positions:

    A = 1/b sum a a^T,    B = S/b sum g g^T.

Batches are averaged by their shares of the samples. The model is in training mode, and batches are those of training;
with `micro_batch_size` each is computed in parts of that size, as in training.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from fedlama.core.factors import factor_name, factored_modules, triangle
from fedlama.core.global_generators import seed_torch
from fedlama.core.local_work import epoch_of
from fedlama.core.modules import set_training
from fedlama.core.randomness import seed_of
from fedlama.core.trees import Tree, map_leaves
from fedlama.data.clients import as_batch, is_pure, tensor_clients
from fedlama.engines.api import EngineSetup, Values
from fedlama.engines.micro_batches import parts_of
from fedlama.engines.user_code import batch_loss
from fedlama.errors import ConfigError


class FactorPass:
    """Computes clients' factors with a model of its own.

    Args:
        setup: The federation's fixed parts.
    """

    def __init__(self, setup: EngineSetup) -> None:
        self._setup = setup
        self._model = set_training(copy.deepcopy(setup.model))
        self._modules = factored_modules(self._model, setup.layers)
        self._generators = [setup.device] if setup.device.type == "cuda" else []

    @classmethod
    def of(cls, setup: EngineSetup) -> FactorPass | None:
        """Return the pass of a federation; None where no factors are sent."""
        return cls(setup) if setup.factor_layers else None

    def check(self) -> None:
        """Refuse a model whose factors are not known: the first batch of the first client is tried.

        Raises:
            ConfigError: A module is used twice or not at all, or has an input of more than two dimensions.
        """
        setup = self._setup
        batch = as_batch(setup.clients.batch(0, 0, setup.seed))
        part, size = next(parts_of(batch, setup.micro_batch_size))
        with torch.random.fork_rng(devices=self._generators):
            self._of_batch(self._on_device(part), size)

    def factors(self, client: int, values: Mapping[str, Tensor], round_index: int) -> Values:
        """Return a client's factors as triangles, by tensor name.

        Args:
            client: The client.
            values: Its trained model.
            round_index: The round, from 0.
        """
        setup = self._setup
        self._model.load_state_dict(dict(values), strict=False)
        steps = epoch_of(setup.clients, client)
        batches = [as_batch(setup.clients.batch(client, step, setup.seed)) for step in range(steps)]
        parts = [part for batch in batches for part in parts_of(batch, setup.micro_batch_size)]
        total = sum(size for _, size in parts)
        sums: dict[str, tuple[Tensor, Tensor]] = {}
        with torch.random.fork_rng(devices=self._generators):
            seed_torch(seed_of(setup.seed, "factors", round_index, client))
            for part, size in parts:
                for name, pair in self._of_batch(self._on_device(part), size).items():
                    share = size / total
                    first = sums.get(name, (torch.zeros_like(pair[0]), torch.zeros_like(pair[1])))
                    sums[name] = (first[0] + share * pair[0], first[1] + share * pair[1])
        dtypes = {spec.name: spec.dtype for layer in setup.factor_layers for spec in layer.tensors}
        triangles = {
            factor_name(name, side): triangle(matrix)
            for name, pair in sums.items()
            for side, matrix in zip(("inputs", "outputs"), pair, strict=True)
        }
        return {name: value.to(dtypes[name]) for name, value in triangles.items()}

    def _on_device(self, batch: Tree) -> Tree:
        """Return a copy of a batch, which the model may change, on the federation's device."""
        return map_leaves(lambda leaf: leaf.clone().to(self._setup.device), batch)

    def _of_batch(self, batch: Any, size: int) -> dict[str, tuple[Tensor, Tensor]]:  # noqa: ANN401  (a tree)
        """Return the factors of one batch of some samples, in float64."""
        seen: dict[str, tuple[Tensor, Tensor]] = {}
        with _watched(self._modules, seen):
            loss = batch_loss(self._setup.task, self._model, batch)
            outputs = [output for _, output in seen.values()]
            for name in (name for name in self._modules if name not in seen):
                raise ConfigError(
                    f"aggregator is 'fedlpa', but the module of layer {name!r} is not called in a forward pass, so its "
                    "factors are not known; call it, take it out of the model, or use aggregator 'mean'"
                )
            gradients = torch.autograd.grad(loss, outputs, allow_unused=True, materialize_grads=True)
        return {
            name: factors_of(self._modules[name], given, size * gradient.detach())
            for (name, (given, _)), gradient in zip(seen.items(), gradients, strict=True)
        }


def check_factors(setup: EngineSetup) -> None:
    """Refuse a model whose factors are not known, before its clients train.

    Clients whose batches cannot be asked for at any time, as in a deployment, see it after their training.

    Args:
        setup: The federation's fixed parts.

    Raises:
        ConfigError: As in :meth:`FactorPass.check`.
    """
    factor_pass = FactorPass.of(setup)
    if factor_pass is not None and (is_pure(setup.clients) or tensor_clients(setup.clients) is not None):
        factor_pass.check()


@contextmanager
def _watched(modules: Mapping[str, nn.Module], seen: dict[str, tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Record the input and the output of modules during the block.

    Raises:
        ConfigError: A module is used twice in a forward pass.
    """

    def hook_of(name: str) -> Any:  # noqa: ANN401  (a hook)
        def hook(_: nn.Module, given: tuple[Tensor, ...], named: dict[str, Tensor], output: Tensor) -> Tensor:
            if name in seen:
                raise ConfigError(
                    f"aggregator is 'fedlpa', but layer {name!r} is used twice in a forward pass, and its factors are "
                    "known for a single use; use aggregator 'mean'"
                )
            seen[name] = ((*given, *named.values())[0].detach().clone(), output)
            return output.clone()  # a later operation may work in place

        return hook

    handles = [module.register_forward_hook(hook_of(name), with_kwargs=True) for name, module in modules.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def factors_of(module: nn.Module, given: Tensor, gradient: Tensor) -> tuple[Tensor, Tensor]:
    """Return A and B of one batch, without damping, in float64.

    Args:
        module: A dense layer, or a 2-D convolution.
        given: Its input, (samples, inputs) or (samples, channels, rows, columns).
        gradient: The gradients of the samples' own losses by its output, (samples, outputs, ...).

    Raises:
        ConfigError: A dense layer has an input of more than two dimensions.

    >>> layer = nn.Linear(2, 1, bias=False)
    >>> factors_of(layer, torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0]]))[1]
    tensor([[9.]], dtype=torch.float64)
    """
    samples, given, gradient = len(given), given.double(), gradient.double()
    if isinstance(module, nn.Conv2d):
        padding: Any = module.padding
        patches = functional.unfold(given, module.kernel_size, module.dilation, padding, module.stride)
        positions = patches.shape[2]  # (samples, numbers of a patch, positions)
        rows = patches.transpose(1, 2).flatten(0, 1)
        gradients = gradient.flatten(2).transpose(1, 2).flatten(0, 1)  # (samples x positions, outputs)
    else:
        if given.dim() != 2:
            raise ConfigError(
                f"aggregator is 'fedlpa', whose dense layers take (samples, inputs), but one has an input of "
                f"{given.dim()} dimensions; use aggregator 'mean'"
            )
        positions, rows, gradients = 1, given, gradient
    if module.bias is not None:
        rows = torch.cat([rows, rows.new_ones(len(rows), 1)], 1)
    rows = rows / positions
    return rows.T @ rows / samples, positions * (gradients.T @ gradients) / samples
