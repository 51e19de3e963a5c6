"""The loop of a bridge: a JSON line in, a JSON line out, one request at a time; what a library prints goes to stderr."""

from __future__ import annotations

import json
import logging
import os
import sys
import traceback
from collections.abc import Callable

from tests.interop.bridges.face import Absent, Client, Refused, Wire


def serve(make: Callable[[str], Client]) -> None:
    """Answer requests for the client that ``make`` builds of the bootstrap address in the first argument, until stdin ends."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    client = make(sys.argv[1])
    try:
        for line in sys.stdin:
            answers.write(json.dumps(answer(client, json.loads(line))) + "\n")
            answers.flush()
    finally:
        client.close()


def answer(client: Client, request: Wire) -> Wire:
    """Carry out one request."""
    try:
        return {"value": getattr(client, request["op"])(**request["args"])}
    except Absent as absent:
        return {"absent": str(absent)}
    except Refused as refused:
        return {"error": str(refused), "code": refused.code}
    except Exception as error:  # whatever a foreign library raises is an answer, and its trace is in the log
        traceback.print_exc()
        return {"error": f"{type(error).__name__}: {error}", "code": code_of(error)}


def code_of(error: BaseException) -> int | None:
    """Kafka's code in an error of kafka-python or aiokafka."""
    code = getattr(error, "errno", None)
    return code if isinstance(code, int) and not isinstance(error, OSError) else None
