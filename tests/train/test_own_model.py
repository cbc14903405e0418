"""Parts of one's own, such as a model in Flax's usual form: lists of layers, a dropout that draws."""

from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from nag_optax.layers.convolution import conv_general_dilated
from nag_optax.train import registry
from nag_optax.train.checkpoints import Checkpoints
from nag_optax.train.errors import InputError
from nag_optax.train.models import make_model
from nag_optax.train.rows import HiddenLayer, Model
from tests.train.test_loop import make_loop, numbers
from tests.train.test_pruning import units_of

LAYER = HiddenLayer("layers/0", "norms/0", "layers/1")


class Net(nnx.Module):
    def __init__(self, image_shape: Any, num_classes: int, *, widths: tuple[int], rngs: nnx.Rngs):
        sizes = [(int(np.prod(image_shape)), *widths), (*widths, 8)]
        self.layers = nnx.List([nnx.Linear(*size, rngs=rngs) for size in sizes])
        self.norms = nnx.List([nnx.BatchNorm(outputs, rngs=rngs) for _, outputs in sizes])
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.head = nnx.Linear(8, num_classes, rngs=rngs)

    def __call__(self, images: jax.Array, *, train: bool, rngs: Any = None) -> jax.Array:
        x = images.reshape(len(images), -1)
        for layer, norm in zip(self.layers, self.norms, strict=True):
            x = nnx.relu(norm(layer(x), use_running_average=not train))
        return self.head(self.dropout(x, deterministic=not train))


def test_it_is_pruned_and_frozen_and_its_draws_go_on_from_a_checkpoint(monkeypatch, tmp_path):
    monkeypatch.setitem(registry.MODELS, "own", Model(Net, hidden_layers=(LAYER,), widths=(12,)))
    loop = make_loop(model="own", optimizer="sgd", prune="group_l2=1e3", freeze=("layers/1", "norms/1"))
    state = loop.run_chunk(loop.init(), 2)
    Checkpoints(tmp_path).save(2, state, {})
    restored = Checkpoints(tmp_path).restore(loop.init(), print)
    assert restored is not None and int(state.model_state["dropout"]["rngs"]["count"]) == 2
    pruned: Any = loop.pruned(state)
    trained, fixed = (norm["mean"] for norm in state.model_state["norms"].values())
    assert trained.any() and not fixed.any()
    assert (units_of(state.params, LAYER) == 0).all() and pruned.zero_units["layers/0"].all()
    assert pruned.model.layers[0].kernel.shape[1] == 1  # One unit stays where all are zero.

    on, again = (numbers(loop.run_chunk(s, 2)) for s in (state, restored.state))
    for name, value in on.items():
        np.testing.assert_array_equal(again[name], value, err_msg=name)


class Plain(nnx.Module):
    def __init__(self, image_shape: Any, num_classes: int, rngs: nnx.Rngs):
        self.head = nnx.Linear(int(np.prod(image_shape)), num_classes, rngs=rngs)

    def __call__(self, images: jax.Array) -> jax.Array:
        return self.head(images.reshape(len(images), -1))


def nothing(_: Any) -> None:
    """A factory whose return was forgotten."""


def no_model(image_shape: Any, num_classes: int, *, rngs: nnx.Rngs) -> None:
    """A model's factory whose return was forgotten."""


def faulty(learning_rate: Any) -> Any:
    return learning_rate + 1


@pytest.mark.parametrize(
    ("fields", "why", "call"),
    [
        (
            {"optimizer": "optax:lbfgs"},
            "'grad' and 'value_fn'",
            "update.gradients, state, params, value=loss",
        ),
        ({"optimizer": "optax:identity"}, "too many positional arguments", "factory.learning_rate"),
        ({"optimizer": "snoo", "inner": "optax:identity"}, "too many positional arguments", "factory"),
        (
            {"model": f"{__name__}:Net"},
            "missing a required .*'widths'",
            "factory.image_shape, num_classes, rngs",
        ),
        ({"model": f"{__name__}:Plain"}, "'train'", "model.images, train=train, rngs"),
        ({"dataset": "os:getcwd"}, "too many positional arguments", "load.request"),
        ({"optimizer": f"{__name__}:nothing"}, "returns NoneType.*", "factory.learning_rate"),
        ({"dataset": f"{__name__}:nothing"}, "returns NoneType", "load.request"),
        ({"model": f"{__name__}:no_model"}, "None is not a callable object", "model.images"),
    ],
    ids=["update", "optimizer", "inner", "model", "call", "dataset", "no optimizer", "no data", "no model"],
)
def test_what_takes_other_arguments_is_named_in_one_line(fields: dict[str, Any], why: str, call: str):
    option, name = list(fields.items())[-1]
    with pytest.raises(InputError, match=f"^--{option} {name}: .*{why}; the trainer calls {call}"):
        make_loop(**fields)


def test_an_optimizer_may_hold_the_parameters_themselves():
    loop = make_loop(optimizer="optax.contrib:cocob")
    first, second = loop.init(), loop.init()
    assert loop.is_finite(loop.run_chunk(first, 1)) and loop.is_finite(second)


def test_a_fault_inside_of_it_keeps_its_traceback():
    with pytest.raises(TypeError, match="unsupported operand"):
        make_loop(optimizer=f"{__name__}:faulty")


def test_its_convolutions_take_the_form_that_is_fast_on_a_cpu(monkeypatch):
    def its_own(*args: Any, **kwargs: Any) -> jax.Array:
        return jax.lax.conv_general_dilated(*args, **kwargs)

    class Convolutions(nnx.Module):
        def __init__(self, image_shape: Any, num_classes: int, *, rngs: nnx.Rngs):
            self.plain = nnx.Conv(image_shape[2], 2, (3, 3), rngs=rngs)
            self.special = nnx.Conv(2, num_classes, (3, 3), conv_general_dilated=its_own, rngs=rngs)

        def __call__(self, images: jax.Array, *, train: bool, rngs: Any = None) -> jax.Array:
            return self.special(self.plain(images)).mean((1, 2))

    monkeypatch.setitem(registry.MODELS, "own", Model(Convolutions))
    model: Any = make_model("own", (8, 8, 1), 2, seed=0)
    assert model.plain.conv_general_dilated is conv_general_dilated
    assert model.special.conv_general_dilated is its_own
