"""Parameter counts in literal numbers, and the same results one by one and stacked with vmap."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, stack_module_state, vmap

from fedlama.data.arrays import Dataset
from fedlama.data.digits import Digits
from fedlama.errors import ConfigError
from fedlama.models import char_transformer, leaf_cnn, mlp, resnet20, small_cnn, wide_resnet
from fedlama.models.resnet import ResNetSettings


def kernels(model: nn.Module) -> list[int]:
    return [parameter.numel() for parameter in model.parameters() if parameter.ndim > 1]


def trainable(model: nn.Module) -> int:
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def norms(model: nn.Module) -> list[nn.BatchNorm2d]:
    return [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]


def test_leaf_cnn_counts() -> None:
    model = leaf_cnn()
    assert kernels(model) == [800, 51_200, 6_422_528, 126_976]
    assert trainable(model) == 6_603_710


@pytest.mark.parametrize("padding", ["torch", "tensorflow"])
def test_resnet20_counts(padding: str) -> None:
    model = resnet20(same_padding=padding)  # type: ignore[arg-type]
    assert len(kernels(model)) == 23
    assert sum(kernels(model)) == 271_152
    assert kernels(model).count(36_864) == 5
    assert len(norms(model)) == 22
    assert sum(norm.num_features for norm in norms(model)) == 800
    assert len(list(model.parameters())) == 68
    assert trainable(model) == 272_762


def test_resnet20_settings_of_batch_norm_and_initial_values() -> None:
    model = resnet20()
    assert {(norm.eps, norm.momentum) for norm in norms(model)} == {(1e-3, 0.01)}
    assert sum(bool((norm.weight == 0).all()) for norm in norms(model)) == 9
    bias = [parameter for name, parameter in model.named_parameters() if name == "dense.bias"]
    assert bias[0].tolist() == [0.0] * 10
    weight = next(p for p in model.parameters() if p.shape == (64, 64, 3, 3))
    limit = (6 / (64 * 9 + 64 * 9)) ** 0.5
    assert 0.99 * limit < float(weight.detach().abs().max()) <= limit


def test_resnet_of_grey_digits() -> None:
    digits = Digits().load()
    model = ResNetSettings().build(digits)
    # stem 144; stages (2 304, 2 304, 256), (4 608, 9 216, 512) and (18 432, 36 864, 2 048); dense 640.
    assert kernels(model) == [144, 2304, 2304, 256, 4608, 9216, 512, 18_432, 36_864, 2048, 640]
    assert trainable(model) == 77_328 + 704 + 10  # with gammas and betas of 352 channels, and a bias
    assert model(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def test_resnet_with_three_blocks_is_resnet20() -> None:
    torch.manual_seed(3)
    expected = resnet20().state_dict()
    torch.manual_seed(3)
    data = Dataset("toy", *(torch.zeros(1, 3, 32, 32), torch.zeros(1, dtype=torch.int64)) * 2, classes=10)
    model = ResNetSettings(blocks=3).build(data)
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())


def test_resnet_refuses_rows_that_are_no_images_and_bad_sizes() -> None:
    data = Dataset("toy", *(torch.zeros(1, 5), torch.zeros(1, dtype=torch.int64)) * 2, classes=10)
    with pytest.raises(ConfigError, match="has rows of shape"):
        ResNetSettings().build(data)
    with pytest.raises(ConfigError) as caught:
        ResNetSettings(widths=(16, 0, 2), blocks=0, dropout=1.0)
    assert len(caught.value.problems) == 3


def test_wide_resnet_counts() -> None:
    with torch.device("meta"):
        model = wide_resnet()
    assert len(kernels(model)) == 29
    assert sum(kernels(model)) == 36_518_832
    assert trainable(model) == 36_539_124
    assert {norm.eps for norm in norms(model)} == {1e-5}


def test_mlp_counts() -> None:
    assert kernels(mlp(64, (32,), 10)) == [2048, 320]
    assert trainable(mlp(4, (), 3)) == 15


def test_tensorflow_padding_shifts_the_windows_of_stride_two() -> None:
    ones = {}
    for padding in ("torch", "tensorflow"):
        conv = resnet20(same_padding=padding).get_submodule("stages.1.0.conv1")
        assert isinstance(conv, nn.Conv2d)
        nn.init.ones_(conv.weight)
        ones[padding] = conv(torch.ones(1, 16, 4, 4))[0, 0] / 16
        assert conv(torch.ones(1, 16, 5, 5)).shape[-2:] == (3, 3)
    assert ones["torch"].tolist() == [[4.0, 6.0], [6.0, 9.0]]
    assert ones["tensorflow"].tolist() == [[9.0, 6.0], [6.0, 4.0]]


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], tuple[int, ...]]] = {
    "mlp": (lambda: mlp(64), lambda: torch.randn(3, 4, 1, 8, 8), (4, 10)),
    "small_cnn, colour": (small_cnn, lambda: torch.randn(3, 4, 3, 32, 32), (4, 10)),
    "small_cnn, digits": (lambda: small_cnn(1, 8), lambda: torch.randn(3, 4, 1, 8, 8), (4, 10)),
    "leaf_cnn": (leaf_cnn, lambda: torch.randn(3, 4, 1, 28, 28), (4, 62)),
    "resnet20": (resnet20, lambda: torch.randn(3, 4, 3, 16, 16), (4, 10)),
    "resnet20, tensorflow": (
        lambda: resnet20(same_padding="tensorflow"),
        lambda: torch.randn(3, 4, 3, 16, 16),
        (4, 10),
    ),
    "wide_resnet": (lambda: wide_resnet(10, 10, 1), lambda: torch.randn(3, 4, 3, 16, 16), (4, 10)),
    "char_transformer": (lambda: char_transformer(65), lambda: torch.randint(0, 65, (3, 4, 20)), (4, 20, 65)),
}


@pytest.mark.parametrize("name", CASES)
def test_stacked_with_vmap_equals_one_by_one(name: str) -> None:
    build, draw, shape = CASES[name]
    torch.manual_seed(0)
    models, x = [build() for _ in range(3)], draw()
    parameters, buffers = stack_module_state(models)
    template = build()

    def loss(parameters: dict[str, Tensor], buffers: dict[str, Tensor], x: Tensor) -> tuple[Tensor, Tensor]:
        out = functional_call(template, (parameters, buffers), (x,))
        return out.square().mean(), out

    gradients, outputs = vmap(grad(loss, has_aux=True))(parameters, buffers, x)
    for index, model in enumerate(models):
        out = model(x[index])
        assert out.shape == shape
        torch.testing.assert_close(outputs[index], out, rtol=1e-4, atol=1e-5)
        out.square().mean().backward()
        for key, parameter in model.named_parameters():
            torch.testing.assert_close(gradients[key][index], parameter.grad, rtol=1e-3, atol=1e-5)
        for key, buffer in model.named_buffers():
            torch.testing.assert_close(buffers[key][index], buffer)


@pytest.mark.parametrize("name", CASES)
def test_the_callers_seed_decides_the_initial_values(name: str) -> None:
    states = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        states.append(torch.cat([parameter.flatten() for parameter in CASES[name][0]().parameters()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


def test_no_character_sees_a_later_one() -> None:
    torch.manual_seed(0)
    model, x = char_transformer(10, sequence_length=8), torch.zeros(1, 8, dtype=torch.int64)
    changed = x.clone()
    changed[0, 5] = 3
    before, after = model(x), model(changed)
    torch.testing.assert_close(before[0, :5], after[0, :5])
    assert not torch.allclose(before[0, 5:], after[0, 5:])


def test_dropout_acts_in_training_only() -> None:
    torch.manual_seed(0)
    model, x = wide_resnet(10, 10, 1, dropout=0.5), torch.randn(2, 3, 8, 8)
    for norm in norms(model):
        nn.init.ones_(norm.weight)
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: mlp(0), "expected all to be at least 1"),
        (lambda: wide_resnet(depth=27), "expected 6 n"),
        (lambda: wide_resnet(depth=10, widen=1, dropout=1.0), "dropout is 1.0"),
        (lambda: resnet20(0), "classes=0"),
        (lambda: resnet20(same_padding="valid"), "same_padding is 'valid'"),  # type: ignore[arg-type]
        (lambda: small_cnn(size=3), "size is expected to be at least 4"),
        (lambda: char_transformer(10, width=10, heads=3), "not a multiple of 3 heads"),
        (lambda: char_transformer(0), "vocabulary is 0"),
    ],
)
def test_impossible_sizes_are_refused(build: Callable[[], nn.Module], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build()
