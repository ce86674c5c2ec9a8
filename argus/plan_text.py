"""A plan as text for a terminal, as Markdown for the comments of a pull request, and as JSON.

All are made from `plandata.data`, be it from here or from a server, and hold no times: equal plans give equal texts.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

from argus.reports import printable
from reconciler.core.effects import Effect
from reconciler.yamlsafe import shorten

MARKER = "<!-- argus-plan -->"
"""The first line of the Markdown form: a bot finds its own comment by it."""

MOST_ROWS = 100
"""How many models a comment shows; code hosts take 65,536 characters."""
LONGEST_MESSAGE = 300

Plan = Mapping[str, Any]

_SIGNS = {
    Effect.CREATE: "+",
    Effect.START: "+",
    Effect.UPDATE: "~",
    Effect.SCALE: "~",
    Effect.ROLL: "~",
    Effect.REMOVE: "-",
    Effect.FALL_BACK: "~",
    Effect.REJECT: "!",
    Effect.WAIT: "!",
    Effect.BLOCK: "!",
    Effect.FAIL: "!",
    Effect.HOLD: "!",
    Effect.WITHHOLD: "!",
}

_COUNTED = {
    Effect.CREATE: "created",
    Effect.START: "started",
    Effect.UPDATE: "updated in place",
    Effect.SCALE: "scaled",
    Effect.ROLL: "rolled",
    Effect.REMOVE: "removed",
    Effect.FALL_BACK: "taken back",
    Effect.REJECT: "rejected",
    Effect.WAIT: "waiting for room",
    Effect.BLOCK: "impossible as things are",
    Effect.FAIL: "without a usable folder",
    Effect.HOLD: "held",
    Effect.WITHHOLD: "held back",
}


_OTHERWISE = {**_COUNTED, Effect.NONE: "left as it is"}


def as_json(plan: Plan) -> str:
    """Write everything that is known."""
    return json.dumps(plan, indent=2) + "\n"


def as_text(plan: Plan) -> str:
    """Write one line a model, what it comes to in GPUs, and who is left alone."""
    lines = [f"Plan{_of(plan)} on {_short(plan['base'])}, {_against(plan)}: {_summary(plan)}"]
    for change in plan["changes"]:
        sign = _SIGNS[Effect(change["effect"])]
        lines.append(f"  {sign} {_name(change)}: {printable(_what(change))}{_gpus_of(change)}")
        lines += [f"      {printable(each)}" for each in _details(change)]
    lines.append(_gpus(plan))
    lines += [f"  {owner}" for owner in _owners(plan)]
    lines.append(_untouched(plan))
    return "\n".join([*lines, *_notes(plan), ""])


def as_markdown(plan: Plan) -> str:
    """Write a comment. What strangers wrote in it is text and no markup, and names nobody."""
    lines = [MARKER, f"### Argus plan: {_summary(plan)}", ""]
    if plan["changes"]:
        lines += ["| | model | what happens | GPUs |", "| --- | --- | --- | --- |"]
        for change in plan["changes"][:MOST_ROWS]:
            what = "<br>".join(_escaped(each) for each in [_what(change), *_details(change)])
            gpus = f"{change['gpus']['before']} → {change['gpus']['after']}"
            lines.append(f"| `{_SIGNS[Effect(change['effect'])]}` | {_escaped(_name(change))} | {what} | {gpus} |")
        if more := len(plan["changes"]) - MOST_ROWS:
            lines += [] if more < 0 else ["", f"… and {more} more."]
        lines.append("")
    lines += [_escaped(_gpus(plan)), "", *(f"- {_escaped(owner)}" for owner in _owners(plan)), ""]
    lines += [_escaped(_untouched(plan)), ""]
    lines += [f"_{_escaped(note)}_\n" for note in _notes(plan)]
    lines.append(f"<sub>plan{_of(plan, '`')} on `{_short(plan['base'])}`, {_against(plan)}; nothing was run</sub>")
    return "\n".join([*lines, ""])


FORMATS: Mapping[str, Callable[[Plan], str]] = {"text": as_text, "markdown": as_markdown, "json": as_json}


def _summary(plan: Plan) -> str:
    counted = Counter(Effect(change["effect"]) for change in plan["changes"])
    down = sum(change["downtime"] is True for change in plan["changes"])
    said = []
    for effect, word in _COUNTED.items():
        if counted[effect]:
            less = f" ({down} with downtime)" if effect is Effect.ROLL and down else ""
            said.append(f"{counted[effect]} {word}{less}")
    return ", ".join(said) or "nothing changes"


def _what(change: Plan) -> str:  # noqa: PLR0911, PLR0912  one return an effect
    count = change["replicas"]
    match Effect(change["effect"]):
        case Effect.CREATE:
            return f"created, {_replicas(count['after'])}; the merge gives it its name"
        case Effect.START:
            return f"starts, {_replicas(count['after'])}"
        case Effect.UPDATE:
            return "updated in place, nothing restarts"
        case Effect.SCALE:
            return f"scaled from {count['before']} to {_replicas(count['after'])}, nothing restarts"
        case Effect.ROLL:
            return f"rolled: {_downtime(change['downtime'])}"
        case Effect.REMOVE:
            return "removed, when its last answers have ended"
        case Effect.REJECT:
            return f"rejected{_place(change)}: {_kept(change)}"
        case Effect.WAIT:
            return f"waits for room: {_kept(change)}"
        case Effect.BLOCK:
            return f"cannot be done as things are: {_kept(change)}"
        case Effect.FAIL:
            return f"cannot be served: {_kept(change)}"
        case Effect.FALL_BACK:
            return f"fails: {_kept(change)}"
        case Effect.WITHHOLD:
            return f"held back ({change['held']['kind']}), would be {_OTHERWISE[Effect(change['held']['then'])]}"
        case Effect.HOLD | Effect.NONE:
            return f"is not tried again yet: {_kept(change)}"


def _downtime(down: bool | None) -> str:
    if down is None:
        return "new engines replace the old; whether it is down meanwhile depends on the free GPUs"
    if down:
        return "with downtime, for there is no room for new engines beside the old"
    return "without downtime, new engines start beside the old"


def _kept(change: Plan) -> str:
    return "what runs goes on" if change["replicas"]["after"] else "nothing of it runs"


def _replicas(count: int) -> str:
    return f"{count} replica{'s' * (count != 1)}"


def _details(change: Plan) -> list[str]:
    said = []
    if change["message"] and change["effect"] != Effect.WITHHOLD.value:
        where = f"line {change['line']}: " if change["line"] and change["effect"] != Effect.REJECT.value else ""
        said.append(shorten(f"{where}{change['message']}", LONGEST_MESSAGE))
    for name, value in change["fields"].items():
        said += [shorten(each, LONGEST_MESSAGE) for each in _moved(name, value["from"], value["to"])]
    if not change["touched"]:
        said.append("its own file stays as it is")
    if writer := change.get("written_by"):
        said.append(f"last written by {writer['name']} <{writer['email']}> in {writer['commit'][:12]}")
    return said


def _moved(name: str, old: Any, new: Any) -> list[str]:
    """Say how a field's value changes; of a mapping, its members that do."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
        return [line for key in keys for line in _moved(f"{name}.{key}", old.get(key), new.get(key))]
    return [f"{name}: {_value(old)} → {_value(new)}"]


def _value(value: Any) -> str:
    return "its default" if value is None else json.dumps(value)


def _place(change: Plan) -> str:
    return f" (line {change['line']})" if change["line"] else ""


def _name(change: Plan) -> str:
    return f"{change['user_id']}/{change['suffix']}"


def _gpus_of(change: Plan) -> str:
    before, after = change["gpus"]["before"], change["gpus"]["after"]
    return "" if before == after else f" [{before} → {after} GPUs]"


def _gpus(plan: Plan) -> str:
    gpus = plan["gpus"]
    total = "a cluster whose size is not known" if gpus["total"] is None else f"{gpus['total']:g}"
    return f"GPUs: {gpus['before']} → {gpus['after']} of {total}"


def _owners(plan: Plan) -> list[str]:
    moved = [each for each in plan["owners"] if each["before"] != each["after"]]
    lines = [f"{each['user_id']}: {each['before']} → {each['after']}" for each in moved[:MOST_ROWS]]
    return lines + ([f"and {len(moved) - MOST_ROWS} more users"] if len(moved) > MOST_ROWS else [])


def _untouched(plan: Plan) -> str:
    count, paths = plan["untouched"]["count"], plan["untouched"]["paths"]
    named = ", ".join(path.removeprefix("users/").removesuffix(".yaml") for path in paths)
    more = f" and {count - len(paths)} more" if count > len(paths) else ""
    return f"Untouched: {count} model{'s' * (count != 1)}{f' ({named}{more})' if named else ''}"


def _notes(plan: Plan) -> list[str]:
    notes = [f"Held back: {shorten(why, LONGEST_MESSAGE)}" for why in _held_back(plan)]
    notes += [printable(shorten(note, LONGEST_MESSAGE)) for note in (plan.get("policy") or {}).get("notes", ())]
    if plan["new_users"]:
        notes.append(f"New users: {', '.join(plan['new_users'][:MOST_ROWS])}")
    others = plan["others"]
    if others["changed"] or others["untouched"]:
        notes.append(f"Other users' models: {others['changed']} change, {others['untouched']} stay as they are")
    return notes


def _held_back(plan: Plan) -> list[str]:
    """Give each reason once: a brake is one for many models."""
    held = [change["message"] for change in plan["changes"] if change["effect"] == Effect.WITHHOLD.value]
    return [printable(why) for why in dict.fromkeys(held)][:MOST_ROWS]


def _against(plan: Plan) -> str:
    return "as if all of that ran" if plan["against"] == "base" else "against what runs"


def _short(sha: str | None) -> str:
    return sha[:12] if sha else "an empty branch"


def _of(plan: Plan, quote: str = "") -> str:
    return f" of {quote}{_short(plan['head'])}{quote}" if plan["head"] else ""


_MARKUP = re.compile(r"[\\`*_\[\]<>#|~&@:]")


def _escaped(text: str) -> str:
    """Make every character that Markdown, HTML or a code host reads into something else an entity."""
    return _MARKUP.sub(lambda found: f"&#{ord(found[0])};", printable(text))
