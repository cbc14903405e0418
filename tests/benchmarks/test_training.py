"""The benchmark of training: PyTorch's loop goes where JAX is."""

import importlib.util

import jax
import pytest
from flax import nnx

from benchmarks import contenders, training
from nag_optax.train.data import load_dataset
from nag_optax.train.models import make_model
from nag_optax.train.options import Options
from nag_optax.train.spec import resolve


@pytest.mark.parametrize("model", ["mlp", "cnn"])
def test_model_data_and_optimizer_are_on_the_device(model, monkeypatch):
    """A device without memory, which refuses arrays of another device."""
    torch = pytest.importorskip("torch", reason="torch is in the extra bench, not in test")
    sgd, built = torch.optim.SGD, []

    def unfused(params, **options):
        assert options.pop("fused")  # which has no form for this device
        built.append(sgd(params, **options))
        return built[-1]

    monkeypatch.setattr(torch.optim, "SGD", unfused)
    spec = resolve(Options(model=model))
    run = training.torch_loop(spec, load_dataset(spec), 2, "meta", lambda model: model)
    run(1)
    (optimizer,) = built
    state = [value["momentum_buffer"] for value in optimizer.state.values()]
    assert state and {tensor.device.type for tensor in state} == {"meta"}


@pytest.mark.parametrize("model", ["mlp", "cnn", "resnet18"])
def test_both_models_have_as_many_parameters(model):
    pytest.importorskip("torchvision", reason="torch and torchvision are in the extra bench, not in test")
    shape, classes = (32, 32, 3), 10
    theirs = training.torch_model(model, shape, classes)
    ours = nnx.eval_shape(lambda: make_model(model, shape, classes, seed=0))
    count = sum(leaf.size for leaf in jax.tree.leaves(nnx.state(ours, nnx.Param)))
    assert count == sum(parameter.numel() for parameter in theirs.parameters())


def test_a_comparison_across_devices_is_refused(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    monkeypatch.setattr(contenders, "torch_device", lambda: None)
    with pytest.raises(SystemExit, match=f"torch does not see the {jax.default_backend()} that JAX uses"):
        training.main([])


@pytest.mark.parametrize(("ratio", "said"), [(0.85, "met"), (0.86, "missed")])
def test_the_page_says_whether_the_goal_is_met(ratio, said):
    result = {"machine": {"backend": "cpu"}, "model": "cnn"}
    lines = training.goal(result | {"loops": {training.TORCH: {"nag_optax_ratio": ratio}}})
    assert lines == [f"Goal: at most 0.85 of the PyTorch loop's time. It is {said}."]
