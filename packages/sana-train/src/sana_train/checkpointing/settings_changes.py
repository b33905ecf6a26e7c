"""What differs between the settings of a run and those it is resumed with, in words that fit on a few lines."""

from typing import Any

SHOWN = 3  # rows of a table that are named
LONGEST = 100  # characters of a value


def settings_changes(then: Any, now: Any, name: str = "") -> list[str]:
    """Each setting that differs as "name before -> now", tables by what came, went and changed; of JSON values."""
    if then == now:
        return []
    if name and _is_table(then) and _is_table(now):
        return [f"{name}: {_table_changes(_rows(then), _rows(now))}"]
    if not (isinstance(then, dict) and isinstance(now, dict)):
        return [f"{name} {_short(then)} -> {_short(now)}"]
    words = []
    for key in {**then, **now}:
        words += settings_changes(then.get(key), now.get(key), f"{name}.{key}" if name else key)
    return words


def _is_table(value: Any) -> bool:
    """Whether a value is a list of rows that begin with names, or many of them by their names."""
    if isinstance(value, dict):
        return len(value) > SHOWN and all(isinstance(row, list) for row in value.values())
    return isinstance(value, list) and all(isinstance(row, list) and row and isinstance(row[0], str) for row in value)


def _rows(table: Any) -> dict[str, Any]:
    return table if isinstance(table, dict) else {row[0]: row for row in table}


def _table_changes(then: dict[str, Any], now: dict[str, Any]) -> str:
    found = {
        "came": [name for name in now if name not in then],
        "went": [name for name in then if name not in now],
        "changed": [name for name in now if name in then and then[name] != now[name]],
    }
    names = [name for part in found.values() for name in part]
    if not names:
        return "another order"
    counts = ", ".join(f"{len(part)} {what}" for what, part in found.items() if part)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return f"{counts}: {', '.join(names[:SHOWN])}{rest}"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."
