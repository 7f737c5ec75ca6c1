"""Models that an agent fetches: memory of those that nobody looks at any more is used again."""

import asyncio
from typing import Any

import numpy as np

from fl_main.agent.models import Models
from fl_main.digests import DigestAlgorithm, new_digest, tagged
from fl_main.messages import Chunk, Fetch, Payload, Sending
from fl_main.weights import Array, Layout, pack, views
from tests.aggregator.memory_link import ports

LAYOUT = Layout.of({"w": np.zeros(1000, np.float32)})


def model_of(value: float) -> tuple[Payload, bytes]:
    data = bytes(pack({"w": np.full(1000, value, np.float32)}, LAYOUT))
    digest = tagged(new_digest(DigestAlgorithm.BLAKE3, LAYOUT.header + data))
    return Payload(layout=LAYOUT.digest, digest=digest, size=len(data)), data


async def fetched(models: Models, value: float) -> Array:
    """Fetch a model of equal numbers as the only one that is wanted."""
    payload, data = model_of(value)
    models.forget_all_but({payload.digest})
    fetching = asyncio.create_task(models.fetch(payload, LAYOUT))
    await asyncio.sleep(0)
    await models.begin(Sending(transfer=payload.digest, offset=0, size=len(data)))
    for place in (0, 2400):
        part = data[place : place + 2400]
        await models.take(Chunk(transfer=payload.digest, offset=place, data=part))
    _, buffer = await fetching
    del fetching
    return views(LAYOUT, buffer)["w"]


def place_of(array: Array) -> int:
    """Return where in memory an array lies."""
    return int(array.__array_interface__["data"][0])


def play(story: Any) -> None:
    async def say(fetch: Fetch) -> None:
        pass

    async def main() -> None:
        async with asyncio.timeout(20):
            await story(Models(say, ports().run_in_thread))

    asyncio.run(main())


def test_memory_of_the_model_before_the_last_is_used_again() -> None:
    async def story(models: Models) -> None:
        model = await fetched(models, 1.0)
        places = [place_of(model)]
        for value in (2.0, 3.0, 4.0):
            following = await fetched(models, value)  # a program has one model while the next comes
            assert (model == value - 1).all()
            assert (following == value).all()
            model = following
            del following
            places.append(place_of(model))
        assert places[2:] == places[:2]

    play(story)


def test_memory_that_a_program_still_looks_at_is_left_alone() -> None:
    async def story(models: Models) -> None:
        kept = [await fetched(models, float(value)) for value in range(6)]
        assert len({place_of(array) for array in kept}) == 6
        assert [array[0] for array in kept] == list(range(6))
        one = kept.pop(4)[10:20]  # a part of it, under another name
        kept.clear()
        for value in (6.0, 7.0, 8.0):
            await fetched(models, value)
        assert (one == 4.0).all()

    play(story)


def test_memory_is_kept_for_as_many_models_as_a_task_has_twice() -> None:
    async def story(models: Models) -> None:
        kept = [await fetched(models, float(value)) for value in range(6)]
        assert len(models._let_go) == 2
        models.forget_all_but(set())
        assert models._let_go == []
        assert len(kept) == 6

    play(story)
