"""The runs of a daemon: found again after a restart, each by itself."""

import asyncio
import time
from dataclasses import replace
from pathlib import Path

from fl_main.aggregator.runs import Runs
from fl_main.db import ModelStore
from fl_main.settings import RunSettings
from fl_main.store import Phase, RunRecord, StepRecord
from fl_main.training import Kind
from tests.aggregator.memory_link import ports


def test_run_that_cannot_be_taken_up_is_no_run_that_agents_may_join(tmp_path: Path) -> None:
    async def story(store: ModelStore) -> None:
        runs = Runs(store, ports())
        await runs.load()
        assert runs.broken == {"broken": "KeyError: 'lost'"}
        assert [host.run.name for host in runs] == ["whole"]
        assert runs.find("broken") is None
        await runs.stop()

    with ModelStore(tmp_path) as store:
        for name in ("broken", "whole"):
            store.commit([RunRecord.begun(name, RunSettings(name=name))], time.time())
        run = RunRecord.begun("broken", RunSettings(name="broken"))
        step = StepRecord("broken", 1, Kind.TRAIN, 0, "frozen", (), (), "all", 0.0, 60.0, frozen=("lost",))
        store.commit([replace(run, round_id=1, phase=Phase.AGGREGATING, kind=Kind.TRAIN), step], time.time())
        asyncio.run(story(store))
