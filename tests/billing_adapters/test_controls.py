"""Controls as files: heads that are read to the letter, a workspace's own that run like ours, and none that fails unseen."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pyarrow as pa
import pytest

from billing_adapters.reconciliation.controls import (
    BadHead,
    Control,
    Need,
    Setting,
    all_controls,
    controls_in,
    our_controls,
    read_control,
    with_values,
)
from billing_adapters.reconciliation.inputs import INPUTS
from tests.billing_adapters.world import World, event, found, statement_of

ROOT = Path(__file__).parents[2]
HEAD = """-- control: BIG_EVENT
-- version: 3
-- point: P3
-- compares: quantities with what a person
--     can type
-- catches: a quantity in the wrong unit
-- class: INFO
-- owner: ENG, OPS
-- money: E4
-- act: ask the tenant
-- cadence: daily
-- setting: quantity_max = 99 units of one event
-- setting: exempt = ['late', 'idle'] tenants that may
-- needs: counted_event
"""
BODY = """SELECT tenant_id, meter, 'too_big' AS reason, count(*) AS rows
FROM counted_event
WHERE quantity > $quantity_max AND NOT list_contains($exempt, tenant_id)
GROUP BY ALL
"""


def test_a_head_is_read_to_the_letter() -> None:
    control = read_control(HEAD + BODY, "controls/big_event.sql", is_ours=False)
    assert (control.control_id, control.version, control.point, control.finding_class) == ("BIG_EVENT", 3, "P3", "INFO")
    assert control.compares == "quantities with what a person can type"
    assert (control.owners, control.owner, control.money, control.bucket) == (("ENG", "OPS"), "ENG", "E4", "big_event")
    assert control.settings == (
        Setting("quantity_max", 99, "units of one event"),
        Setting("exempt", ("late", "idle"), "tenants that may"),
    )
    assert control.needs == (Need("counted_event"),)
    aged = HEAD.replace("needs: counted_event", "needs: witness, at most 2 days old")
    assert read_control(aged + BODY, "big_event.sql", is_ours=True).needs == (Need("witness", 172_800),)


@pytest.mark.parametrize(
    ("was", "becomes", "said"),
    [
        ("-- act: ask the tenant\n", "", "does not say `act`"),
        ("class: INFO", "class: WORRYING", "write one of LOST"),
        ("owner: ENG, OPS", "owner: ENG, ME", "owner 'ME' is not known"),
        ("money: E4", "money: E5", "money 'E5' is not known"),
        ("point: P3", "point: P9", "point 'P9'"),
        ("cadence: daily", "cadence: sometimes", "cadence 'sometimes'"),
        ("version: 3", "version: 0", "version '0'"),
        ("control: BIG_EVENT", "control: LITTLE_EVENT", "must be the name of its file"),
        ("-- version: 3\n", "-- version: 3\n-- version: 4\n", "twice"),
        ("-- version: 3\n", "-- version: 3\n-- colour: red\n", "line 3"),
        ("quantity_max = 99 units of one event", "quantity_max = 99", "what it means"),
        ("quantity_max = 99", "quantity_max = 9e9", "no number"),
        ("needs: counted_event", "needs: counted_event soon", "cannot be read"),
        ("$quantity_max", "99", r"does not use \$quantity_max"),
        ("$quantity_max", "$quantity_max + $more", r"\$more is no setting"),
        ("SELECT tenant_id", "DROP TABLE charge; SELECT tenant_id", "one SELECT"),
        ("SELECT tenant_id, meter", "CREATE TABLE mine AS SELECT tenant_id, meter", "one SELECT"),
        ("FROM counted_event", "FRO counted_event", "cannot be read"),
    ],
)
def test_a_head_that_is_not_right_says_what_to_write(was: str, becomes: str, said: str) -> None:
    assert was in HEAD + BODY
    with pytest.raises(BadHead, match=said):
        read_control((HEAD + BODY).replace(was, becomes, 1), "big_event.sql", is_ours=False)


@pytest.mark.parametrize("control", our_controls(), ids=lambda control: control.control_id)
def test_ours_are_read_as_a_workspaces_own_are(control: Control) -> None:
    assert read_control(control.statement, control.source, is_ours=True) == control
    assert control.within is None or control.within in {other.control_id for other in our_controls()}
    assert {need.name for need in control.needs} <= set(INPUTS)


def test_a_workspace_has_its_own_controls_and_they_run_like_ours(tmp_path: Path) -> None:
    folder = tmp_path / "controls"
    assert controls_in(folder) == ([], [])
    folder.mkdir()
    (folder / "big_event.sql").write_text(HEAD + BODY)
    (folder / "notes.txt").write_text("not a control")
    (folder / "broken.sql").write_text("SELECT 1")
    (folder / "unknown_tenant.sql").write_text((HEAD + BODY).replace("BIG_EVENT", "UNKNOWN_TENANT"))
    controls, refused = all_controls(folder, {"BIG_EVENT": {"quantity_max": 5}})
    assert "BIG_EVENT" in {control.control_id for control in controls}
    assert [one.control_id for one in refused] == ["BROKEN", "UNKNOWN_TENANT"]
    assert "give yours another name" in refused[1].reason

    world = World()
    world.write(event(quantity="6"), event(quantity="5"), event("late", quantity="99", day=12))
    statement = statement_of(world, controls=controls, refused=refused)
    assert found(statement) == {
        ("BIG_EVENT", "acme", "calls", "too_big", 1),
        ("CONTROL_NOT_RUN", None, None, "not_run", None),
    }
    assert {one.subject for one in statement.findings if one.control_id == "CONTROL_NOT_RUN"} == {
        "BROKEN",
        "UNKNOWN_TENANT",
    }
    [run] = [run for run in statement.runs.to_pylist() if run["control_id"] == "BIG_EVENT"]
    assert (run["result"], run["findings"], run["is_ours"]) == ("breaks", 1, False)
    assert run["parameters"] == '{"quantity_max": "5", "exempt": ["late", "idle"]}'
    assert [(one["name"], one["rows"], one["is_stale"]) for one in run["inputs"]] == [("counted_event", 3, False)]


@pytest.mark.parametrize(
    ("body", "said"),
    [
        ("SELECT nothing AS reason FROM counted_event", "its statement failed"),
        ("SELECT 1 AS rows", "returns no column reason"),
        ("SELECT 'why' AS reason, 1 AS colour", "returns colour"),
        ("SELECT 'why' AS reason, 'x' AS rows", "not the type"),
        ("SELECT 'why' AS reason, 0.1 / 3 AS amount_likely, 'USD' AS currency", "amount_likely is a binary float"),
        ("SELECT NULL::VARCHAR AS reason", "no reason"),
        ("SELECT 'why' AS reason, 'HOPELESS' AS class", "class 'HOPELESS'"),
        ("SELECT 'why' AS reason FROM range(2)", "tell them apart by subject"),
        ("SELECT 'why' AS reason, 1.5::DECIMAL(5, 1) AS quantity_difference FROM no_such_table", "failed"),
    ],
)
def test_a_control_that_fails_is_a_finding_and_the_others_go_on(body: str, said: str) -> None:
    head = "".join(line + "\n" for line in HEAD.splitlines() if "setting" not in line)
    controls = [*our_controls(), read_control(head + body, "big_event.sql", is_ours=False)]
    world = World()
    world.write(event("nobody"))
    statement = statement_of(world, controls=controls)
    assert found(statement) == {
        ("UNKNOWN_TENANT", "nobody", "calls", "unknown_tenant", 1),
        ("CONTROL_NOT_RUN", None, None, "not_run", None),
    }
    [run] = [run for run in statement.runs.to_pylist() if run["control_id"] == "BIG_EVENT"]
    assert run["result"] == "not_run"
    assert said in run["explanation"]
    # Nothing is balanced while a control that is due has not run.
    assert statement.verdict == "breaks"


def test_a_table_of_floats_is_refused_as_an_input() -> None:
    witness = {
        "tenant_id": ["acme"],
        "meter": ["calls"],
        "bucket_start": [datetime(2026, 10, 5, tzinfo=UTC)],
        "count": [0.1],
    }
    with pytest.raises(ValueError, match="count is a binary float"):
        statement_of(World(), given={"witness": pa.table(witness)})


def test_an_input_that_nobody_knows_is_named() -> None:
    text = (HEAD + BODY).replace("needs: counted_event", "needs: weather")
    statement = statement_of(World(), controls=[read_control(text, "big_event.sql", is_ours=False)])
    assert "no input 'weather'" in statement.runs["explanation"][0].as_py()


def test_settings_fit_their_defaults_or_the_control_does_not_run() -> None:
    control = read_control(HEAD + BODY, "big_event.sql", is_ours=True)
    assert with_values(control, {"quantity_max": "7"}).values == {"quantity_max": 7}
    assert with_values(control, {"exempt": ["a"]}).values == {"exempt": ("a",)}
    for wrong in ({"quantity_max": 7.5}, {"quantity_max": "many"}, {"exempt": "a"}, {"quantity": 1}):
        with pytest.raises(BadHead):
            with_values(control, wrong)
    share = read_control((HEAD + BODY).replace("= 99", "= 0.5"), "big_event.sql", is_ours=True)
    assert with_values(share, {"quantity_max": "0.25"}).values == {"quantity_max": Decimal("0.25")}

    controls, refused = all_controls(None, {"NO_SUCH": {"a": 1}, "UNKNOWN_TENANT": {"a": 1}})
    assert [one.control_id for one in refused] == ["NO_SUCH", "UNKNOWN_TENANT"]
    assert "UNKNOWN_TENANT" not in {control.control_id for control in controls}


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ("(-5)::DECIMAL(38, 21) AS amount_likely, 'USD' AS currency", "amount_likely is below zero"),
        ("(-1)::DECIMAL(38, 9) AS quantity_difference", "quantity_difference is below zero"),
        ("5::DECIMAL(38, 21) AS amount_likely", "an amount has the currency None"),
        ("5::DECIMAL(38, 21) AS amount_likely, 'dollars' AS currency", "an amount has the currency 'dollars'"),
        (
            "5::DECIMAL(38, 21) AS amount_likely, 'USD' AS currency, 3::DECIMAL(38, 21) AS amount_high",
            "not in this order",
        ),
    ],
)
def test_figures_that_no_sum_may_have_are_refused(figures: str, said: str) -> None:
    body = BODY.replace("count(*) AS rows", figures).replace("quantity > ", "quantity <= ")
    control = read_control(HEAD + body, "big_event.sql", is_ours=False)
    world = World()
    world.write(event())
    statement = statement_of(world, controls=[control])
    [run] = statement.runs.to_pylist()
    assert (run["result"], statement.findings) == ("not_run", ())
    assert said in run["explanation"]


def test_a_quantity_that_fits_no_amount_leaves_the_others_theirs() -> None:
    # A control says of one tenant that a number of 28 digits is missing; at 0.001 it has no room before the point.
    most = "max(CASE WHEN tenant_id = 'late' THEN 9999999999999999999999999999::DECIMAL(38, 9) ELSE quantity END)"
    body = BODY.replace("count(*) AS rows", f"{most}::DECIMAL(38, 9) AS quantity_difference").replace(
        "['late', 'idle']", "[]"
    )
    head = HEAD.replace("E4", "E1").replace("['late', 'idle']", "[]")
    world = World()
    world.write(event(quantity="100"), event("late", quantity="100", day=12), event("idle", quantity="300"))
    statement = statement_of(world, controls=[read_control(head + body, "big_event.sql", is_ours=False)])
    assert statement.runs["explanation"].to_pylist() == [""]
    found = {one.tenant_id: one for one in statement.findings}
    assert (found["acme"].estimate_basis, found["acme"].amount_likely) == ("E1", Decimal("0.1"))
    assert (found["late"].estimate_basis, found["late"].amount_likely) == ("E4", None)
    # Idle has no subscription, now or before: the newest plan says what it would cost.
    assert (found["idle"].estimate_basis, found["idle"].amount_likely) == ("E3", Decimal("0.3"))


@pytest.mark.parametrize(
    ("said", "read"),
    [
        ("40.000000000000000000000 USD charged, 35.5 on lines", "40.00 USD charged, 35.5 on lines"),
        ("-0.000322580645161290323 USD", "-0.000322580645161290323 USD"),
        ("of 1200.000000000; rating took 0.100000000", "of 1200; rating took 0.1"),
        # A version and an id stay as they are.
        ("plan pro version 1.10 of p-1.100000000x", "plan pro version 1.10 of p-1.100000000x"),
    ],
)
def test_figures_in_words_are_as_people_write_them(said: str, read: str) -> None:
    body = BODY.replace("count(*) AS rows", f"'{said}' AS detail").replace("quantity > ", "quantity <= ")
    control = read_control(HEAD + body, "big_event.sql", is_ours=False)
    world = World()
    world.write(event())
    [one] = statement_of(world, controls=[control]).findings
    assert one.detail == read


def test_the_same_facts_are_the_same_run() -> None:
    world = World()
    world.write(event("nobody"))
    first, second = statement_of(world), statement_of(world)
    assert first.breaks == second.breaks
    assert first.runs == second.runs
    world.write(event())
    assert statement_of(world).runs["run_id"][0] != first.runs["run_id"][0]


def test_the_document_lists_the_controls_as_their_heads_do() -> None:
    text = (ROOT / "docs" / "reconciliation.md").read_text(encoding="utf-8")
    listed = [line for line in text.splitlines() if line.startswith("| `") and line.count("|") == 6]
    assert listed == [
        f"| `{one.control_id}` | {one.point} | {one.finding_class} | {', '.join(one.owners)} | {one.compares} |"
        for one in sorted(our_controls(), key=lambda one: (one.point, one.control_id))
    ]


def test_the_control_of_the_document_runs(tmp_path: Path) -> None:
    text = (ROOT / "docs" / "reconciliation.md").read_text(encoding="utf-8")
    start = text.index("    -- control: BIG_EVENT")
    lines = text[start : text.index("GROUP BY ALL", start)].splitlines()
    # In the document a word of explanation stands behind a value, after more blanks.
    body = [re.sub(r"(-- \w+: \S+(?:, \S+)*) {2,}.*", r"\1", line[4:]) for line in lines]
    (tmp_path / "big_event.sql").write_text("\n".join([*body, "GROUP BY ALL"]))
    [control], refused = controls_in(tmp_path)
    assert refused == []
    world = World()
    world.write(event(quantity="1000001"), event(quantity="1000000"))
    [one] = statement_of(world, controls=[control]).findings
    assert (one.control_id, one.quantity_difference, one.estimate_basis) == ("BIG_EVENT", Decimal(1000001), "E4")
