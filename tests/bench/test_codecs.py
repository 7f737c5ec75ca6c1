"""What is measured of codecs, and how the page tells it."""

from pathlib import Path

import numpy as np
import pytest

from bench.codecs.cases import CASES, PLAIN, POOLED
from bench.codecs.measure import costs
from bench.codecs.record import Cost, Record, Training, read
from bench.codecs.report import cost_table, sections, task_table
from bench.codecs.tasks import TASKS, Outcome, network, slopes, trained
from bench.page import filled
from fl_main.compression import CODECS
from fl_main.settings import CompressionSettings

DOCS = Path(__file__).resolve().parents[2] / "docs"


def test_every_codec_is_measured() -> None:
    settings = {CompressionSettings.model_validate(case).codec for case in CASES.values()}
    assert settings == {PLAIN, *CODECS}


def test_the_page_tells_what_the_record_has() -> None:
    page = (DOCS / "compression.md").read_text("utf-8")
    record = read(DOCS / "records" / "codecs.json")
    assert filled(page, sections(record)) == page, "run: python -m bench.codecs report"


def made() -> Record:
    """Two seeds: without a codec 90 % and 80 % of 100 bytes, with any other 70 % of 25."""
    record = Record({"cores": "2"}, "2026-01-01 00:00", [Cost("int8", 0.252, 19.6, 3.14)])
    for task in TASKS:
        for case in [*CASES, POOLED]:
            pairs = [(0.9, 0.2), (0.8, 0.4)] if case == PLAIN else [(0.7, 1.0)] * 2
            sent = 100.0 if case == PLAIN else 25.0
            record.trainings += [
                Training(task, case, seed, Outcome(*pair, sent, 200.0)) for seed, pair in enumerate(pairs)
            ]
    return record


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    made().write(tmp_path / "record.json")
    assert read(tmp_path / "record.json") == made()


def test_tables_tell_medians_and_ranges() -> None:
    rows = task_table(made(), "digits").splitlines()
    # The medians of two values are their means: 85 % and 0.3.
    assert "| none | 100 | 200 | 100.0% | 85.0% (80.0%–90.0%) | 0.30 (0.20–0.40) |" in rows
    assert "| int8 | 25 | 200 | 25.0% | 70.0% (70.0%–70.0%) | 1.00 (1.00–1.00) |" in rows
    assert rows[-1] == "| all examples in one place | – | – | – | 70.0% (70.0%–70.0%) | 1.00 (1.00–1.00) |"
    assert cost_table(made()).splitlines()[-1] == "| int8 | 25.2% | 20 | 3.1 |"


def test_costs_are_measured_of_each_codec_that_agents_encode_with() -> None:
    found = {cost.case: cost for cost in costs(array_size=2000)}
    assert found.keys() == {
        case for case, settings in CASES.items() if settings and "download" not in settings
    }
    assert found["float16"].part == 0.5
    assert found["top-k, 1 %"].part == 0.02  # a hundredth of the values, each with its place
    assert all(cost.encode > 0 < cost.decode for cost in found.values())


@pytest.mark.parametrize("name", ["hidden.w", "hidden.b", "out.w", "out.b"])
def test_the_network_is_trained_by_its_gradient(name: str) -> None:
    chance = np.random.default_rng(0)
    weights = {key: array.astype(np.float64) for key, array in network(0).items()}
    pixels, labels = chance.random((5, 64)), np.array([0, 3, 3, 9, 1])

    def loss(moved: float) -> float:
        own = {key: array.copy() for key, array in weights.items()}
        own[name].flat[3] += moved
        hidden = np.maximum(pixels @ own["hidden.w"] + own["hidden.b"], 0)
        scores = hidden @ own["out.w"] + own["out.b"]
        powers = np.exp(scores)
        return float(-np.log(powers[np.arange(5), labels] / powers.sum(axis=1)).mean())

    step = 1e-6
    slope = (loss(step) - loss(-step)) / (2 * step)
    assert slopes(weights, pixels, labels)[name].flat[3] == pytest.approx(slope, abs=1e-7)
    after = trained(network(0), (pixels, labels), 50, seed=0)
    assert (np.maximum(pixels @ after["hidden.w"] + after["hidden.b"], 0) @ after["out.w"]).argmax(
        axis=1
    ).tolist() == labels.tolist()
