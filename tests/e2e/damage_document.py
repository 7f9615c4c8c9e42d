"""Damages a document of a stopped server: damage_document.py STATE_DB KEY_END VALUE."""

import sqlite3
import sys

path, end, value = sys.argv[1:]
with sqlite3.connect(path) as database:
    changed = database.execute(
        "UPDATE docs SET value = ? WHERE key LIKE ?", (value.encode(), "%" + end)
    )
    assert changed.rowcount == 1, f"{changed.rowcount} documents end in {end}"
database.close()
