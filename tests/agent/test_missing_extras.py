"""What a user reads whose environment lacks an optional package."""

import sys
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from fl_main.errors import MissingExtraError


@pytest.mark.parametrize(
    ("module", "package", "text"),
    [
        ("fl_main.agent.torch", "torch", "PyTorch is not installed: pip install 'fl_main[torch]'"),
        (
            "fl_main.agent.torch_correction",
            "torch",
            "PyTorch is not installed: pip install 'fl_main[torch]'",
        ),
        ("fl_main.agent.sklearn", "sklearn", "scikit-learn is not installed: pip install 'fl_main[sklearn]'"),
    ],
)
def test_the_error_names_the_extra(
    module: str, package: str, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, module, raising=False)
    monkeypatch.setitem(sys.modules, package, None)  # import raises ModuleNotFoundError for it
    with pytest.raises(MissingExtraError) as caught:
        import_module(module)
    assert str(caught.value) == text
    assert caught.value.__suppress_context__  # one line, not two tracebacks


def test_a_broken_package_is_not_called_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    class BrokenTorch:
        def find_spec(self, name: str, *_: object) -> None:
            if name == "torch":
                raise ModuleNotFoundError("No module named 'torch_c'", name="torch_c")

    monkeypatch.delitem(sys.modules, "fl_main.agent.torch", raising=False)
    monkeypatch.delitem(sys.modules, "torch", raising=False)
    monkeypatch.setattr(sys, "meta_path", [BrokenTorch(), *sys.meta_path])
    with pytest.raises(ModuleNotFoundError, match="torch_c") as caught:
        import_module("fl_main.agent.torch")
    assert not isinstance(caught.value, MissingExtraError)


def test_torch_without_ml_dtypes_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "fl_main.agent.torch", raising=False)
    anything = SimpleNamespace(nn=SimpleNamespace(Module=object), Tensor=np.ndarray)
    monkeypatch.setitem(sys.modules, "torch", anything)
    helper = import_module("fl_main.agent.torch")
    monkeypatch.delitem(sys.modules, "fl_main.agent.torch")  # the next one to import it gets the real torch
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(
        MissingExtraError, match=r"^bfloat16 weights need ml_dtypes: pip install 'fl_main\[torch\]'$"
    ):
        helper._bfloat16()
