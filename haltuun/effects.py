"""Which changes are in effect, which were taken back and which are still open, by the journal. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from haltuun.ledger import ChangeEvent, RunRow
from haltuun.model import Change, canonical

TakenBack = list[tuple[ChangeEvent, str]]


def effects(events: Iterable[ChangeEvent]) -> tuple[dict[str, ChangeEvent], TakenBack]:
    """From events oldest first: what is in effect, by change id, in the order in which it came to be; and
    what was taken back, with the run that did it.

    Each is the event that confirmed it, as the work of the run that sent it: a killed run's change is its
    own, whoever found it done. An inverse change (`undoes`) is in effect like any other; when it is undone
    itself, what it took away is there again. What is made again builds on all that it was built on before.
    """
    now: dict[str, ChangeEvent] = {}
    taken_back: dict[str, tuple[ChangeEvent, str]] = {}
    made_by: dict[str, str] = {}
    inverses: dict[str, list[str]] = {}  # change id → the changes that took it back
    needs: dict[str, set[str]] = defaultdict(set)
    for event in events:
        change = event.change
        if event.event == "intended":
            # It is sent only where it was not in effect, whatever was known of it before.
            now.pop(change.id, None)
            made_by[change.id] = event.run
        if event.event != "confirmed":
            continue
        undone = now.pop(change.undoes, None) if change.undoes else None
        for other in inverses.pop(change.id, ()):
            if other in now and now[other].change.undoes == change.id:
                del now[other]  # it was taken back, and is there again
        if undone is not None and undone.change.undoes in taken_back:
            original, _ = taken_back.pop(undone.change.undoes)
            now[original.change_id] = original
            continue
        if undone is not None:
            taken_back[undone.change_id] = (undone, event.run)
        if change.undoes:
            inverses.setdefault(change.undoes, []).append(change.id)
        needs[change.id].update(change.depends_on)
        built = change.model_copy(update={"depends_on": tuple(sorted(needs[change.id]))})
        now[change.id] = event.model_copy(update={"run": made_by.get(change.id, event.run), "change": built})
    return now, list(taken_back.values())


def still_open(events: Iterable[ChangeEvent]) -> list[ChangeEvent]:
    """From an account's events, oldest first: the last one of each change of which nobody knows yet what
    became of it."""
    still: dict[str, ChangeEvent] = {}
    for event in events:
        if event.event in ("intended", "sent", "unknown"):
            still[event.change_id] = event
        else:
            still.pop(event.change_id, None)
    return list(still.values())


def open_changes(events: Iterable[ChangeEvent]) -> list[Change]:
    """The changes of `still_open`."""
    return [event.change for event in still_open(events)]


def staying(there: Sequence[ChangeEvent]) -> dict[str, tuple[str, str]]:
    """Of what is in effect, in its order: what an undo of its run leaves there by the journal alone.

    Change id → "kept" (it has no undo) or "needed", and why. Needed is what another run's change depends on,
    or has changed further, and all of the same run that such a change depends on.
    """
    place = {one.change.id: number for number, one in enumerate(there)}
    needed: dict[str, ChangeEvent] = {}
    alike: dict[tuple[str, str, str], list[ChangeEvent]] = defaultdict(list)
    for number, one in enumerate(there):
        for need in one.change.depends_on:
            # What was there before a run made its part again built on an earlier one, that is gone.
            if place.get(need, number) < number and there[place[need]].run != one.run:
                needed[need] = one
        alike[one.change.kind, one.change.region, one.change.target].append(one)
    for group in alike.values():
        for number, one in enumerate(group):
            for later in group[number + 1 :]:
                if later.run != one.run and not later.change.undoes and _further(one.change, later.change):
                    needed.setdefault(one.change.id, later)
    found = {}
    for one in reversed(there):
        change, by = one.change, needed.get(one.change.id)
        if change.undo is None:
            found[change.id] = ("kept", change.no_undo or "There is no undo.")
        elif by is not None:
            same_run = (n for n in change.depends_on if n in place and there[place[n]].run == one.run)
            needed.update({need: by for need in same_run})
            found[change.id] = ("needed", f"Run {by.run} builds on it: {by.change.summary}")
    return found


def _further(change: Change, later: Change) -> bool:
    """Whether the later change of the same thing goes on from what this one made, or made it again."""
    return canonical(change.after) in (canonical(later.before), canonical(later.after))


def left(runs: Iterable[RunRow]) -> dict[tuple[str, str], str]:
    """(run, change id) → why the last undo of that run left the change; `runs` oldest first."""
    found = {
        (str(run.body["undoes"]), change_id): str(why)
        for run in runs
        for change_id, why in (run.body.get("left") or {}).items()
    }
    return {key: why for key, why in found.items() if why}
