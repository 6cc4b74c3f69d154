"""Batch normalisation and dropout of mlp: of training alone, what is served has plain layers."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from smt.training.components.mlp import Mlp, MlpConfig


def trained(activation: str = "silu") -> Mlp:
    """With statistics of its own, and gains and biases that are not 1 and 0."""
    config = {"type": "mlp", "units": [6, 3], "activation": activation, "batch_norm": True, "dropout": 0.4}
    torch.manual_seed(1)
    module = Mlp(4, MlpConfig.model_validate(config))
    for norm in module.batch_norm:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    for _ in range(30):
        module(3 * torch.randn(64, 4) + 1)
    return module


@pytest.mark.parametrize("activation", ["relu", "gelu", "silu"])
def test_batch_norm_is_folded_into_the_layers_that_are_served(activation: str) -> None:
    module = trained(activation).eval()
    config = MlpConfig.model_validate({"type": "mlp", "units": [6, 3], "activation": activation})
    full = MlpConfig.model_validate({**config.model_dump(), "batch_norm": True, "dropout": 0.4})
    assert full.serving() == config
    served = Mlp(4, config)
    served.load_state_dict(module.exported())
    x = torch.randn(20, 4)
    torch.testing.assert_close(served(x), module(x), rtol=1e-5, atol=1e-6)
    assert served.flops() == module.flops() == 2 * (4 * 6 + 6 * 3)


def test_dropout_and_batch_statistics_act_in_training_only() -> None:
    module, x = trained(), torch.randn(500, 4)
    assert (module(x) == 0).float().mean() == pytest.approx(0.4, abs=0.05)
    module.eval()
    assert torch.equal(module(x), module(x))
    torch.testing.assert_close(module(x[:1]), module(x)[:1])


def test_two_normalisations_are_one_too_many() -> None:
    with pytest.raises(ValidationError, match="both layer_norm and batch_norm; one of them"):
        MlpConfig.model_validate({"type": "mlp", "units": [4], "layer_norm": True, "batch_norm": True})
