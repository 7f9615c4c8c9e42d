-- Documents, the log of their changes, and leases.

-- One row. `rev` counts commits and is updated within each, so revisions are in the order of commits, which a
-- sequence's numbers would not be. `horizon` is the newest revision whose changes are no longer in the log.
CREATE TABLE revision (
    id      INTEGER PRIMARY KEY CHECK (id = 1),
    rev     INTEGER NOT NULL,
    horizon INTEGER NOT NULL
) STRICT;

INSERT INTO revision (id, rev, horizon) VALUES (1, 0, 0);

CREATE TABLE docs (
    key   TEXT PRIMARY KEY NOT NULL,
    rev   INTEGER NOT NULL,
    value BLOB NOT NULL
) STRICT;

-- A change without a value is a deletion.
CREATE TABLE changes (
    rev   INTEGER NOT NULL,
    seq   INTEGER NOT NULL,
    key   TEXT NOT NULL,
    value BLOB,
    PRIMARY KEY (rev, seq)
) STRICT;

-- Only the end of a lease lies here, because a renewal must not move the feed. Who holds it is the document
-- `leases/{name}`, whose revision is the fencing token.
CREATE TABLE leases (
    name          TEXT PRIMARY KEY NOT NULL,
    token         INTEGER NOT NULL,
    expires_at_ms INTEGER NOT NULL
) STRICT;
