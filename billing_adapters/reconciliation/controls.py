"""Controls: each one a `.sql` file with a head that says what it is. A folder of them is read; nothing is registered.

Enters: a folder of `.sql` files, ours or the `controls/` of a workspace. Leaves: a `Control` for each file, and a `Refused`
for each file whose head cannot be read: it is reported as a control that did not run, and the others go on.
Refuses: statements that are not one SELECT, heads that leave something out, keys and words that are not known.

A head is the comment at the beginning of the file, one `-- key: value` a line; a line that begins with more blanks goes on
with the value before it. All keys are needed but `setting` and `needs`, which may be there many times, and `within`:

    -- control: UNKNOWN_TENANT            the name of the file in capitals
    -- version: 1                         counted up when the rule changes
    -- point: P3                          where in the pipeline it looks, P0 to P8
    -- compares: ...                      the two figures, and where each comes from
    -- catches: ...                       what goes wrong when they differ
    -- class: AT_RISK                     what a break is, unless the statement says so itself
    -- owner: OPS                         who acts
    -- money: E1                          how a break is valued: EXACT, E1 to E4, or none
    -- within: DEAD_LETTER                its units are those of another control already; totals count them there
    -- act: ...                           what to do
    -- cadence: delivery                  delivery, daily, weekly, close, or every run
    -- setting: silence_minutes = 15      a value of the statement ($silence_minutes), and what it means
    -- needs: witness, at most 48 hours old

What a statement may return: columns of BREAK that are in `SAYABLE`, `reason` among them. One row per break.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from billing_adapters.reconciliation.tables import BASES, CLASSES, OWNERS

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping
    from importlib.resources.abc import Traversable

Value = int | Decimal | str | tuple[str, ...]

POINTS: Final = tuple(f"P{number}" for number in range(9))
CADENCES: Final = ("every run", "delivery", "daily", "weekly", "close")
# The columns of BREAK that a statement may give; all others are the runner's or of the stake.
SAYABLE: Final = (
    "tenant_id", "account_id", "subscription_id", "meter", "adapter", "reason", "subject", "rows", "quantity_expected",
    "quantity_actual", "quantity_difference", "unit", "amount_low", "amount_likely", "amount_high", "currency",
    "estimate_basis", "class", "occurred_at", "recover_by", "detail", "evidence_path", "evidence_hash", "evidence_sample",
)  # fmt: skip

_KEYS: Final = ("control", "version", "point", "compares", "catches", "class", "owner", "money", "act", "cadence")
_MANY: Final = ("setting", "needs")
_LINE = re.compile(r"-- ([a-z]+): (\S.*)")
_MORE = re.compile(r"-- {2,}(\S.*)")
_NAME = re.compile(r"[A-Z][A-Z0-9_]{2,63}")
_SETTING = re.compile(r"([a-z][a-z0-9_]*) = (\[[^\]]*\]|'[^']*'|\S+)\s*(.*)")
_NEEDS = re.compile(r"([a-z][a-z0-9_]*)(?:, at most ([1-9][0-9]*) (minutes?|hours?|days?) old)?")
_SECONDS: Final = {"minute": 60, "hour": 3600, "day": 86_400}


class BadHead(ValueError):
    """The head of a control cannot be read. Says the file, the line and what to write."""


@dataclass(frozen=True, slots=True)
class Setting:
    """A number, a text or a list of texts that the statement names as `$name`; a workspace may give another."""

    name: str
    default: Value
    meaning: str


@dataclass(frozen=True, slots=True)
class Need:
    """A table that the statement reads, and how old its newest row may be before the end of what is looked at."""

    name: str
    age_max_s: int | None = None


@dataclass(frozen=True, slots=True)
class Control:
    """One comparison of two independent figures: its head, and the statement that returns the breaks.

    `bucket` is where its breaks are counted; '' where another control (`within`) counts the same units already.
    """

    control_id: str
    version: int
    point: str
    compares: str
    catches: str
    finding_class: str
    owners: tuple[str, ...]
    money: str
    act: str
    cadence: str
    statement: str
    source: str
    is_ours: bool
    within: str | None = None
    settings: tuple[Setting, ...] = ()
    needs: tuple[Need, ...] = ()
    values: Mapping[str, Value] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        """Return who acts first."""
        return self.owners[0]

    @property
    def bucket(self) -> str:
        return "" if self.within else self.control_id.lower()

    @property
    def body(self) -> str:
        """Return the statement without its comments."""
        return "\n".join(line.partition("--")[0] for line in self.statement.splitlines())

    @property
    def control_hash(self) -> str:
        """Return the SHA-256 of the file: what was run, to the letter."""
        return hashlib.sha256(self.statement.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Refused:
    """A file in a folder of controls that is none, or a setting that fits none. `reason` says what to write."""

    control_id: str
    reason: str
    statement: str = ""


def read_control(text: str, source: str, *, is_ours: bool) -> Control:
    """Return the control in a file. `source` is its name, such as `controls/unbilled_seats.sql`. Raises BadHead."""
    said, many = _head_of(text, source)
    for key in _KEYS:
        if key not in said:
            raise BadHead(f"{source}: the head does not say `{key}`; write a line `-- {key}: ...`")
    control_id = said["control"]
    if not _NAME.fullmatch(control_id) or control_id.lower() != Path(source).stem:
        raise BadHead(
            f"{source}: control {control_id!r} must be the name of its file in capitals; rename one of the two"
        )
    if not re.fullmatch(r"[1-9][0-9]{0,8}", said["version"]):
        raise BadHead(f"{source}: version {said['version']!r} is not a whole number from 1 on")
    owners = tuple(part.strip() for part in said["owner"].split(","))
    for owner in owners:
        _one_of(owner, OWNERS, "owner", source)
    control = Control(
        control_id=control_id,
        version=int(said["version"]),
        point=_one_of(said["point"], POINTS, "point", source),
        compares=said["compares"],
        catches=said["catches"],
        finding_class=_one_of(said["class"], CLASSES, "class", source),
        owners=owners,
        money=_one_of(said["money"], (*BASES, "none"), "money", source),
        act=said["act"],
        cadence=_one_of(said["cadence"], CADENCES, "cadence", source),
        statement=text,
        source=source,
        is_ours=is_ours,
        within=said.get("within"),
        settings=tuple(_setting(line, source) for line in many["setting"]),
        needs=tuple(_need(line, source) for line in many["needs"]),
    )
    _check_statement(control)
    return control


def our_controls() -> tuple[Control, ...]:
    """Return the controls that come with Tallybook, in the order of their ids."""
    return _our_controls()


@cache
def _our_controls() -> tuple[Control, ...]:
    folder = resources.files("billing_adapters.reconciliation").joinpath("sql", "controls")
    return tuple(
        read_control(file.read_text(encoding="utf-8"), file.name, is_ours=True) for file in _sql_files(folder.iterdir())
    )


def controls_in(folder: Path) -> tuple[list[Control], list[Refused]]:
    """Return the controls of a workspace's folder, and the files that are none with the reason. No folder: none."""
    found: list[Control] = []
    refused: list[Refused] = []
    ours = {control.control_id for control in our_controls()}
    for file in _sql_files(folder.iterdir() if folder.is_dir() else ()):
        source = f"{folder.name}/{file.name}"
        try:
            control = read_control(file.read_text(encoding="utf-8"), source, is_ours=False)
            if control.control_id in ours:
                raise BadHead(f"{source}: {control.control_id} comes with Tallybook; give yours another name")
        except (BadHead, UnicodeDecodeError) as error:
            what = str(error) if isinstance(error, BadHead) else f"{source}: it is not UTF-8 text; save it as UTF-8"
            refused.append(Refused(Path(file.name).stem.upper(), what))
        else:
            found.append(control)
    return found, refused


def all_controls(
    folder: Path | None = None, settings: Mapping[str, Mapping[str, object]] | None = None
) -> tuple[list[Control], list[Refused]]:
    """Return every control, ours and those of a folder, each with the values that the workspace's settings give it.

    `settings` by control id, then by name: `{"DEAD_LETTER_AGED": {"age_max_days": 3}}`. What fits no control is refused.
    """
    theirs, refused = controls_in(folder) if folder is not None else ([], [])
    controls = {control.control_id: control for control in (*our_controls(), *theirs)}
    for control_id, values in sorted((settings or {}).items()):
        control = controls.get(control_id)
        if control is None:
            refused.append(
                Refused(control_id, f"settings name a control {control_id!r} that is not there; correct the name")
            )
            continue
        try:
            controls[control_id] = with_values(control, values)
        except BadHead as error:
            # Half of a setting is none: with the wrong threshold the control must not seem to have run.
            refused.append(Refused(control_id, str(error), control.statement))
            del controls[control_id]
    return [controls[control_id] for control_id in sorted(controls)], refused


def with_values(control: Control, values: Mapping[str, object]) -> Control:
    """Return a control with a workspace's values in the place of defaults. Raises BadHead for one that does not fit."""
    from dataclasses import replace

    known = {setting.name: setting for setting in control.settings}
    read: dict[str, Value] = {}
    for name, value in values.items():
        if name not in known:
            listed = ", ".join(known) or "none"
            raise BadHead(f"{control.control_id} has no setting {name!r}; it has: {listed}")
        read[name] = _fitted(control.control_id, known[name], value)
    return replace(control, values=read)


def parameters_of(control: Control) -> dict[str, Value]:
    """Return the value of each setting: the workspace's, else the default."""
    return {setting.name: control.values.get(setting.name, setting.default) for setting in control.settings}


def _fitted(control_id: str, setting: Setting, value: object) -> Value:
    """Return a value of the settings file as the type of the default. Floats are refused: write decimals as text."""
    default = setting.default
    if isinstance(default, tuple) and isinstance(value, list) and all(isinstance(one, str) for one in value):
        return tuple(value)
    if isinstance(default, str) and isinstance(value, str):
        return value
    is_whole = isinstance(value, int) and not isinstance(value, bool)
    text = str(value) if is_whole or isinstance(value, str) else ""
    if isinstance(default, int) and re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if isinstance(default, Decimal) and re.fullmatch(r"[0-9]{1,18}(\.[0-9]{1,9})?", text):
        return Decimal(text)
    wanted = {
        int: "a whole number",
        Decimal: 'a decimal as text, such as "0.001"',
        str: "a text",
        tuple: "a list of texts",
    }
    raise BadHead(f"{control_id}: {setting.name} = {value!r} does not fit; write {wanted[type(default)]}")


def _head_of(text: str, source: str) -> tuple[dict[str, str], dict[str, list[str]]]:
    said: dict[str, str] = {}
    many: dict[str, list[str]] = {key: [] for key in _MANY}
    last = ""
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.startswith("--"):
            break
        if (more := _MORE.fullmatch(line)) and last:
            if last in many:
                many[last][-1] += f" {more[1]}"
            else:
                said[last] += f" {more[1]}"
            continue
        found = _LINE.fullmatch(line)
        if not found or found[1] not in (*_KEYS, *_MANY, "within"):
            raise BadHead(f"{source} line {number}: {line!r} is no line of a head; write `-- key: value`")
        last = found[1]
        if last in many:
            many[last].append(found[2])
        elif last in said:
            raise BadHead(f"{source} line {number}: the head says `{last}` twice; keep one")
        else:
            said[last] = found[2]
    return said, many


def _one_of(value: str, known: tuple[str, ...], key: str, source: str) -> str:
    if value not in known:
        raise BadHead(f"{source}: {key} {value!r} is not known; write one of {', '.join(known)}")
    return value


def _setting(line: str, source: str) -> Setting:
    found = _SETTING.fullmatch(line)
    if not found or not found[3]:
        raise BadHead(f"{source}: setting {line!r} cannot be read; write `name = value` and then what it means")
    return Setting(found[1], _value(found[2], line, source), found[3])


def _value(text: str, line: str, source: str) -> Value:
    if text.startswith("["):
        return tuple(part.strip().strip("'") for part in text[1:-1].split(",") if part.strip())
    if text.startswith("'"):
        return text[1:-1]
    if re.fullmatch(r"[0-9]{1,18}", text):
        return int(text)
    if re.fullmatch(r"[0-9]{1,18}\.[0-9]{1,9}", text):
        return Decimal(text)
    raise BadHead(f"{source}: the value of setting {line!r} is no number, 'text' or ['list']")


def _need(line: str, source: str) -> Need:
    found = _NEEDS.fullmatch(line)
    if not found:
        raise BadHead(f"{source}: needs {line!r} cannot be read; write a table, and perhaps `, at most 2 days old`")
    age = None if found[2] is None else int(found[2]) * _SECONDS[found[3].rstrip("s")]
    return Need(found[1], age)


def _check_statement(control: Control) -> None:
    """Refuse what is not one SELECT, and settings that the statement does not use."""
    import duckdb

    try:
        statements = duckdb.extract_statements(control.statement)
    except duckdb.Error as error:
        raise BadHead(f"{control.source}: the statement cannot be read ({str(error).splitlines()[0]})") from None
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        raise BadHead(f"{control.source}: a control is one SELECT; it reads, and changes nothing")
    named = set(re.findall(r"\$([a-z][a-z0-9_]*)", control.body))
    for setting in control.settings:
        if setting.name not in named:
            raise BadHead(
                f"{control.source}: the statement does not use ${setting.name}; take the setting out or use it"
            )
    unknown = named - {setting.name for setting in control.settings} - set(PARAMETERS)
    if unknown:
        names = ", ".join(f"${name}" for name in sorted(unknown))
        raise BadHead(f"{control.source}: {names} is no setting of its head; write `-- setting: {min(unknown)} = ...`")


# What every statement may name: the UTC dates and instants of the period, its end open, and the instant looked at.
PARAMETERS: Final = ("first_date", "end_date", "start_instant", "end_instant", "as_of")


def _sql_files(files: Iterable[Traversable]) -> Iterator[Traversable]:
    yield from sorted((file for file in files if file.name.endswith(".sql")), key=lambda file: file.name)
