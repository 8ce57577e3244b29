"""Which changes are in effect, and which were taken back, by an account's journal. Pure."""

from __future__ import annotations

from collections.abc import Iterable

from haltuun.ledger import ChangeEvent

TakenBack = list[tuple[ChangeEvent, str]]


def effects(events: Iterable[ChangeEvent]) -> tuple[dict[str, ChangeEvent], TakenBack]:
    """From events oldest first: what is in effect, by change id, in the order in which it came to be; and
    what was taken back, with the run that did it.

    Each is the event that confirmed it, as the work of the run that sent it: a killed run's change is its
    own, whoever found it done. An inverse change (`undoes`) is in effect like any other; when it is undone
    itself, what it took away is there again.
    """
    now: dict[str, ChangeEvent] = {}
    taken_back: dict[str, tuple[ChangeEvent, str]] = {}
    made_by: dict[str, str] = {}
    inverses: dict[str, list[str]] = {}  # change id → the changes that took it back
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
        now[change.id] = event.model_copy(update={"run": made_by.get(change.id, event.run)})
    return now, list(taken_back.values())
