"""Labelling: every trainable parameter in exactly one layer, every buffer in the layer of its module."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from fedlama import (
    SGD,
    ConfigError,
    FedAvg,
    Federation,
    FedLAMA,
    FixedIntervals,
    Layer,
    Layers,
    Result,
    TestSet,
    by_mapping,
    by_module,
    by_tensor,
)
from fedlama.choices.strategies import Strategy
from fedlama.core.layers import check_layers, local_buffers, named_layers, total_parameters
from fedlama.models import resnet20, wide_resnet
from tests.core.helpers import CLASSES, FEATURES, Normed, skewed_clients


def shape(layers: Layers) -> dict[str, list[str]]:
    """Layer name to the names of its tensors."""
    return {layer.name: [spec.name for spec in layer.tensors] for layer in layers}


STATISTICS = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]


# The three ways


def test_by_tensor() -> None:
    layers = by_tensor(Normed())
    assert shape(layers) == {
        "first.weight": ["first.weight"],
        "first.bias": ["first.bias"],
        "norm.weight": ["norm.weight", *STATISTICS],
        "norm.bias": ["norm.bias"],
        "second.weight": ["second.weight"],
        "second.bias": ["second.bias"],
    }
    assert [layer.adaptive for layer in layers] == [True, False, False, False, True, False]
    assert [layer.parameters for layer in layers] == [48, 8, 8, 8, 24, 3]
    assert total_parameters(layers) == 99


def test_by_module() -> None:
    layers = by_module(Normed())
    assert shape(layers) == {
        "first": ["first.weight", "first.bias"],
        "norm": ["norm.weight", "norm.bias", *STATISTICS],
        "second": ["second.weight", "second.bias"],
    }
    assert [layer.adaptive for layer in layers] == [True, False, True]
    assert [layer.parameters for layer in layers] == [56, 16, 27]


def test_by_mapping() -> None:
    mapping = {
        "body": ["first.weight", "first.bias", "norm.weight", "norm.bias"],
        "head": ("second.weight", "second.bias"),
    }
    layers = by_mapping(Normed(), mapping, adaptive=["head"])
    assert shape(layers) == {
        "body": ["first.weight", "first.bias", "norm.weight", "norm.bias", *STATISTICS],
        "head": ["second.weight", "second.bias"],
    }
    assert [layer.adaptive for layer in layers] == [False, True]


def test_by_mapping_with_a_function() -> None:
    layers = by_mapping(Normed(), lambda name: name.rpartition(".")[2])
    assert list(shape(layers)) == ["weight", "bias"]
    assert [layer.adaptive for layer in layers] == [True, False]
    # BatchNorm's statistics go with the layer of its first parameter.
    assert shape(layers)["weight"][-3:] == STATISTICS


@pytest.mark.parametrize("label", [by_tensor, by_module])
def test_local_statistics_stay_out(label: Callable[..., Layers]) -> None:
    names = [name for tensors in shape(label(Normed(), statistics="local")).values() for name in tensors]
    assert not any("running" in name or "tracked" in name for name in names)
    assert len(names) == 6


def test_local_buffers_are_those_in_no_layer() -> None:
    model = Normed()
    model.register_buffer("scratch", torch.zeros(2), persistent=False)
    statistics = ["norm.running_mean", "norm.running_var", "norm.num_batches_tracked"]
    assert list(local_buffers(model, by_tensor(model, statistics="average"))) == ["scratch"]
    assert set(local_buffers(model, by_tensor(model, statistics="local"))) == {"scratch", *statistics}
    assert local_buffers(model, by_tensor(model))["scratch"] is model.scratch


def test_layers_by_name_come_in_the_models_order() -> None:
    layers = by_module(Normed())
    assert named_layers(layers, {layers[2].name, layers[0].name}) == (layers[0], layers[2])
    assert named_layers(layers, ()) == ()


def test_what_the_paper_counts_in_its_models() -> None:
    # Fact sheet 2.4: 23 kernels, 68 trainable variables; 29 kernels in the wide one.
    layers = by_tensor(resnet20(10))
    kernels = [layer for layer in layers if layer.adaptive]
    assert (len(layers), len(kernels)) == (68, 23)
    assert (total_parameters(layers), total_parameters(tuple(kernels))) == (272_762, 271_152)
    wide = [layer for layer in by_tensor(wide_resnet(100)) if layer.adaptive]
    assert (len(wide), total_parameters(tuple(wide))) == (29, 36_518_832 + (100 - 100) * 640)


def test_specs_tell_normalisation_from_other_parameters() -> None:
    specs = {spec.name: spec for layer in by_tensor(Normed()) for spec in layer.tensors}
    assert [name for name, spec in specs.items() if spec.normalisation] == ["norm.weight", "norm.bias"]
    assert specs["norm.num_batches_tracked"].dtype == torch.int64
    assert not specs["norm.running_mean"].trainable


# Errors


def test_a_mapping_is_judged_as_a_whole() -> None:
    mapping = {"a": ["first.weight", "first.bias", "norm.wieght"], "b": ["first.bias", "norm.weight", "second.weight"]}
    with pytest.raises(ConfigError) as caught:
        by_mapping(Normed(), mapping)
    assert caught.value.problems == (
        "layer 'a' names a parameter the model lacks: 'norm.wieght'; did you mean 'norm.weight'?",
        "parameter 'first.bias' is in layer 'a' and in 'b'; leave it in one",
        "parameter 'norm.bias' is in no layer; add it to one of: a, b",
        "parameter 'second.bias' is in no layer; add it to one of: a, b",
    )


def test_a_parameter_doubled_within_one_layer() -> None:
    with pytest.raises(ConfigError, match="in layer 'a' and in 'a'"):
        by_mapping(nn.Linear(2, 2, bias=False), {"a": ["weight", "weight"]})


def test_one_name_instead_of_a_list_of_names() -> None:
    layers = by_mapping(nn.Linear(2, 2), {"kernel": "weight", "rest": ["bias"]})
    assert shape(layers) == {"kernel": ["weight"], "rest": ["bias"]}


def test_adaptive_must_name_layers() -> None:
    with pytest.raises(ConfigError, match=r"adaptive names no layer: 'haed'; did you mean 'head'\?"):
        by_mapping(nn.Linear(2, 2), {"head": ["weight", "bias"]}, adaptive=["haed"])


def test_a_model_without_parameters() -> None:
    frozen = nn.Linear(2, 2).requires_grad_(False)
    for model in (nn.Flatten(), frozen):
        with pytest.raises(ConfigError, match="has no trainable parameter"):
            by_tensor(model)


def test_layers_of_another_model_are_refused() -> None:
    layers = by_tensor(nn.Linear(FEATURES, CLASSES))
    with pytest.raises(ConfigError) as caught:
        check_layers(layers, Normed())
    assert len(caught.value.problems) == 2 + 6


def test_layers_of_one_name_are_refused() -> None:
    weight, bias = by_tensor(nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="two layers have the same name"):
        check_layers((weight, Layer("weight", bias.tensors, False)), nn.Linear(2, 2))


# Unusual models


class Rooted(nn.Module):
    """A model with a parameter of its own and a submodule that is called as one might call the root."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(1))
        self.model = nn.Linear(FEATURES, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        """Scale the logits."""
        return self.scale * self.model(x)


def test_by_module_keeps_the_root_apart_from_its_children() -> None:
    tensors = list(shape(by_module(Rooted())).values())
    assert tensors == [["scale"], ["model.weight", "model.bias"]]


class Tied(nn.Module):
    """An encoder and a decoder with one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Linear(FEATURES, FEATURES, bias=False)
        self.decoder = nn.Linear(FEATURES, FEATURES)
        self.decoder.weight = self.encoder.weight

    def forward(self, x: Tensor) -> Tensor:
        """Map to logits over the features."""
        return self.decoder(torch.relu(self.encoder(x)))


def federated(model: nn.Module, strategy: Strategy[Any] = None, **changes: object) -> Result:
    """Train a model on two clients."""
    federation = Federation(
        model, skewed_clients(2), strategy or FedLAMA(1, 2), 6, solver=SGD(0.1), keep_client_models=True, **changes
    )
    return federation.run()


def test_tied_parameters_are_one() -> None:
    assert shape(by_tensor(Tied())) == {"encoder.weight": ["encoder.weight"], "decoder.bias": ["decoder.bias"]}


def test_tied_parameters_stay_tied_in_the_result() -> None:
    model = Tied()
    result = federated(model)
    assert not torch.equal(result.model["encoder.weight"], model.encoder.weight)
    assert torch.equal(result.model["encoder.weight"], result.model["decoder.weight"])
    model.load_state_dict(dict(result.model))
    assert torch.equal(model.decoder.weight, result.model["encoder.weight"])


def test_frozen_parameters_never_change_and_never_travel() -> None:
    model = Normed()
    model.first.requires_grad_(False)
    assert "first.weight" not in shape(by_tensor(model))
    result = federated(model)
    assert torch.equal(result.model["first.weight"], model.first.weight)
    assert not torch.equal(result.model["second.weight"], model.second.weight)
    assert not any(row.layer.startswith("first") for row in result.ledger.rows())


class Centred(nn.Module):
    """BatchNorm without parameters: a module with buffers only."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(FEATURES, affine=False)
        self.dense = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("scratch", torch.zeros(3), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """Normalise and map to logits."""
        return self.dense(self.norm(x))


def test_buffers_without_parameters_are_a_layer_of_their_own() -> None:
    layers = by_tensor(Centred())
    assert shape(layers) == {
        "dense.weight": ["dense.weight"],
        "dense.bias": ["dense.bias"],
        "norm (statistics)": STATISTICS,
    }
    assert (layers[-1].parameters, layers[-1].adaptive) == (0, False)


def test_buffers_are_averaged_with_the_clients_weights() -> None:
    # One batch of all samples each, so that BatchNorm's momentum of 0.1 takes a tenth of every client's mean.
    clients = [replace(one, batch_size=len(one.x)) for one in skewed_clients(2)]
    result = Federation(Centred(), clients, FedAvg(1), 1, solver=SGD(0.1), keep_client_models=True).run()
    first, second = (0.1 * one.x.mean(dim=0) for one in clients)  # of 10 and 15 samples
    torch.testing.assert_close(result.model["norm.running_mean"], 0.4 * first + 0.6 * second)
    assert int(result.model["norm.num_batches_tracked"]) == 1
    for values in result.rounds[0].client_models.values():
        assert torch.equal(values["norm.running_mean"], result.model["norm.running_mean"])


def test_buffers_travel_and_weigh_in_the_ledger() -> None:
    result = federated(Centred())
    record = result.rounds[0].layers["norm (statistics)"]
    assert record.bytes_up == 2 * (2 * 4 * FEATURES + 8)
    assert record.discrepancy == record.unit_discrepancy == 0.0
    assert result.cost == sum(
        18 * record.layers["dense.weight"].synchronised + 3 * record.layers["dense.bias"].synchronised
        for record in result.rounds
    )


def test_local_statistics_differ_between_clients_and_stay_as_given_in_the_result() -> None:
    model, test = Normed(), TestSet(torch.zeros(4, FEATURES), torch.zeros(4, dtype=torch.int64))
    for scored in ({}, {"test_set": test, "evaluate": "best_client"}):
        result = federated(model, FedAvg(2), layers=by_tensor(model, statistics="local"), **scored)
        first, second = result.rounds[-1].client_models.values()
        assert torch.equal(first["norm.weight"], second["norm.weight"])
        assert not torch.equal(first["norm.running_mean"], second["norm.running_mean"])
        assert torch.equal(result.model["norm.running_mean"], model.norm.running_mean)
        assert not any("running" in row.layer for row in result.ledger.rows())


def test_a_global_model_without_statistics_is_not_scored() -> None:
    model, test = Normed(), TestSet(torch.zeros(4, FEATURES), torch.zeros(4, dtype=torch.int64))
    with pytest.raises(ConfigError, match=r"norm.running_mean, .* never leave the clients .*='best_client'"):
        federated(model, FedAvg(2), layers=by_tensor(model, statistics="local"), test_set=test)


def test_statistics_do_not_change_training() -> None:
    # Fact sheet 2.3.6: they affect evaluation only.
    model = Normed()
    runs = [federated(model, layers=by_tensor(model, statistics=rule)) for rule in ("average", "local")]
    assert [record.loss for record in runs[0].rounds] == [record.loss for record in runs[1].rounds]
    assert torch.equal(runs[0].model["first.weight"], runs[1].model["first.weight"])


class Reassigning(nn.Module):
    """A module that replaces its buffer instead of updating it in place."""

    def __init__(self) -> None:
        super().__init__()
        self.dense = nn.Linear(FEATURES, CLASSES)
        self.register_buffer("seen", torch.zeros(1))

    def forward(self, x: Tensor) -> Tensor:
        """Count samples on the way."""
        self.seen = self.seen + len(x)
        return self.dense(x)


def test_buffers_that_are_replaced_are_followed() -> None:
    result = federated(Reassigning(), FixedIntervals(2, {"dense.*": 1}), weighting="equal")
    # Three rounds of two batches of 5 on each client, averaged after each.
    assert float(result.model["seen"]) == 30.0


def test_layers_of_another_dtype_or_shape_are_refused() -> None:
    """Their bytes would be counted wrongly: half of what a model in float64 sends."""
    model = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2))
    layers = by_module(model)
    check_layers(layers, model)
    with pytest.raises(ConfigError, match=r"as torch.float32 \(3, 4\), but in the model it is torch.float64"):
        check_layers(layers, model.double())
    with pytest.raises(ConfigError, match=r"is torch.float32 \(3, 5\); make the layers of this model"):
        check_layers(layers, nn.Sequential(nn.Linear(5, 3), nn.Linear(3, 2)))
