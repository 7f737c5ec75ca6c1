"""Corrections of PyTorch modules: their gradients against the analytic ones."""

import warnings
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest

from fl_main.corrections import correction_of
from fl_main.errors import LayoutMismatchError, LocalProtocolError
from fl_main.local import LocalTask, run_local
from fl_main.personal import Ditto
from fl_main.training import TrainResult
from fl_main.weights import Array
from tests.fl_main.corrections.tasks import Site, descend, optimum, task_of

if find_spec("torch"):  # without it pytest must be able to collect, and to deselect, these tests
    import torch
    from torch import nn

    from fl_main.agent.torch import get_weights, set_weights
    from fl_main.agent.torch_correction import TorchCorrection, fisher_of

pytestmark = pytest.mark.extras

ASKED: dict[str, dict[str, Any]] = {
    "fedprox": {"name": "fedprox", "mu": 0.7},
    "scaffold": {"name": "scaffold", "option": 2},
    "feddyn": {"name": "feddyn", "alpha": 0.3},
    "fedcurv": {"name": "fedcurv", "lam": 0.4},
}


def network(seed: int = 0) -> Any:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)).double()


def noise(weights: dict[str, Array], seed: int) -> dict[str, Array]:
    random = np.random.default_rng(seed)
    return {name: random.normal(size=array.shape) for name, array in weights.items()}


def in_the_middle(name: str, net: Any) -> LocalTask:
    """Return a task of a run that has been under way, with this module as its global model."""
    weights = get_weights(net)
    trained = tuple(key for key in weights if key not in weights.roles or "running" not in key)
    trained = tuple(key for key in trained if weights[key].dtype.kind == "f")
    of_trained = {key: weights[key] for key in trained}
    fisher = {key: abs(array) for key, array in noise(of_trained, 1).items()}
    sums = {"fisher": fisher, "weighted": noise(of_trained, 2), "control": noise(of_trained, 3)}
    kept = {f"scaffold run control/{key}": array for key, array in noise(of_trained, 4).items()}
    kept |= {f"feddyn run gradient/{key}": array for key, array in noise(of_trained, 5).items()}
    return task_of(ASKED[name], weights, trained=trained, channels=sums, state=kept)


def moved(net: Any) -> Any:
    """Move a module away from where it is."""
    with torch.no_grad():
        for parameter in net.parameters():
            parameter += torch.randn_like(parameter)
    return net


def gradients(net: Any) -> dict[str, Array]:
    return {name: parameter.grad.numpy().copy() for name, parameter in net.named_parameters()}


def loss_of(net: Any) -> Any:
    torch.manual_seed(7)
    return net(torch.randn(5, 3, dtype=torch.float64)).square().mean()


@pytest.mark.parametrize("name", ASKED)
def test_the_terms_gradient_is_the_analytic_one(name: str) -> None:
    """It would be 0 if the term were computed from detached data, with the right value all the same."""
    net = network()
    task = in_the_middle(name, net)
    correction = TorchCorrection(moved(net), task)
    term = correction.term()
    term.backward()
    at = get_weights(net)
    numpy = correction_of(task)
    for key, analytic in numpy.gradient(at).items():
        np.testing.assert_allclose(gradients(net)[key], analytic, rtol=1e-12)
        assert np.abs(analytic).max() > 0
    assert term.item() == pytest.approx(numpy.term(at))


@pytest.mark.parametrize("name", ASKED)
def test_a_penalty_of_detached_data_would_be_caught(name: str) -> None:
    net = network()
    correction = TorchCorrection(moved(net), in_the_middle(name, net))
    with torch.no_grad():  # as if it were made of parameter.data
        detached = correction.term()
    assert not detached.requires_grad
    assert correction.term().requires_grad


@pytest.mark.parametrize("name", ASKED)
def test_autograd_and_numeric_differentiation_agree(name: str) -> None:
    net = network()
    correction = TorchCorrection(moved(net), in_the_middle(name, net))
    parameters = [parameter for parameter in net.parameters() if parameter.requires_grad]
    correction.term().backward()
    step = 1e-4
    for parameter in parameters:
        with torch.no_grad():
            flat = parameter.view(-1)
            for place in range(flat.numel()):
                flat[place] += step
                up = correction.term().item()
                flat[place] -= 2 * step
                down = correction.term().item()
                flat[place] += step
                slope = (up - down) / (2 * step)
                assert slope == pytest.approx(parameter.grad.view(-1)[place].item(), rel=1e-6, abs=1e-6)


@pytest.mark.parametrize("name", ASKED)
def test_the_hook_makes_the_same_step_as_the_term(name: str) -> None:
    models = []
    for way in ("term", "hook"):
        net = network()
        task = in_the_middle(name, net)
        torch.manual_seed(1)
        optimizer = torch.optim.SGD(moved(net).parameters(), lr=0.1, momentum=0.9)
        correction = TorchCorrection(net, task)
        if way == "hook":
            correction.attach(optimizer)
        for _ in range(3):
            optimizer.zero_grad()
            loss = loss_of(net)
            (loss + correction.term() if way == "term" else loss).backward()
            optimizer.step()
        models.append(get_weights(net))
    for key, array in models[0].items():
        np.testing.assert_allclose(models[1][key], array, rtol=1e-10, atol=1e-12)


def test_a_hook_can_be_removed() -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    task = in_the_middle("scaffold", net)
    TorchCorrection(net, task).attach(optimizer).remove()
    before = get_weights(net)
    optimizer.zero_grad()
    optimizer.step()
    assert all(np.array_equal(before[key], array) for key, array in get_weights(net).items())


@pytest.mark.parametrize("by_name", [False, True])
def test_a_step_with_a_closure_is_refused_as_its_gradients_come_after_the_hook(by_name: bool) -> None:
    net = network()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)

    def closure() -> Any:
        optimizer.zero_grad()
        (loss := loss_of(net)).backward()
        return loss

    handle = TorchCorrection(net, in_the_middle("scaffold", net)).attach(optimizer)
    with pytest.raises(LocalProtocolError, match=r"add correction.term\(\) to the loss"):
        optimizer.step(closure=closure) if by_name else optimizer.step(closure)
    handle.remove()
    TorchCorrection(net, task_of({}, get_weights(net))).attach(optimizer)  # nothing is asked for
    optimizer.step(closure)


def test_a_parameter_that_the_loss_does_not_see_is_corrected_too() -> None:
    net = network()
    task = in_the_middle("fedprox", net)
    correction = TorchCorrection(moved(net), task)
    correction.add_to_gradients()  # no backward before
    for key, analytic in correction_of(task).gradient(get_weights(net)).items():
        np.testing.assert_allclose(gradients(net)[key], analytic, rtol=1e-12)


def test_what_is_not_trained_is_left_alone() -> None:
    net = network()
    task = in_the_middle("fedprox", net)
    net[0].requires_grad_(False)
    correction = TorchCorrection(moved(net), task)
    correction.term().backward()
    assert net[0].weight.grad is None
    assert net[3].weight.grad is not None


def test_without_a_strategy_that_asks_nothing_changes() -> None:
    net = network()
    correction = TorchCorrection(net, task_of({}, get_weights(net)))
    assert (correction.name, correction.term().item()) == ("", 0.0)
    correction.add_to_gradients()
    assert all(parameter.grad is None for parameter in net.parameters())
    assert correction.answer(get_weights(net), num_steps=2)["channels"] == {}
    (loss_of(net) + correction.term()).backward()


def test_names_are_those_of_the_module_that_was_compiled() -> None:
    net = network()
    task = in_the_middle("fedprox", net)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        compiled = torch.compile(moved(net))
    correction = TorchCorrection(compiled, task)
    assert correction.term().requires_grad


def test_a_module_in_a_wrapper_is_corrected_under_its_own_names() -> None:
    class Private(nn.Module):  # type: ignore[misc] # as Opacus does it
        def __init__(self, module: Any) -> None:
            super().__init__()
            self._module = module

    net = network()
    task = in_the_middle("fedprox", net)
    expected = TorchCorrection(moved(net), task).term().item()
    assert expected > 0
    for wrapped in (nn.DataParallel(net), Private(net), Private(nn.DataParallel(net))):
        assert TorchCorrection(wrapped, task).term().item() == expected


def test_a_module_of_other_names_is_refused() -> None:
    task = in_the_middle("fedprox", network())
    other = nn.ModuleDict({"body": network()})
    with pytest.raises(LayoutMismatchError, match=r"'0.bias' is to be corrected, .* it has body.0.bias"):
        TorchCorrection(other, task)
    TorchCorrection(other, task_of({}, task.weights))  # where nothing is asked for, names do not matter


def test_a_personal_model_is_pulled_to_the_global_one() -> None:
    net = network()
    task = in_the_middle("scaffold", net)  # whatever the run's strategy asks for
    ditto = Ditto(task, 0.5)
    TorchCorrection(moved(net), task, ditto).term().backward()
    for key, analytic in ditto.gradient(get_weights(net)).items():
        np.testing.assert_allclose(gradients(net)[key], analytic, rtol=1e-12)
        np.testing.assert_allclose(analytic, 0.5 * (get_weights(net)[key] - task.weights[key]))


def test_another_shape_is_refused() -> None:
    net = network()
    task = in_the_middle("fedprox", net)
    wide = nn.Sequential(nn.Linear(3, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 1)).double()
    with pytest.raises(LayoutMismatchError, match=r"'0.weight' has shape \[4, 3\], but .* \[5, 3\]"):
        TorchCorrection(wide, task)


def test_fisher_is_the_mean_of_squared_gradients_of_the_examples() -> None:
    net = nn.Linear(2, 1, bias=False).double()
    inputs = torch.tensor([[1.0, 2.0], [3.0, -4.0]], dtype=torch.float64)
    found = fisher_of(net, (net(row).sum() for row in inputs))  # the gradient of each is the row
    np.testing.assert_array_equal(found["weight"], [[5.0, 10.0]])  # (1 + 9) / 2, (4 + 16) / 2
    assert all(parameter.grad is None for parameter in net.parameters())
    with pytest.raises(LocalProtocolError, match="one example at least"):
        fisher_of(net, [])


def test_a_parameter_that_requires_no_gradient_has_no_fisher_information() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    net[0].requires_grad_(False)
    found = fisher_of(net, [net(torch.ones(2)).sum()])
    assert {name: bool(array.any()) for name, array in found.items()} == {
        "0.weight": False,
        "0.bias": False,
        "1.weight": True,
        "1.bias": True,
    }
    correction = TorchCorrection(net, task_of(ASKED["fedcurv"], get_weights(net)))
    answer = correction.answer(get_weights(net), fisher=found)  # the run trains all four
    assert answer["channels"]["fisher"].keys() == found.keys()


@pytest.mark.parametrize(
    ("strategy", "options"),
    [("scaffold", {}), ("feddyn", {"alpha": 2.0}), ("fedprox", {"mu": 1.0}), ("fedcurv", {"lam": 0.1})],
)
def test_a_module_trains_to_the_same_point_as_arrays(strategy: str, options: dict[str, float]) -> None:
    sites: dict[str, Site] = {"one": (1.0, 0.0), "two": (4.0, 1.0), "three": (2.0, -3.0)}

    def train(task: LocalTask) -> TrainResult:
        a, b = task.data
        net = nn.ParameterDict({"w": torch.zeros(1, dtype=torch.float64)})
        set_weights(net, task.weights)
        correction = TorchCorrection(net, task)
        optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
        correction.attach(optimizer)
        for _ in range(5):
            optimizer.zero_grad()
            (a / 2 * (net["w"] - b).square()).sum().backward()
            optimizer.step()
        weights = get_weights(net)
        answer = correction.answer(
            weights, num_steps=5, learning_rate=0.1, fisher=lambda: {"w": np.array([a])}
        )
        return TrainResult(weights, 1, **answer)

    ends = [
        run_local(
            training, sites, {"w": np.zeros(1)}, rounds=60, strategy=strategy, strategy_options=options
        ).weights["w"][0]
        for training in (train, descend(0.1, 5))
    ]
    assert ends[0] == pytest.approx(ends[1], abs=1e-12)
    if strategy in ("scaffold", "feddyn"):
        assert ends[0] == pytest.approx(optimum(sites), abs=1e-3)
