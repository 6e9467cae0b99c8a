"""The process that runs statements: a script that needs Python's standard library alone and starts in about 50 ms.

`python worker.py MEMORY` writes a line when it is ready, then reads a request per line and writes a reply per line:

    {"uri": ..., "statement": ..., "seconds": ..., "rows": ...}
    {"rows": [[...], ...]}    or    {"error": kind, "message": ...}

Texts are JSON strings, and blobs `{"hex": ...}`. Each statement gets a separate connection, to a file that is opened
read-only and as immutable. What a statement may do, how much it may use and how long it may take is limited here; what
these limits cannot stop in time (a long prepare, a pattern that backtracks), the parent process kills.
"""

from __future__ import annotations

import contextlib
import json
import math
import sqlite3
import sys
import time
from typing import Any

RESULT_BYTES = 16 << 20  # of all values of a result
SPARE_BYTES = 512 << 20  # of address space, beside SQLite's memory: for the interpreter, the result and its JSON
VALUE_BYTES = 16  # what a number, or the frame of a text, counts
STEPS = 1000  # of SQLite's virtual machine between two looks at the clock
MESSAGE = 500  # characters

LIMITS = {
    sqlite3.SQLITE_LIMIT_LENGTH: RESULT_BYTES,  # bytes of a text, a blob or a row
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 100_000,  # bytes
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 200,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 100,
    sqlite3.SQLITE_LIMIT_VDBE_OP: 250_000,
    sqlite3.SQLITE_LIMIT_FUNCTION_ARG: 100,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 1000,  # bytes
    sqlite3.SQLITE_LIMIT_TRIGGER_DEPTH: 1,
    sqlite3.SQLITE_LIMIT_WORKER_THREADS: 0,
}
ALLOWED = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_RECURSIVE}
# They load code, take a pointer as an argument, or write to the error log.
REFUSED_FUNCTIONS = {"load_extension", "fts3_tokenizer", "sqlite_log"}
KINDS = {
    sqlite3.SQLITE_AUTH: "refused",
    sqlite3.SQLITE_READONLY: "refused",
    sqlite3.SQLITE_INTERRUPT: "timeout",
    sqlite3.SQLITE_NOMEM: "memory",
    sqlite3.SQLITE_TOOBIG: "size",
    sqlite3.SQLITE_CANTOPEN: "database",
    sqlite3.SQLITE_CORRUPT: "database",
    sqlite3.SQLITE_IOERR: "database",
    sqlite3.SQLITE_NOTADB: "database",
}


def authorize(action: int, first: str | None, second: str | None, database: str | None, source: str | None) -> int:
    """Allows reading and calling functions; SQLite asks before it compiles a statement."""
    if action == sqlite3.SQLITE_FUNCTION:
        return sqlite3.SQLITE_DENY if str(second).lower() in REFUSED_FUNCTIONS else sqlite3.SQLITE_OK
    return sqlite3.SQLITE_OK if action in ALLOWED else sqlite3.SQLITE_DENY


def restrict(connection: sqlite3.Connection, memory: int, deadline: float) -> None:
    """Limits what statements of a connection may do; the pragmas go first, since the authorizer refuses them."""
    connection.execute(f"PRAGMA hard_heap_limit = {memory}")
    with contextlib.suppress(sqlite3.OperationalError):  # SQLite may be built without JSON
        # Connected here, since for SQLite that is a CREATE TABLE, which the authorizer refuses.
        connection.execute("SELECT 1 FROM json_each('[]'), json_tree('[]')")
    for pragma in ("temp_store = MEMORY", "query_only = ON", "trusted_schema = OFF", "cell_size_check = ON"):
        connection.execute(f"PRAGMA {pragma}")
    for limit, value in LIMITS.items():
        connection.setlimit(limit, value)
    connection.set_progress_handler(lambda: time.monotonic() > deadline, STEPS)
    connection.set_authorizer(authorize)


def fetch(cursor: sqlite3.Cursor, most: int) -> dict[str, Any]:
    """Returns a reply with all rows; those of a result that is too large are no reply."""
    rows: list[tuple[Any, ...]] = []
    size = 0
    for row in cursor:
        size += sum(VALUE_BYTES + (len(value) if isinstance(value, str | bytes) else 0) for value in row)
        if len(rows) == most:
            return {"error": "size", "message": f"the result has more than {most} rows"}
        if size > RESULT_BYTES:
            return {"error": "size", "message": f"the result has more than {RESULT_BYTES} bytes"}
        rows.append(row)
    return {"rows": rows}


def answer(request: dict[str, Any], memory: int) -> bytes:
    """Runs one statement and returns the line to reply."""
    connection = None
    try:
        deadline = time.monotonic() + request["seconds"]
        connection = sqlite3.connect(request["uri"], uri=True, isolation_level=None)
        connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
        restrict(connection, memory, deadline)
        cursor = connection.execute(request["statement"])
        if cursor.description is None:
            return encode({"error": "sql", "message": "there is no statement that returns rows"})
        return encode(fetch(cursor, request["rows"]))
    except MemoryError:
        return encode({"error": "memory", "message": "the statement needs too much memory"})
    except Exception as error:  # also UnicodeError, and a Warning where there are several statements
        kind = KINDS.get(getattr(error, "sqlite_errorcode", 0) & 0xFF, "sql")
        # SQLite has no code for a function that is refused.
        kind = "refused" if "not authorized" in str(error) else kind
        return encode({"error": kind, "message": str(error)[:MESSAGE]})
    finally:
        if connection is not None:
            connection.close()


def encode(reply: dict[str, Any]) -> bytes:
    """Returns a reply as a line of JSON."""
    return json.dumps(reply, default=lambda blob: {"hex": blob.hex()}).encode() + b"\n"


def limit_process(memory: int) -> None:
    """Limits what the process may use. Outside Linux the kernel may refuse a limit (macOS: the address space)."""
    import resource

    limits = {"RLIMIT_AS": memory + SPARE_BYTES, "RLIMIT_FSIZE": 0, "RLIMIT_CORE": 0, "RLIMIT_NOFILE": 32}
    for name, value in limits.items():
        if not hasattr(resource, name):
            continue
        hard = resource.getrlimit(getattr(resource, name))[1]
        value = value if hard == resource.RLIM_INFINITY else min(value, hard)
        try:
            resource.setrlimit(getattr(resource, name), (value, value))
        except (ValueError, OSError):
            if sys.platform == "linux":
                raise


def limit_cpu(seconds: float) -> None:
    """Ends this process after so much more CPU time; for one whose parent, which would kill it, is gone."""
    import resource

    used = time.process_time()
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    value = math.ceil(used + seconds) + 2
    value = value if hard == resource.RLIM_INFINITY else min(value, hard)
    resource.setrlimit(resource.RLIMIT_CPU, (value, hard))


def main() -> None:
    """Answers requests until there are no more."""
    memory = int(sys.argv[1])
    limit_process(memory)
    sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        limit_cpu(2 * request["seconds"])
        sys.stdout.buffer.write(answer(request, memory))
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
