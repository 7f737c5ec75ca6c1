"""PyTorch modules lend and take weights."""

import warnings
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from sklearn.datasets import load_digits

from fl_main.errors import LayoutMismatchError, WeightsError
from fl_main.local import LocalRound, LocalTask, run_local
from fl_main.training import TrainResult
from fl_main.weights import Layout, Role, pack, views

if find_spec("torch"):  # without it pytest must be able to collect, and to deselect, these tests
    import torch
    from torch import nn

    from fl_main.agent.torch import get_weights, norm_layers, set_weights

pytestmark = pytest.mark.extras


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))


def same(one: Any, other: Any) -> bool:
    return one.keys() == other.keys() and all(np.array_equal(one[name], other[name]) for name in one)


# --- weights and back --------------------------------------------------------------------


def test_arrays_have_the_names_and_roles_of_the_module() -> None:
    weights = get_weights(network())
    assert list(weights) == list(network().state_dict())
    buffers = {name for name, role in weights.roles.items() if role is Role.BUFFER}
    assert buffers == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}
    assert weights["1.num_batches_tracked"].shape == ()
    assert weights["1.num_batches_tracked"].dtype == np.int64


def test_weights_are_copies() -> None:
    module = network()
    before = get_weights(module)
    kept = {name: array.copy() for name, array in before.items()}
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 1.0
    assert same(before, kept)


def test_weights_come_back_exactly_and_in_place() -> None:
    module, other = network(0), network(1)
    other[0].weight.requires_grad_(False)
    places = [tensor.data_ptr() for tensor in other.state_dict().values()]
    weights = get_weights(module)
    layout = Layout.of(weights, weights.roles)
    received = views(layout, bytes(pack(weights, layout)))  # read-only, as a task's are
    set_weights(other, received)
    assert same(get_weights(other), weights)
    assert [tensor.data_ptr() for tensor in other.state_dict().values()] == places
    assert [p.requires_grad for p in other.parameters()] == [False, True, True, True, True, True]
    with torch.no_grad():
        other[0].weight.zero_()
    assert received["0.weight"].any()


DTYPES = ["f2", "f4", "f8", "i1", "i2", "i4", "i8", "u1", "bool", ">f4", ">i8", ml_dtypes.bfloat16]


@given(data=st.data(), shape=arrays.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4))
@settings(max_examples=150)
def test_any_buffer_comes_back_bit_by_bit(data: st.DataObject, shape: tuple[int, ...]) -> None:
    dtype = np.dtype(data.draw(st.sampled_from(DTYPES)))
    raw = data.draw(arrays.arrays(np.uint8, (int(np.prod(shape)) * dtype.itemsize,)))
    array = (raw % 2 if dtype.name == "bool" else raw).view(dtype).reshape(shape)
    if data.draw(st.booleans()):
        array = np.array(array, order="F")
    module = nn.Module()
    native = dtype if dtype.name == "bfloat16" else dtype.newbyteorder("=")
    module.register_buffer("x", torch.zeros(shape, dtype=getattr(torch, native.name)))
    set_weights(module, {"x": array})
    back = get_weights(module)["x"]
    assert back.dtype == native
    assert back.tobytes() == array.astype(native).tobytes()


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_modules_of_any_precision_go_round(kind: str) -> None:
    module = network().to(getattr(torch, kind))
    weights = get_weights(module)
    assert weights["0.weight"].dtype.name == kind
    other = network(1).to(getattr(torch, kind))
    set_weights(other, weights)
    assert all(torch.equal(a, b) for a, b in zip(module.parameters(), other.parameters(), strict=True))


@pytest.mark.parametrize("kind", ["bfloat16", "float16", "float64"])
def test_floats_are_converted_to_the_precision_of_the_module(kind: str) -> None:
    module = network()
    set_weights(module, get_weights(network(1).to(getattr(torch, kind))))
    assert module[0].weight.dtype == torch.float32
    assert torch.allclose(module[0].weight, network(1)[0].weight, rtol=1e-2)


def test_memory_order_does_not_matter() -> None:
    module = network().to(memory_format=torch.channels_last)
    assert same(get_weights(module), get_weights(network()))
    set_weights(module, get_weights(network(1)))
    assert same(get_weights(module), get_weights(network(1)))


def test_a_compiled_module_has_the_names_of_the_original() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch's own, on the way to its compiler
        compiled = torch.compile(network(), backend="eager")
    assert same(get_weights(compiled), get_weights(network()))


def test_normalisation_layers_are_found_by_name() -> None:
    net = nn.ModuleDict({"body": network(), "norm": nn.LayerNorm(3), "plain": nn.InstanceNorm1d(3)})
    assert norm_layers(net) == ["body.1", "norm"]  # the last one has nothing to keep
    kept = get_weights(net, private=norm_layers(net)).roles
    assert {name for name, role in kept.items() if role is Role.PRIVATE} == {
        *(
            f"body.1.{what}"
            for what in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
        ),
        "norm.weight",
        "norm.bias",
    }


# --- tied weights ------------------------------------------------------------------------


def tied() -> Any:
    module = nn.ModuleDict({"encoder": nn.Embedding(5, 3), "decoder": nn.Linear(3, 5, bias=False)})
    module["decoder"].weight = module["encoder"].weight
    return module


def test_tied_weights_travel_once_and_stay_tied() -> None:
    module = tied()
    assert list(get_weights(module)) == ["encoder.weight"]
    set_weights(module, {"encoder.weight": np.ones((5, 3), np.float32)})
    assert module["decoder"].weight is module["encoder"].weight
    assert bool((module["decoder"].weight == 1).all())


def test_tied_weights_are_private_under_all_names_or_none() -> None:
    with pytest.raises(WeightsError, match=r"'encoder.weight' and 'decoder.weight' are one tensor"):
        get_weights(tied(), private="decoder")
    assert get_weights(tied(), private=["encoder", "decoder"]).roles == {"encoder.weight": Role.PRIVATE}


# --- what stays at the site --------------------------------------------------------------


@pytest.mark.parametrize("private", ["1", ["1"], ("1.*",), {"1.weight", "1.bias", "1.r*", "1.num_*"}])
def test_private_arrays_are_named_by_module_name_or_wildcard(private: Any) -> None:
    weights = get_weights(network(), private)
    hidden = {name for name, role in weights.roles.items() if role is Role.PRIVATE}
    assert hidden == {name for name in weights if name.startswith("1.")}


def test_missing_private_arrays_stay_as_they_are() -> None:
    module, other = network(0), network(1)
    with torch.no_grad():
        other[1].weight.fill_(7.0)
    sent = get_weights(module, private="1")
    set_weights(other, {name: sent[name] for name in sent if not name.startswith("1.")}, private="1")
    assert np.array_equal(get_weights(other)["0.weight"], sent["0.weight"])
    assert bool((other[1].weight == 7.0).all())
    set_weights(other, sent, private="1")  # all of one's own weights, as kept before
    assert bool((other[1].weight == 1.0).all())


@pytest.mark.parametrize("private", ["head", "10", "1.weigh", ["0", "bn"]])
def test_a_private_name_that_matches_nothing_is_an_error(private: Any) -> None:
    for call in (lambda: get_weights(network(), private), lambda: set_weights(network(), {}, private)):
        with pytest.raises(WeightsError, match="matches no array of the module"):
            call()


# --- what does not fit -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"0.weight": None}, "array '0.weight' of the module is missing (1 missing in all)"),
        ({"2.weight": np.ones(3)}, "array '2.weight' is not part of the module (1 too many in all)"),
        ({"0.bias": np.ones(3)}, "array '0.bias' has shape [3], but in the module it has [8]"),
        (
            {"1.num_batches_tracked": np.array(2.7)},
            "array '1.num_batches_tracked' is float64, but in the module it is torch.int64",
        ),
        ({"0.bias": np.ones(8, int)}, "array '0.bias' is int64, but in the module it is torch.float32"),
    ],
)
def test_wrong_weights_are_told_in_one_line_and_change_nothing(change: dict[str, Any], text: str) -> None:
    module = network()
    before = get_weights(module)
    weights = {name: array + 1 for name, array in before.items()} | change
    with pytest.raises(LayoutMismatchError) as caught:
        set_weights(module, {name: array for name, array in weights.items() if array is not None})
    assert str(caught.value) == text
    assert same(get_weights(module), before)


def with_extra_state() -> Any:
    return type("Extra", (nn.Linear,), {"get_extra_state": lambda self: {"a": 1}})(2, 2)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda: nn.Sequential(nn.LazyLinear(3)), "'0.weight' has no shape yet: run one batch"),
        (lambda: network().to("meta"), "'0.weight' is on the meta device"),
        (lambda: nn.Linear(2, 2).to(torch.float8_e4m3fn), r"'weight' \(torch.float8_e4m3fn\) cannot be sent"),
        (with_extra_state, "'_extra_state' is no parameter or buffer; name it in private"),
    ],
)
def test_what_cannot_be_sent_is_told_in_one_line(make: Callable[[], Any], text: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # "Lazy modules are a new feature"
        module = make()
    with pytest.raises(WeightsError, match=text):
        get_weights(module)


def test_extra_state_may_stay_at_the_site() -> None:
    assert list(get_weights(with_extra_state(), private="_extra_state")) == ["weight", "bias"]


# --- federated training ------------------------------------------------------------------

Batch = tuple[Any, Any]


def digits() -> tuple[dict[str, Batch], Batch]:
    x, y = load_digits(return_X_y=True)
    images, labels = torch.tensor(x / 16.0, dtype=torch.float32).reshape(-1, 1, 8, 8), torch.tensor(y)
    sites = {f"site-{i}": (images[i:1200:3], labels[i:1200:3]) for i in range(3)}
    return sites, (images[1200:], labels[1200:])


def fit(module: Any, batch: Batch, seed: int) -> None:
    images, labels = batch
    torch.manual_seed(seed)
    module.train()
    optimizer = torch.optim.SGD(module.parameters(), lr=0.1)
    for part in torch.randperm(len(labels)).split(32):
        optimizer.zero_grad()
        nn.functional.cross_entropy(module(images[part]), labels[part]).backward()
        optimizer.step()


def accuracy(module: Any, batch: Batch) -> float:
    module.eval()
    with torch.no_grad():
        return float((module(batch[0]).argmax(1) == batch[1]).float().mean())


def test_a_network_with_batch_norm_is_trained_federatedly() -> None:
    sites, test = digits()
    module = network()

    def train(task: LocalTask) -> TrainResult:
        set_weights(module, task.weights)
        fit(module, task.data, task.seed)
        return TrainResult(get_weights(module), len(task.data[1]))

    done = run_local(train, sites, get_weights(module), rounds=6)
    set_weights(module, done.weights)
    assert accuracy(module, test) > 0.88
    assert int(module[1].num_batches_tracked) == 6 * 13  # 400 images in batches of 32


def test_private_batch_norm_never_leaves_its_site() -> None:
    sites, test = digits()
    modules = {name: network() for name in sites}
    kept: dict[str, Any] = {}

    def train(task: LocalTask) -> TrainResult:
        module = modules[task.site]
        if task.site in kept:  # what it gets back is its own
            assert same(kept[task.site], {name: task.weights[name] for name in kept[task.site]})
        set_weights(module, task.weights, private="1")
        fit(module, task.data, task.seed)
        weights = get_weights(module, private="1")
        kept[task.site] = {name: weights[name].copy() for name in weights if name.startswith("1.")}
        return TrainResult(weights, len(task.data[1]))

    def gone(made: LocalRound) -> None:
        assert set(made.weights) == public

    public = {"0.weight", "0.bias", "4.weight", "4.bias"}
    done = run_local(train, sites, get_weights(network(), private="1"), rounds=6, on_round=gone)
    assert set(done.weights) == public
    means = {name: get_weights(module)["1.running_mean"] for name, module in modules.items()}
    assert not np.array_equal(means["site-0"], means["site-1"])
    for module in modules.values():
        set_weights(module, done.weights, private="1")
        assert accuracy(module, test) > 0.85


def test_a_model_in_bfloat16_is_trained_federatedly() -> None:
    sites, test = digits()
    module = network().to(torch.bfloat16)

    def train(task: LocalTask) -> TrainResult:
        set_weights(module, task.weights)
        fit(module, (task.data[0].bfloat16(), task.data[1]), task.seed)
        return TrainResult(get_weights(module), len(task.data[1]))

    done = run_local(train, sites, get_weights(module), rounds=4)
    set_weights(module, done.weights)
    assert accuracy(module, (test[0].bfloat16(), test[1])) > 0.8


# --- adapters ----------------------------------------------------------------------------


def adapted(base: Any, rank: int) -> Any:
    """y = W x + B A x: W is frozen, the low-rank A and B are trained."""

    class Adapted(nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.base = base.requires_grad_(False)
            self.lora_a = nn.Parameter(torch.randn(rank, base.in_features) / rank)
            self.lora_b = nn.Parameter(torch.zeros(base.out_features, rank))

        def forward(self, x: Any) -> Any:
            return self.base(x) + x @ self.lora_a.T @ self.lora_b.T

    return Adapted()


def test_adapters_are_trained_together_on_a_base_that_stays_at_the_sites() -> None:
    sites, test = digits()
    torch.manual_seed(0)
    pretrained = nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))
    for seed in range(8):
        fit(pretrained, sites["site-0"], seed)
    module = nn.Sequential(nn.Flatten(), adapted(pretrained[1], 8), nn.ReLU(), adapted(pretrained[3], 8))
    before = accuracy(module, test)
    assert before == accuracy(pretrained, test)
    base = {name: array for name, array in get_weights(module).items() if "lora" not in name}

    def train(task: LocalTask) -> TrainResult:
        set_weights(module, task.weights)
        fit(module, task.data, task.seed)
        return TrainResult(get_weights(module), len(task.data[1]))

    done = run_local(
        train, sites, get_weights(module), rounds=8, settings={"compression": {"arrays": ["*.lora_?"]}}
    )
    assert same({name: done.weights[name] for name in base}, base)
    set_weights(module, done.weights)
    assert accuracy(module, test) > before + 0.02
    adapters = 4 * (8 * (64 + 32) + 8 * (32 + 10))  # bytes of float32
    assert done.bytes_up == 8 * 3 * adapters
