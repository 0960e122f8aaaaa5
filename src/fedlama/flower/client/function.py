"""A client that trains with the user's own function: any PyTorch model, any optimizer, any data."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn

from fedlama.choices.codecs import Codec, Float32
from fedlama.choices.personal import Personal
from fedlama.choices.privacy import Privacy
from fedlama.core.layers import Layers, by_tensor, local_layers, sent_layers
from fedlama.core.scores import Score
from fedlama.engines.api import Values
from fedlama.errors import ConfigError
from fedlama.flower.client.trainer import LocalRound

TrainFunction = Callable[[nn.Module, LocalRound], float]
"""Trains a model in place for ``local_round.steps`` local steps on the data of ``local_round.client``, from the
position ``local_round.steps_done`` on; returns the mean training loss."""
EvaluateFunction = Callable[[nn.Module], Score]
"""Scores a model, which is in evaluation mode, on the client's own test set; it must not change the model."""


class FunctionTrainer:
    """A client around a training function; see :class:`fedlama.flower.client.trainer.ClientTrainer`.

    Args:
        model: The model; its weights are overwritten.
        train: Trains it. Layers named in ``local_round.frozen`` are restored afterwards.
        samples: Number of training samples n_i.
        layers: The labelling; by default every parameter tensor is a layer. It must equal the server's.
        codec: How uploads are compressed. It must equal the server's.
        evaluate: Scores a model on the client's own test set; None where it has none.
    """

    def __init__(
        self,
        model: nn.Module,
        train: TrainFunction,
        samples: int,
        layers: Layers | None = None,
        codec: Codec | None = None,
        evaluate: EvaluateFunction | None = None,
    ) -> None:
        self._evaluate = evaluate
        self._model, self._train, self._samples = model, train, samples
        labelling = by_tensor(model) if layers is None else layers
        self._layers, self._local = sent_layers(labelling), local_layers(labelling)
        self._codec: Codec = codec or Float32()

    @property
    def layers(self) -> Layers:
        """The layers of the model that are sent."""
        return self._layers

    @property
    def codec(self) -> Codec:
        """How uploads are compressed."""
        return self._codec

    @property
    def privacy(self) -> Privacy | None:
        """None: a function's changes are not limited, so a server that asks for it refuses this client."""
        return None

    @property
    def personal(self) -> Personal | None:
        """None: a function gets the global model, so a server that asks for personal ones refuses this client."""
        return None

    @property
    def own_score(self) -> Score | None:
        """None: a function's model is scored after its training."""
        return None

    @property
    def uses_reference(self) -> bool:
        """Whether training reads the values received last; the function gets only the model, so it does not."""
        return False

    @property
    def keeps_optimizer_state(self) -> bool:
        """Whether the client has optimizer state that lasts; a function keeps its own, so it has none."""
        return False

    @property
    def local_names(self) -> frozenset[str]:
        """The tensors of local layers."""
        return frozenset(spec.name for layer in self._local for spec in layer.tensors)

    @property
    def samples(self) -> int:
        """Number of training samples n_i."""
        return self._samples

    @property
    def has_test_set(self) -> bool:
        """Whether there is a function that scores a model."""
        return self._evaluate is not None

    @property
    def threads(self) -> int:
        """The number that the process has: a function of the user's own may set it."""
        return torch.get_num_threads()

    def score(self, values: Mapping[str, Tensor]) -> Score | None:
        """Call the user's function on a model with these values."""
        if self._evaluate is None:
            return None
        self._model.load_state_dict(dict(values), strict=False)
        self._model.eval()
        with torch.no_grad():
            score: object = self._evaluate(self._model)
        if not isinstance(score, Score):
            raise ConfigError(
                f"evaluate returned {type(score).__name__}, expected a fedlama.Score; return "
                "fedlama.Score(loss, {'accuracy': ...}, 'accuracy', 'higher')"
            )
        return score

    def initial_state(self, values: Mapping[str, Tensor]) -> tuple[Values, Values]:
        """Start from the full model; buffers that are never sent start as the model was built."""
        return {**self._values(), **values}, {}

    def train(
        self, values: Values, optimizer_state: Values, reference: Values, local_round: LocalRound
    ) -> tuple[Values, Values, float]:
        """Call the function on a model with these values."""
        self._model.load_state_dict(values, strict=False)
        self._model.train()
        loss = float(self._train(self._model, local_round))
        frozen = {spec.name for layer in self._layers if layer.name in local_round.frozen for spec in layer.tensors}
        trained = {name: values[name] if name in frozen else value for name, value in self._values().items()}
        return trained, optimizer_state, loss

    def _values(self) -> Values:
        with torch.no_grad():
            return {name: value.detach().clone() for name, value in self._model.state_dict().items()}
