"""What a run's strategy asks of the training of a PyTorch module, as a term or a hook.

Beside its training loop a program needs a few calls:

    correction = TorchCorrection(net, task)
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    correction.attach(optimizer)                       # a hook: the loop stays as it is; or
    loss = loss_of(net(x), y) + correction.term()      # a term of the loss
    …
    task.submit(get_weights(net), n, **correction.answer(get_weights(net), num_steps=…, learning_rate=0.1))
"""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from typing import Any

import numpy as np

from fl_main.corrections import Correction, Pull, correction_of
from fl_main.corrections.base import Lazy, Part
from fl_main.errors import LayoutMismatchError, LocalProtocolError
from fl_main.training import TrainingTask
from fl_main.weights import Array

from .torch import tensor_of, torch

__all__ = ["TorchCorrection", "fisher_of"]

# Where torch.compile, (Distributed)DataParallel and Opacus keep the module that they wrap.
_WRAPPED = ("_orig_mod", "module", "_module")


@dataclass(frozen=True, slots=True)
class _TensorPull:
    """A `Pull` of one parameter, on its device and in its type."""

    parameter: torch.nn.Parameter
    curvature: torch.Tensor
    center: torch.Tensor
    slope: torch.Tensor

    def gradient(self) -> torch.Tensor:
        return self.curvature * (self.parameter.detach() - self.center) + self.slope

    def term(self) -> torch.Tensor:
        # Of the parameter itself: of a copy of its data the value would be right, and the gradient 0.
        away = self.parameter - self.center
        return (self.curvature / 2 * away.square() + self.slope * self.parameter).sum()


class TorchCorrection:
    """`fl_main.corrections` for a module: made once for each task, after `set_weights`.

    Only parameters that require a gradient are corrected. Without a strategy that asks for
    something it corrects nothing.

    Args:
        net: The module, on its device; also what `torch.compile`, `DataParallel` or Opacus made of one.
        task: The training task.
        correction: What to add instead of what the run's strategy asks for: `fl_main.personal.Ditto`.

    Raises:
        SettingsError: If the task asks for something that cannot be.
        LayoutMismatchError: If the module lacks an array that is to be corrected, or has it in another
            shape than the run's model.
    """

    def __init__(
        self, net: torch.nn.Module, task: TrainingTask, correction: Correction | None = None
    ) -> None:
        self._correction = correction or correction_of(task)
        pulls = self._correction.pulls
        parameters = _trained(_unwrapped(net, pulls.keys()))
        self._pulls = [
            _on(parameters[name], name, pull, task.weights[name].shape)
            for name, pull in pulls.items()
            if name in parameters  # else it does not require a gradient, or is a buffer
        ]

    @property
    def name(self) -> str:
        """As the run's strategy calls it; empty for none."""
        return self._correction.name

    def term(self) -> torch.Tensor:
        """Return what is to be added to the loss, but for a constant: a scalar with a gradient."""
        terms = [pull.term() for pull in self._pulls]
        if not terms:
            return torch.zeros(())
        return torch.stack([term.to(terms[0].device, terms[0].dtype) for term in terms]).sum()

    def add_to_gradients(self) -> None:
        """Add the gradient of `term` to those that `backward()` left, in place; call it once a step."""
        with torch.no_grad():
            for pull in self._pulls:
                if pull.parameter.grad is None:  # the loss did not depend on it; the term does
                    pull.parameter.grad = pull.gradient()
                else:
                    pull.parameter.grad += pull.gradient()

    def attach(self, optimizer: torch.optim.Optimizer) -> Any:
        """Call `add_to_gradients` before each step of an optimizer, after whatever clips gradients.

        A step with a closure, as of LBFGS, computes its gradients after that: it raises LocalProtocolError,
        and `term` is what goes with it.

        Returns:
            A handle, whose `remove()` ends that.
        """
        return optimizer.register_step_pre_hook(self._before_step)

    def _before_step(self, optimizer: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        if self._pulls and any(map(callable, (*args, kwargs.get("closure")))):
            raise LocalProtocolError(
                "correction.attach: optimizer.step(closure) computes its gradients when the correction was "
                "added already, and the training would not be what the run asks for; add correction.term() "
                "to the loss in the closure instead"
            )
        self.add_to_gradients()

    def answer(
        self,
        weights: Mapping[str, Any],
        *,
        num_steps: int | None = None,
        learning_rate: float | None = None,
        gradient: Lazy | None = None,
        fisher: Lazy | None = None,
        state: Mapping[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return what goes with the update; see `fl_main.corrections.Correction.answer`."""
        return self._correction.answer(
            weights,
            num_steps=num_steps,
            learning_rate=learning_rate,
            gradient=gradient,
            fisher=fisher,
            state=state,
        )


def fisher_of(net: torch.nn.Module, losses: Iterable[torch.Tensor]) -> dict[str, Array]:
    """Return the diagonal of the empirical Fisher information of a module: the mean of squared gradients.

    Args:
        net: The module; its gradients stay as they are.
        losses: Negative log-likelihood of one example each, made while they are taken: a generator.

    Returns:
        One array per parameter, float32, in main memory; 0 where it requires no gradient and stays.

    Raises:
        LocalProtocolError: If there is no loss.
    """
    trained = _trained(net)
    sums = {
        name: torch.zeros_like(parameter, dtype=torch.float32) for name, parameter in _parameters(net).items()
    }
    examples = 0
    for loss in losses:
        examples += 1
        gradients = torch.autograd.grad(loss, list(trained.values()), allow_unused=True)
        for name, gradient in zip(trained, gradients, strict=True):
            if gradient is not None:
                sums[name] += gradient.float().square()
    if not examples:
        raise LocalProtocolError("the Fisher information needs the loss of one example at least")
    return {name: (total / examples).cpu().numpy() for name, total in sums.items()}


def _parameters(net: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return the parameters, each once, by the names of `get_weights`."""
    module = getattr(net, "_orig_mod", net)  # torch.compile puts a prefix before every name
    return dict(module.named_parameters())


def _trained(net: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """Return those that require a gradient."""
    return {name: parameter for name, parameter in _parameters(net).items() if parameter.requires_grad}


def _unwrapped(net: torch.nn.Module, names: Set[str]) -> torch.nn.Module:
    """Return the module itself, or the one within its wrappers, that has arrays of all these names.

    Raises:
        LayoutMismatchError: If there is none: a correction of other names would silently do nothing.
    """
    module: torch.nn.Module | None = net
    while module is not None:
        named = (*module.named_parameters(remove_duplicate=False), *module.named_buffers())
        if names <= {name for name, _ in named}:
            return module
        children = dict(module.named_children())
        module = next((children[name] for name in _WRAPPED if name in children), None)
    own = {name for name, _ in net.named_parameters()}
    raise LayoutMismatchError(
        f"array {min(names - own)!r} is to be corrected, but the module has none of this name; it has "
        f"{', '.join(sorted(own)[:4]) or 'no parameters'}: give the module that get_weights was given"
    )


def _on(parameter: torch.nn.Parameter, name: str, pull: Pull, shape: tuple[int, ...]) -> _TensorPull:
    """Return a pull as tensors beside a parameter."""
    if tuple(parameter.shape) != shape:
        raise LayoutMismatchError(
            f"array {name!r} has shape {list(shape)}, but in the module it has {list(parameter.shape)}"
        )

    def tensor(part: Part) -> torch.Tensor:
        return tensor_of(np.asarray(part)).to(parameter.device, parameter.dtype)

    return _TensorPull(parameter, tensor(pull.curvature), tensor(pull.center), tensor(pull.slope))
