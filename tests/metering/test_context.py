"""The tenant of the work that is running now: who sees it, who does not, and what it costs nobody."""

from __future__ import annotations

import asyncio
import contextvars
import os
import pickle
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from multiprocessing import get_context

import pytest

from metering.context import TenantExecutor, carry, current_tenant, required_tenant, tenant
from metering.errors import BadEvent

TENANTS = [f"tenant-{number:02}" for number in range(20)]


@pytest.fixture(autouse=True)
def _nobody_before_and_after() -> Iterator[None]:
    assert current_tenant() is None
    yield
    assert current_tenant() is None


def stale() -> None:
    """Leave a tenant behind in a worker, as a pool thread does that inherited the context of who started it."""
    tenant("stale").__enter__()


def test_a_block_says_the_tenant_and_restores_what_was_before() -> None:
    with tenant("acme") as name:
        assert (name, tenant.current(), required_tenant()) == ("acme", "acme", "acme")
        with tenant("globex"):
            assert required_tenant() == "globex"
            with tenant(None):
                assert current_tenant() is None
            assert required_tenant() == "globex"
        assert required_tenant() == "acme"


def test_a_block_that_raises_restores_too() -> None:
    with tenant("acme"):
        with pytest.raises(LookupError), tenant("globex"):
            raise LookupError
        assert current_tenant() == "acme"


def test_without_a_tenant_the_error_says_what_to_do() -> None:
    with pytest.raises(BadEvent, match=r"name it .* `with tenant\(\"acme\"\):` .* middleware.*carry") as caught:
        required_tenant()
    assert caught.value.reason == "no_tenant"
    with tenant("acme"), tenant(None), pytest.raises(BadEvent, match="no tenant is set"):
        required_tenant()


@pytest.mark.parametrize("name", ["", " acme", "a\nb", "..", "x" * 129, 7])
def test_a_name_that_breaks_a_rule_never_becomes_the_tenant(name: str) -> None:
    with pytest.raises(BadEvent) as caught, tenant(name):
        pytest.fail("the block ran")
    assert caught.value.reason == "bad_tenant"


def test_composed_and_decomposed_accents_are_one_tenant() -> None:
    with tenant("cafe\u0301"):
        assert required_tenant() == "caf\u00e9"


def test_one_object_is_one_block() -> None:
    acme = tenant("acme")
    with acme, pytest.raises(RuntimeError, match="entered already"), acme:
        pytest.fail("the block ran")
    with acme:
        assert current_tenant() == "acme"
    with pytest.raises(RuntimeError, match="not entered"):
        acme.__exit__(None)


def test_a_block_that_ends_in_another_context_says_so() -> None:
    def steps() -> Iterator[str | None]:
        with tenant("acme"):
            yield current_tenant()

    # Each step in a context of its own, as a server does that runs them in a thread pool.
    generator = steps()
    assert contextvars.copy_context().run(next, generator) == "acme"
    with pytest.raises(RuntimeError, match=r"another context .* `yield`"):
        contextvars.copy_context().run(next, generator, None)


def test_an_abandoned_coroutine_is_closed_in_peace() -> None:
    class Forever:
        def __await__(self) -> Iterator[None]:
            yield

    async def work() -> None:
        with tenant("acme"):
            await Forever()

    coroutine = work()
    contextvars.copy_context().run(coroutine.send, None)
    # By the garbage collector or the end of the loop, in a context in which the block never began.
    coroutine.close()


def test_tasks_inherit_and_never_mix() -> None:
    seen: Counter[tuple[str, str | None]] = Counter()
    chance = random.Random(7)

    async def leaf(name: str) -> None:
        await asyncio.sleep(0)
        seen[name, current_tenant()] += 1

    async def stream(name: str) -> AsyncIterator[int]:
        for step in range(3):
            seen[name, current_tenant()] += 1
            yield step

    async def request(name: str) -> None:
        with tenant(name):
            await asyncio.sleep(chance.random() / 100)
            async with asyncio.TaskGroup() as group:
                group.create_task(leaf(name))
                group.create_task(asyncio.to_thread(lambda: seen.update([(name, current_tenant())])))
            async for _ in stream(name):
                await asyncio.sleep(0)
            with tenant(f"{name}-inner"):
                await leaf(f"{name}-inner")
            seen[name, current_tenant()] += 1

    async def main() -> None:
        await asyncio.gather(*(request(name) for name in TENANTS for _ in range(25)))

    asyncio.run(main())
    assert seen == {(name, name): 150 for name in TENANTS} | {(f"{name}-inner",) * 2: 25 for name in TENANTS}


def test_a_bare_thread_has_no_tenant_and_a_carried_call_has() -> None:
    seen: list[str | None] = []
    with tenant("acme"):
        bare = threading.Thread(target=lambda: seen.append(current_tenant()))
        carried = threading.Thread(target=carry(lambda: seen.append(current_tenant())))
    for thread in (bare, carried):
        thread.start()
        thread.join()
    assert seen == [None, "acme"]


@pytest.mark.parametrize("initializer", [None, stale], ids=["clean worker", "worker with a stale tenant"])
def test_reused_workers_run_each_call_under_its_own_tenant(initializer: object) -> None:
    before = "stale" if initializer else None
    with ThreadPoolExecutor(1, initializer=initializer) as pool:  # type: ignore[arg-type]
        calls = []
        for name in TENANTS * 10:
            with tenant(name):
                calls.append((name, pool.submit(carry(current_tenant))))
        # Who carries nobody carries that too.
        calls.append((None, pool.submit(carry(current_tenant))))  # type: ignore[arg-type]
        nobodys = pool.submit(carry(required_tenant))
        with pytest.raises(BadEvent, match="no tenant is set"):
            nobodys.result()
        assert [name for name, _ in calls] == [future.result() for _, future in calls]
        assert pool.submit(current_tenant).result() == before


def test_a_carried_call_may_run_in_many_threads_at_once() -> None:
    meeting = threading.Barrier(8, timeout=30)

    def work(number: int) -> tuple[int, str | None]:
        meeting.wait()
        return number, current_tenant()

    with ThreadPoolExecutor(8) as pool:
        with tenant("acme"):
            carried = carry(work)
        assert list(pool.map(carried, range(8))) == [(number, "acme") for number in range(8)]


def test_an_executor_that_carries() -> None:
    seen: Counter[tuple[str, str | None]] = Counter()

    async def request(pool: TenantExecutor, name: str) -> None:
        with tenant(name):
            loop = asyncio.get_running_loop()
            seen[name, await loop.run_in_executor(pool, current_tenant)] += 1  # type: ignore[arg-type]

    async def main(pool: TenantExecutor) -> None:
        await asyncio.gather(*(request(pool, name) for name in TENANTS for _ in range(20)))

    with TenantExecutor(ThreadPoolExecutor(4, initializer=stale)) as pool:
        asyncio.run(main(pool))
        with tenant("acme"):
            assert list(pool.map(lambda left, right: (left + right, current_tenant()), [1, 2], [10, 20])) == [
                (11, "acme"),
                (22, "acme"),
            ]
            assert pool.submit(int, "ff", base=16).result() == 255
    assert seen == {(name, name): 20 for name in TENANTS}


def test_processes_take_the_tenant_with_the_call() -> None:
    with TenantExecutor(ProcessPoolExecutor(1, mp_context=get_context("spawn"))) as pool:
        assert pool.submit(current_tenant).result() is None
        with tenant("acme"):
            assert pool.submit(current_tenant).result() == "acme"
        assert pool.submit(current_tenant).result() is None
        with tenant("acme"):
            assert pickle.loads(pickle.dumps(carry(os.getpid)))() == os.getpid()


def test_a_carried_coroutine_function_runs_under_it_to_its_end() -> None:
    async def work(steps: int) -> list[str | None]:
        seen = []
        for _ in range(steps):
            await asyncio.sleep(0)
            seen.append(current_tenant())
        return seen

    with tenant("acme"):
        carried = carry(work)
    assert asyncio.run(carried(3)) == ["acme"] * 3


def test_generators_cannot_be_carried() -> None:
    def steps() -> Iterator[int]:
        yield 1

    with pytest.raises(TypeError, match="generator"):
        carry(steps)


def test_importing_the_context_is_light_and_loads_no_telemetry() -> None:
    code = (
        "import sys, metering.context\n"
        "with metering.context.tenant('acme'): pass\n"
        "heavy = ('numpy', 'pyarrow', 'duckdb', 'asyncio', 'concurrent.futures', 'opentelemetry', 'logging')\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.strip() == "[]"
