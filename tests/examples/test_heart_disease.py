"""The example of four hospitals: its parts always, and the benchmark where the records are at hand."""

import hashlib
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parent.parent.parent
MODULES = ("data", "main", "model", "published")
RECORD = ROOT / "docs" / "records" / "heart_disease.txt"


@pytest.fixture
def example(monkeypatch: pytest.MonkeyPatch) -> Iterator[ModuleType]:
    """The example's `main` module, imported as its own folder does."""
    monkeypatch.syspath_prepend(ROOT / "examples" / "heart_disease")
    for name in MODULES:
        sys.modules.pop(name, None)
    import main  # type: ignore[import-not-found]

    yield main
    for name in MODULES:
        sys.modules.pop(name, None)


@pytest.fixture
def folder(example: ModuleType) -> Path:
    """Where the records are; a test that needs them is skipped without."""
    found = Path(os.environ.get("FL_HEART_DATA") or example.data.default_folder())
    if not all((found / f"processed.{name}.data").exists() for name in example.data.FILES):
        pytest.skip(
            "the heart-disease records are not at hand: python examples/heart_disease/main.py "
            "downloads them, or name a folder that has them in FL_HEART_DATA"
        )
    return found


# --- with the records --------------------------------------------------------------------------


def test_the_preparation_is_that_of_the_benchmark(example: ModuleType, folder: Path) -> None:
    hospitals = example.data.hospitals(folder)
    sizes = {name: (len(h.train.labels), len(h.test.labels)) for name, h in hospitals.items()}
    published = {"cleveland": (199, 104), "hungarian": (172, 89), "switzerland": (30, 16), "va": (85, 45)}
    assert sizes == published
    for hospital in hospitals.values():
        assert hospital.train.features.shape[1] == 13
        np.testing.assert_allclose(hospital.train.features.mean(axis=0), 0, atol=1e-9)
    together = example.data.pooled(folder)
    assert (len(together.train.labels), len(together.test.labels)) == (486, 254)
    np.testing.assert_allclose(together.train.features.std(axis=0, ddof=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    "method", ["pooled", "FedAvg", "FedProx", "SCAFFOLD", "FedAdagrad", "FedAdam", "FedYogi"]
)
def test_one_seed_is_where_the_published_ones_are(example: ModuleType, folder: Path, method: str) -> None:
    hospitals, together = example.data.hospitals(folder), example.data.pooled(folder)
    if method == "pooled":
        weights = example.model.train_pooled(together.train, 42)
    else:
        weights = example.federated(method, hospitals, 42)
    found = np.array(example.accuracies(weights, hospitals, together))
    there = example.published.accuracies(method)
    # A single seed is further from the mean of five than another mean of five.
    means = there[:, :4].mean(axis=1)
    assert abs(found[:4].mean() - means.mean()) < max(3 * means.std(ddof=1), 0.01)
    assert abs(found[4] - there[:, 4].mean()) < max(3 * there[:, 4].std(ddof=1), 0.01)


@pytest.mark.parametrize("method", ["FedAvg", "FedProx", "SCAFFOLD", "FedAdagrad", "FedAdam", "FedYogi"])
def test_one_seed_is_what_a_loop_without_agents_makes(example: ModuleType, folder: Path, method: str) -> None:
    check_against_a_loop(example, method, example.data.hospitals(folder))


# --- without -----------------------------------------------------------------------------------


Numbers = NDArray[np.float64]

# As the benchmark has it; the rate is that of the hospitals.
RATES = {"FedAdagrad": 0.003162, "FedAdam": 0.01, "FedYogi": 0.003162}
ETAS = {"FedAdagrad": 0.316228, "FedAdam": 0.01, "FedYogi": 0.01}


def loop(example: ModuleType, method: str, hospitals: Mapping[str, Any], seed: int) -> Numbers:
    """Train as the papers' algorithms are written down: one array, and neither agents nor files."""
    model, rate, mu = example.model, RATES.get(method, 0.001), 0.01
    counts = {name: len(hospital.train.labels) for name, hospital in hospitals.items()}
    x = flat(model.first(seed))
    c, m, v, own = np.zeros(14), np.zeros(14), np.zeros(14), dict.fromkeys(hospitals, np.zeros(14))
    for number in range(15):
        delta, change = np.zeros(14), np.zeros(14)
        for name, hospital in hospitals.items():
            y, batches = x.copy(), model.batches(hospital.train, seed, 100 * number)
            for _ in range(100):
                found = flat(model.gradients({"w": y[:-1], "b": y[-1:]}, next(batches)))
                if method == "FedProx":
                    found += mu * (y - x)
                if method == "SCAFFOLD":
                    found += c - own[name]
                y -= rate * found
            part = counts[name] / sum(counts.values())
            delta += part * (y - x)
            new = own[name] - c + (x - y) / (100 * rate)
            change += part * (new - own[name])
            own[name] = new
        c = c + change
        m = 0.9 * m + 0.1 * delta
        if method == "FedAdagrad":
            v = v + delta**2
        elif method == "FedAdam":
            v = 0.999 * v + 0.001 * delta**2
        else:
            v = v - 0.001 * delta**2 * np.sign(v - delta**2)
        x = x + (ETAS[method] * m / (np.sqrt(v) + 1e-8) if method in ETAS else delta)
    return x


def flat(weights: Mapping[str, Numbers]) -> Numbers:
    return np.concatenate([weights["w"], weights["b"]])


def check_against_a_loop(example: ModuleType, method: str, hospitals: Mapping[str, Any]) -> None:
    """Accuracies of FedAvg, FedProx and SCAFFOLD are alike here: only the models tell them apart."""
    there = loop(example, method, hospitals, 42)
    np.testing.assert_allclose(flat(example.federated(method, hospitals, 42)), there, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("method", ["FedAvg", "FedProx", "SCAFFOLD", "FedAdagrad", "FedAdam", "FedYogi"])
def test_drawn_records_lead_where_a_loop_without_agents_leads(example: ModuleType, method: str) -> None:
    noise = np.random.default_rng(0)

    def records(number: int, size: int) -> Any:
        features = noise.normal(0.2 * number, 1.0, (size, 13))
        return example.data.Records(features, (features[:, number] + noise.normal(size=size) > 0.3) * 1.0)

    sizes = {"cleveland": 40, "hungarian": 31, "switzerland": 6, "va": 19}
    hospitals = {
        name: example.data.Hospital(records(number, size), records(number, 5))
        for number, (name, size) in enumerate(sizes.items())
    }
    check_against_a_loop(example, method, hospitals)
    ends = {other: loop(example, other, hospitals, 42) for other in (method, "FedAvg", "SCAFFOLD")}
    for other in {"FedAvg", "SCAFFOLD"} - {method}:  # the loop could not tell what leads to the same point
        assert np.abs(ends[method] - ends[other]).max() > 1e-5


def test_published_numbers_are_what_the_page_says(example: ModuleType) -> None:
    text = RECORD.read_text("utf-8")
    assert text in (ROOT / "docs" / "heart-disease.md").read_text("utf-8")
    for method in example.published.RIGHT:
        there = example.published.accuracies(method)
        [line] = [line for line in text.splitlines() if line.startswith(f"{method} ")]
        means = there[:, :4].mean(axis=1)
        for values in (means, there[:, 4]):
            assert f"{values.mean():.4f} ±{values.std(ddof=1):.4f}" in line
    assert "!" not in text


def test_the_gradient_is_the_slope_of_the_log_loss(example: ModuleType) -> None:
    model, noise = example.model, np.random.default_rng(0)
    records = example.data.Records(noise.normal(size=(7, 3)), np.array([0, 1, 1, 0, 1, 0, 1.0]))
    weights = model.first(1, features=3)

    def loss() -> float:
        p = model.probabilities(weights, records.features)
        return float(-np.log(np.where(records.labels == 1, p, 1 - p)).mean())

    for name, gradient in model.gradients(weights, records).items():
        for place in range(len(gradient)):
            weights[name][place] += 1e-5
            up = loss()
            weights[name][place] -= 2e-5
            down = loss()
            weights[name][place] += 1e-5
            assert (up - down) / 2e-5 == pytest.approx(gradient[place], rel=1e-5, abs=1e-8)


def test_batches_go_on_where_the_last_round_stopped(example: ModuleType) -> None:
    records = example.data.Records(np.arange(10.0)[:, None], np.zeros(10))

    def taken(begin: int, count: int) -> list[list[float]]:
        stream = example.model.batches(records, 5, begin)
        return [next(stream).features[:, 0].tolist() for _ in range(count)]

    whole = taken(0, 7)
    assert [len(batch) for batch in whole] == [4, 4, 2, 4, 4, 2, 4]
    for one_pass in (whole[:3], whole[3:6]):
        assert sorted(value for batch in one_pass for value in batch) == list(range(10))
    assert whole[:3] != whole[3:6]  # each pass in an order of its own
    assert taken(0, 4) + taken(4, 3) == whole


def test_downloads_are_checked(example: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = tmp_path / "archive"
    archive.mkdir()
    for name in example.data.FILES:
        (archive / f"processed.{name}.data").write_text(f"records of {name}\n")
    monkeypatch.setattr(example.data, "SOURCE", archive.as_uri() + "/")
    good = {name: hashlib.sha256(f"records of {name}\n".encode()).hexdigest() for name in example.data.FILES}
    monkeypatch.setattr(example.data, "FILES", good)
    example.data.fetch(tmp_path / "cache")
    assert (tmp_path / "cache" / "processed.va.data").read_text() == "records of va\n"

    (tmp_path / "cache" / "processed.va.data").write_text("other records\n")
    with pytest.raises(example.data.DataError, match=r"SHA-256 .*: delete it, and try again"):
        example.data.fetch(tmp_path / "cache")
    (archive / "processed.cleveland.data").write_text("a page that says: log in first\n")
    with pytest.raises(example.data.DataError, match=r"processed.cleveland.data has the SHA-256 .* not "):
        example.data.fetch(tmp_path / "another")
    assert not (tmp_path / "another" / "processed.cleveland.data").exists()
    (archive / "processed.cleveland.data").unlink()
    with pytest.raises(example.data.UnreachableError, match=r"is there a network\? .* --data FOLDER"):
        example.data.fetch(tmp_path / "another")


@pytest.mark.parametrize(("reaches", "code"), [(True, 0), (False, 3)])
def test_records_are_fetched_by_a_command_that_says_when_there_is_no_network(
    example: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    reaches: bool,
    code: int,
) -> None:
    for name in example.data.FILES if reaches else ():
        (tmp_path / f"processed.{name}.data").write_text(name)
    monkeypatch.setattr(example.data, "SOURCE", tmp_path.as_uri() + "/")
    monkeypatch.setattr(
        example.data,
        "FILES",
        {name: hashlib.sha256(name.encode()).hexdigest() for name in example.data.FILES},
    )
    monkeypatch.setattr(sys, "argv", ["main.py", "--fetch", "--data", str(tmp_path / "records")])
    assert example.main() == code
    said = capsys.readouterr()
    if reaches:
        assert (
            said.out == f"{tmp_path / 'records'} has the records of cleveland, hungarian, switzerland, va\n"
        )
    else:
        assert said.err.startswith("error: file:")
        assert "is there a network?" in said.err
