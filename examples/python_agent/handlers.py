"""What this agent can do: one coroutine for each kind of job.

A handler takes a `Job` and returns what is to be the job's output. It ends
otherwise by raising one of the outcomes below; any other exception is a retry.
"""

import asyncio
import time


class Outcome(Exception):
    """An end of an attempt other than success, as it goes over the wire."""

    def __init__(self, ended):
        super().__init__(str(ended))
        self.ended = ended


def retry(code, message, after_ms=None):
    """Failed; another attempt may succeed. Without `after_ms` the job's policy says when."""
    failure = {"code": code, "message": message}
    return Outcome({"retry": {"failure": failure, "after_ms": after_ms}})


def bury(code, message):
    """Failed for good."""
    return Outcome({"bury": {"failure": {"code": code, "message": message}}})


def snooze(delay_ms):
    """Not now; does not count as an attempt."""
    return Outcome({"snooze": {"delay_ms": delay_ms}})


CANCELLED = Outcome("cancelled")


async def echo(job):
    """Logs each of its lines, and gives them back: `{"lines": ["a", "b"]}`."""
    lines = job.arguments.get("lines")
    if not isinstance(lines, list):
        raise bury("bad_arguments", "`lines` is a list of texts")
    for number, line in enumerate(lines, start=1):
        await job.log(f"{line}\n".encode())
        await job.progress(100 * number / len(lines), f"line {number}")
    return {"lines": lines}


async def slow(job):
    """Takes its time, and stops when it is asked to: `{"ms": 5000}`.

    `{"busy_ms": 5000}` shows what a careless handler does: it holds up the whole program, heartbeats
    and all, and may find that its job was given up meanwhile. Hand such work to `asyncio.to_thread`.
    """
    await job.log(b"began\n")
    if "busy_ms" in job.arguments:
        await job.until_recorded()
        time.sleep(job.arguments["busy_ms"] / 1000)
        return {"attempt": job.attempt}
    try:
        async with asyncio.timeout(job.arguments.get("ms", 1000) / 1000):
            await job.cancelled.wait()
    except TimeoutError:
        await job.log(b"ended\n")
        return {"attempt": job.attempt}
    await job.log(b"asked to stop\n", stream="note")
    raise CANCELLED


HANDLERS = {"python.echo": echo, "python.slow": slow}
