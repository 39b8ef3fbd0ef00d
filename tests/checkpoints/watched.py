"""``python -m tests.checkpoints.watched``: the process that reads checkpoints, with a witness inside.

After each checkpoint a line of JSON is put behind the file that ``NNDIAG_WITNESS`` names: its path, the most memory
and the processor time that its reading took, and how often it opened a socket, started a program or had Python look
up a name of a pickle.
"""

from __future__ import annotations

import json
import os
import resource
import sys
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nndiag.checkpoints import child

SOCKETS = ("socket.",)
CODE = ("subprocess.", "os.system", "os.exec", "os.posix_spawn", "os.fork", "pickle.find_class")

answer = child.answer
seen: Counter[str] = Counter()


def witness(event: str, arguments: tuple[Any, ...]) -> None:
    """Counts what Python says it does."""
    seen["sockets"] += event.startswith(SOCKETS)
    seen["code"] += event.startswith(CODE)


def watched(request: Mapping[str, Any]) -> int:
    """Answers, and tells what was seen on the way."""
    sys.addaudithook(witness)
    return answer(request)


def forked(request: Mapping[str, Any]) -> int:
    """As ``child.forked``; what was seen is told by the parent too, where the fork was ended."""
    pipe, end = os.pipe()
    pid = os.fork()
    if not pid:
        status = 70
        try:
            os.dup2(os.open(os.devnull, os.O_RDWR), 1)
            status = watched(request)
        finally:
            os.write(end, json.dumps(seen).encode())
            os._exit(status)
    os.close(end)
    told = os.read(pipe, 4096)
    os.close(pipe)
    _, status, usage = os.wait4(pid, 0)
    spent = usage.ru_utime + usage.ru_stime
    line = {"path": request["path"], "memory": usage.ru_maxrss, "spent": spent, **json.loads(told or b"{}")}
    with Path(os.environ["NNDIAG_WITNESS"]).open("a", encoding="ascii") as file:
        file.write(json.dumps(line) + "\n")
    return os.waitstatus_to_exitcode(status)


if __name__ == "__main__":
    base = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with Path(os.environ["NNDIAG_WITNESS"]).open("a", encoding="ascii") as file:
        file.write(json.dumps({"path": "", "memory": base}) + "\n")
    child.forked = forked
    sys.exit(child.main())
