"""The runs of a daemon: made from settings, found again after a restart."""

import asyncio
import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from fl_main.cohort import check_rule
from fl_main.errors import FLError, SettingsError, WeightsError
from fl_main.frozen import divided, facts_of
from fl_main.lossless import require_packing
from fl_main.messages import Frozen
from fl_main.ports import Ports
from fl_main.printable import first_fault
from fl_main.settings import RunSettings
from fl_main.settings.files import parse_run
from fl_main.settings.run_name import numbered_name
from fl_main.store import (
    EventRecord,
    ModelKind,
    ModelRecord,
    Record,
    RunRecord,
    RunSnapshot,
    Store,
    StoredPayload,
)
from fl_main.weights import Array, Layout, Role, as_arrays, pieces, views

from .host import RunHost

logger = logging.getLogger("fl_main.aggregator")

# Of what else there is, nothing can be trained: sums, a strategy's state, what came beside a model.
TRAINABLE = (ModelKind.INITIAL, ModelKind.GLOBAL, ModelKind.LOCAL, ModelKind.DOWNLOAD)
MAX_FOLDS = 2  # at once, of all runs, the first come first: transfers find a thread, too


class Runs:
    """All runs of a daemon by name, each with the task that works for it.

    Args:
        store: The model database.
        ports: Clocks and threads.
        on_record: Sees every stored record of every run: the live view.

    Attributes:
        broken: Runs of the database that cannot go on, and why.
    """

    def __init__(
        self, store: Store, ports: Ports, on_record: Callable[[RunHost, Record], None] | None = None
    ) -> None:
        self._store = store
        self._ports = ports
        self._on_record = on_record
        self._folds = asyncio.Semaphore(MAX_FOLDS)
        self._hosts: dict[str, RunHost] = {}
        self._workers: dict[str, asyncio.Task[None]] = {}
        self._being_made: set[str] = set()  # names of runs
        self.broken: dict[str, str] = {}

    def __iter__(self) -> Iterator[RunHost]:
        return iter(self._hosts.values())

    def __len__(self) -> int:
        return len(self._hosts)

    @property
    def trouble(self) -> str:
        """What the database cannot do for a run at the moment, or an empty text."""
        return next((host.journal.trouble for host in self if host.journal.trouble), "")

    async def settle(self) -> None:
        """Wait until what the runs decided so far is stored, except where the database is in trouble."""
        await asyncio.gather(*(host.journal.flush_or_trouble() for host in self))

    def find(self, name: str) -> RunHost | None:
        """Return a run by its name."""
        return self._hosts.get(name)

    async def load(self) -> None:
        """Go on with every run in the database."""
        snapshots = await self._ports.run_in_writer(self._store.snapshots)
        newest = {snapshot.run.name: snapshot for snapshot in snapshots}
        for snapshot in snapshots:
            if newest[snapshot.run.name] is not snapshot:  # e.g. a replay that was made beside a daemon
                logger.warning("run %s: an older one of that name stays in the database", snapshot.run.name)
                continue
            try:
                settings = RunSettings.stored(snapshot.run.settings)
                self._start(self._host(settings, snapshot))
            except Exception as error:  # noqa: BLE001 - settings that were altered raise anything; others go on
                is_ours = isinstance(error, FLError | ValidationError)
                said = str(error) if is_ours else f"{type(error).__name__}: {error}"
                self.broken[snapshot.run.name] = " ".join(said.split())  # in one line
                logger.error("run %s cannot go on: %s", snapshot.run.name, said)

    async def ensure(self, settings: RunSettings) -> None:
        """Create a run unless it is there.

        Raises:
            SettingsError: If its strategy, cohort rule or initial model cannot be used.
        """
        host = self._hosts.get(settings.name)
        if settings.name in self.broken:  # `load` said why; the others go on
            return
        if host is None:
            try:
                await self.create(settings, "settings")
            except SettingsError as error:  # of several runs, which
                raise SettingsError(f"run {settings.name}: {error}") from error
        elif host.settings.digest != settings.digest:
            logger.warning(
                "run %s goes on with the settings it was created with; give the new ones another name",
                settings.name,
            )

    async def create(self, settings: RunSettings, actor: str) -> RunHost:
        """Create and start a run.

        Raises:
            SettingsError: If the name is taken, also by a run that cannot go on, or its strategy,
                cohort rule or initial model cannot be used.
        """
        if reason := self.broken.get(settings.name):
            raise SettingsError(
                f"run {settings.name!r} is in the database and cannot go on: {reason}; "
                "mend that and start the aggregator again, or choose another name"
            )
        if self._is_taken(settings.name):
            raise SettingsError(f"run {settings.name!r} exists already; choose another name")
        self._being_made.add(settings.name)
        try:
            return await self._made(settings, actor)
        finally:
            self._being_made.remove(settings.name)

    def _is_taken(self, name: str) -> bool:
        return name in self._hosts or name in self._being_made or name in self.broken

    async def _made(self, settings: RunSettings, actor: str) -> RunHost:
        check_rule(settings.cohort)
        run = RunRecord.begun(self._ports.new_id(), settings)
        host = self._host(settings, RunSnapshot(run))
        initial = await self._ports.run_in_thread(_initial_model, self._store, settings, run.run_id)
        if initial and (reason := host.machine.unfit_for_codecs(initial[0].payload.layout)):
            raise SettingsError(f"compression: the initial model cannot be encoded: {reason}")
        created = EventRecord(run.run_id, "run_created", actor=actor, details={"settings": settings.digest})
        records = host.adopt(*initial) if initial else [run]
        await self._ports.run_in_writer(self._store.commit, [*records, created], self._ports.wall_time())
        self._start(host)
        return host

    async def create_as_told(
        self, given: Mapping[str, Any], reference: str, name: str, actor: str
    ) -> RunHost:
        """Create and start a run as an operator wants it.

        Args:
            given: Its settings; empty: those of the run that made the model.
            reference: What people call a model of the database, of any run, that it is to begin with;
                empty: as the settings say.
            name: Its name; empty: as the settings say, or made of the other run's.
            actor: Who wants it.

        Raises:
            SettingsError: As for `create`; or if the settings make no sense, or the model is none to train.
            StoreError: If there is no such model, or its file is not there.
        """
        return await self.create(parse_run(await self._with_model(given, reference, name), "settings"), actor)

    async def _with_model(self, given: Mapping[str, Any], reference: str, name: str) -> dict[str, Any]:
        """Return settings of a run that begins with a model, if one is named."""
        if not reference:
            return dict(given)
        model = await self._ports.run_in_thread(self._store.named_model, reference)
        if model.kind not in TRAINABLE:
            raise SettingsError(f"model {model.model_id} is of kind {model.kind}: nothing to train")
        if any((given.get("initial") or {}).values()):
            raise SettingsError("the settings say what the run begins with, too (initial): leave that out")
        settings = dict(given) or await self._settings_of(model)
        if not given and not name:
            name = numbered_name(settings["name"], self._is_taken)
        settings["name"] = name or settings.get("name")
        return {**settings, "initial": {"model": model.model_id}}

    async def _settings_of(self, model: ModelRecord) -> dict[str, Any]:
        found = await self._ports.run_in_thread(self._store.settings_of, model.run_id)
        if not found:
            raise SettingsError(
                f"the run that made model {model.model_id} has no settings: give a FILE with some"
            )
        try:
            return RunSettings.stored(found).model_dump(mode="json")
        except ValidationError as error:  # it was made by an older version
            raise SettingsError(
                f"the settings of the run that made model {model.model_id} cannot be used any more: "
                f"{first_fault(error)}; give a FILE with some"
            ) from error

    def _host(self, settings: RunSettings, snapshot: RunSnapshot) -> RunHost:
        require_packing(settings.compression.lossless)
        return RunHost(settings, snapshot, self._store, self._ports, self._folds, self._on_record)

    def _start(self, host: RunHost) -> None:
        host.start()  # before anybody finds it: a run whose records were altered may raise anything here
        name = host.run.name
        self._hosts[name] = host
        self._workers[name] = asyncio.create_task(host.work(), name=f"run {name}")
        self._workers[name].add_done_callback(_report)

    async def stop(self) -> None:
        """Store what was decided and end; every run goes on from there at the next start."""
        try:
            await asyncio.gather(*(host.stop() for host in self._hosts.values()))
        finally:  # also where the database took too long
            self.end()

    def end(self) -> None:
        """End at once; may be called twice. What was decided, and is not stored, is decided again."""
        for host in self._hosts.values():
            host.end()
        for worker in self._workers.values():
            worker.cancel()
        self._workers.clear()
        self._hosts.clear()


def _report(worker: "asyncio.Task[None]") -> None:
    if not worker.cancelled() and (error := worker.exception()):
        logger.critical("%s ended by a bug of ours", worker.get_name(), exc_info=error)


def _initial_model(
    store: Store, settings: RunSettings, run_id: str
) -> tuple[ModelRecord, Frozen | None] | None:
    """Return the model that a run's settings name, and what is known of the arrays that are frozen.

    Where it comes from a file, or has other arrays than the run trains, what is trained is staged.
    """
    patterns, name = settings.compression.arrays, f"{run_id}.initial"
    parents: tuple[tuple[str, float | None], ...] = ()
    frozen = None
    if settings.initial.file is not None:
        payload, frozen = _staged(store, name, *read_arrays(settings.initial.file), patterns)
    elif settings.initial.model is not None:
        found = store.find_model(settings.initial.model)
        if found is None:
            raise SettingsError(
                f"initial.model: there is no model {settings.initial.model!r} in this database"
            )
        payload, parents = found.payload, ((found.model_id, 1.0),)
        if patterns or found.form != "full" or found.codec:
            arrays, layout = store.whole(found.model_id)
            roles = {spec.name: spec.role for spec in layout.arrays}
            payload, frozen = _staged(store, name, arrays, roles, patterns)
    else:
        return None
    model = ModelRecord(f"{run_id[:16]}.initial", run_id, 0, ModelKind.INITIAL, payload, None, parents)
    return model, frozen


def _staged(
    store: Store, name: str, arrays: dict[str, Array], roles: dict[str, Role], patterns: Sequence[str]
) -> tuple[StoredPayload, Frozen | None]:
    """Stage what is trained of some arrays; say of the others what agents must have, if there are any."""
    try:
        trained, kept = divided(arrays, patterns) if patterns else (arrays, {})
    except WeightsError as error:
        raise SettingsError(f"initial: {error}") from error
    layout = Layout.of(trained, {name: role for name, role in roles.items() if name in trained})
    with closing(store.stage(name, layout)) as staging:
        for piece in pieces(trained, layout):
            staging.write(piece)
        payload = StoredPayload("weights", staging.finish(), layout.nbytes, layout, name)
    return payload, facts_of(kept) if kept else None


def read_arrays(path: Path) -> tuple[dict[str, Array], dict[str, Role]]:
    """Return the arrays of a `.safetensors` or `.npz` file, and their roles.

    Raises:
        SettingsError: If it cannot be read.
    """
    try:
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as file:
                return as_arrays(dict(file)), {}
        data = path.read_bytes()
        length = int.from_bytes(data[:8], "little")
        layout = Layout.from_header(data[8 : 8 + length])
        if 8 + length + layout.nbytes != len(data):
            raise WeightsError("the file is cut off, or too long")
        arrays = views(layout, memoryview(data)[8 + length :])
        return arrays, {spec.name: spec.role for spec in layout.arrays}
    except (OSError, ValueError, WeightsError) as error:
        reason: Any = getattr(error, "strerror", None) or error
        raise SettingsError(f"initial.file: {path}: {reason}; give a .safetensors or .npz file") from error
