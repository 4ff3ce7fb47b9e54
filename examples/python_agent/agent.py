#!/usr/bin/env python3
"""A MAMOS agent in Python, with the standard library alone.

It was written from `docs/protocol.md`, and is meant to be read beside it: the
words are the same, and the order too. `ed25519.py`, `identity.py` and
`websocket.py` are what a library would do; `handlers.py` is the work.

What happens is told on stdout, one JSON object a line.
"""

import argparse
import asyncio
import base64
import json
import os
import platform
import random
import signal
import sys
import time
from collections import deque

from handlers import HANDLERS, Outcome, retry
from identity import Identity, from_base64url
from websocket import LinkEnded, WebSocket

PATH = "/api/v1/agents/link"
SUBPROTOCOL = "mamos.v1.json"
VERSION = 1
HANDSHAKE_SECONDS = 10
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.1, 30
STEADY_AFTER_SECONDS = 10
MAX_LOG_PIECE_BYTES = 64 * 1024
# Well under the 8 MiB of a frame, whatever the last report adds.
MAX_BATCH_BYTES = 1024 * 1024
# A job that logs faster than the orchestrator writes waits here.
MAX_UNRECORDED_REPORTS = 1024
# For a cancellation that is learnt from a verdict, which names no grace.
OWN_GRACE_SECONDS = 5


class Refused(Exception):
    """A final refusal: an operator must act."""


def tell(what, **fields):
    print(json.dumps({"what": what, **fields}), flush=True)


def seconds(milliseconds):
    return None if milliseconds is None else milliseconds / 1000


def name_of(run):
    """The epoch is part of the name: the next attempt of a job is another run."""
    return (run["job"], run["epoch"])


class Job:
    """One run: what the orchestrator said of it, and what its handler may do."""

    def __init__(self, agent, dispatched):
        self._agent = agent
        self._log_bytes = 0
        self.run = dispatched["run"]
        self.kind = dispatched["kind"]
        self.payload = base64.b64decode(dispatched["payload"])
        self.attempt = dispatched["counters"]["attempt"]
        self.timeout = seconds(dispatched.get("timeout_ms"))
        self.deadline = seconds(dispatched.get("deadline_in_ms"))
        self.cancelled = asyncio.Event()
        self.is_started = False
        self.is_settled = False
        self.task = None

    @property
    def arguments(self):
        return json.loads(self.payload)

    async def log(self, data: bytes, stream="stdout"):
        """Adds to the log. The offset counts over all streams, so one counter is enough."""
        for start in range(0, len(data), MAX_LOG_PIECE_BYTES):
            await self._agent.has_room()
            piece = data[start : start + MAX_LOG_PIECE_BYTES]
            event = {"offset": self._log_bytes, "stream": stream, "bytes": base64.b64encode(piece).decode()}
            self._agent.report(self, {"log": event})
            self._log_bytes += len(piece)

    async def progress(self, percent, note=None):
        await self._agent.has_room()
        self._agent.report(self, {"progress": {"percent": percent, "note": note or ""}})

    async def until_recorded(self):
        """Waits until all that was reported so far is recorded."""
        await self._agent.until_recorded(job=self)


class Agent:
    """All that outlives a link: the runs, and the reports that are not recorded yet."""

    def __init__(self, identity, options):
        self._identity = identity
        self._options = options
        self._hellos = 0
        self._lease_ttl = None
        self._jobs = {}
        self._slots = asyncio.Semaphore(options.slots)
        self._is_leaving = False
        self._superseded_at = None
        # A report waits in `_unsent`, then in `_sent` until it is recorded.
        self._unsent = deque()
        self._sent = deque()
        self._last_number = 0
        self._news = asyncio.Event()
        self._recorded = asyncio.Event()

    # Staying connected.

    async def live(self):
        """Comes back whenever the link is gone, until it leaves or is refused for good."""
        bound = FIRST_WAIT_SECONDS
        while not (self._is_leaving and not self._jobs):
            began = time.monotonic()
            at_least = 0.0
            try:
                await self._one_link()
                return
            except (LinkEnded, OSError, TimeoutError, EOFError) as error:
                at_least = getattr(error, "wait_at_least", 0.0)
                tell("cut", why=str(error) or type(error).__name__)
            if time.monotonic() - began >= STEADY_AFTER_SECONDS:
                bound = FIRST_WAIT_SECONDS
            # Full jitter: agents that lost the same orchestrator do not come back together.
            await asyncio.sleep(max(at_least, random.uniform(0, bound)))
            bound = min(2 * bound, LONGEST_WAIT_SECONDS)

    async def _one_link(self):
        """Returns once it has left; every other end is an exception."""
        link = None
        try:
            async with asyncio.timeout(HANDSHAKE_SECONDS):
                link = await WebSocket.connect(self._options.url, PATH, SUBPROTOCOL, self._options.ca_file)
                welcome, rest = await self._shake_hands(link)
            self._begin(welcome)
            for message in rest:
                self._obey(message)
            parts = [
                asyncio.create_task(self._speak(link, welcome["heartbeat_every_ms"] / 1000)),
                asyncio.create_task(self._listen(link)),
            ]
            try:
                done, _ = await asyncio.wait(parts, return_when=asyncio.FIRST_COMPLETED)
                for part in done:
                    part.result()
            finally:
                for part in parts:
                    part.cancel()
                await asyncio.gather(*parts, return_exceptions=True)
        finally:
            if link:
                await link.close()

    async def _shake_hands(self, link):
        """Challenge, hello, welcome. Also gives back what came in the frame of the welcome."""
        name, challenge, _ = first_of(await receive(link))
        if name == "refused":
            self._refused(challenge)
        if name != "challenge":
            raise LinkEnded(f"began with {name} in place of a challenge")
        nonce = from_base64url(challenge["nonce"])
        self._hellos += 1
        options = self._options
        hello = {
            "oldest_version": VERSION,
            "version": VERSION,
            "credentials": self._identity.credentials(nonce, options.registration_token),
            "profile": {
                "kind": options.kind,
                "name": options.name,
                "labels": {},
                "kinds": sorted(HANDLERS),
                "slots": options.slots,
                "version": "1.0",
            },
            **self._identity.life,
            "number": self._hellos,
            "runs": [job.run for job in self._jobs.values()],
            "now": time.time_ns() // 1000,
        }
        await send(link, [{"hello": hello}])
        name, welcome, rest = first_of(await receive(link))
        if name == "refused":
            self._refused(welcome)
        if name != "welcome" or welcome["version"] != VERSION:
            raise LinkEnded(f"answered a hello with {name}: {welcome}")
        return welcome, rest

    def _begin(self, welcome):
        self._identity.welcomed(welcome["session"], welcome.get("issued"))
        self._lease_ttl = welcome["lease_ttl_ms"] / 1000
        # Numbers begin anew with each link: what was not recorded goes first, in its order.
        self._unsent.extendleft(report for _, report in reversed(self._sent))
        self._sent.clear()
        self._last_number = 0
        tell(
            "welcomed",
            agent=welcome["agent"],
            session=welcome["session"],
            is_resumed=welcome["is_resumed"],
            hello=self._hellos,
            runs=len(self._jobs),
        )

    def _refused(self, refusal):
        if refusal["is_final"]:
            raise Refused(refusal["message"])
        raise LinkEnded(f"refused: {refusal['message']}")

    # Speaking.

    async def _speak(self, link, heartbeat_every):
        """Sends what there is, and a heartbeat when there was nothing for a while."""
        told_slots = self._options.slots
        while True:
            self._news.clear()
            messages = []
            if self._is_leaving and told_slots != 0:
                told_slots = 0
                messages.append({"slots": {"total": 0}})
            messages += self._next_reports()
            if not messages and self._is_leaving and not self._jobs:
                await send(link, ["bye"])
                return
            if not messages:
                try:
                    # A little early, so that the way there is paid for.
                    async with asyncio.timeout(0.8 * heartbeat_every):
                        await self._news.wait()
                    continue
                except TimeoutError:
                    messages = [{"heartbeat": {}}]
            await send(link, messages)

    def _next_reports(self):
        first, reports, size = self._last_number + 1, [], 0
        while self._unsent and size < MAX_BATCH_BYTES:
            report = self._unsent.popleft()
            if name_of(report["run"]) not in self._jobs:
                continue
            self._last_number += 1
            self._sent.append((self._last_number, report))
            reports.append(report)
            size += len(json.dumps(report))
        return [{"reports": {"first": first, "reports": reports}}] if reports else []

    def report(self, job, event):
        """Keeps an event of a run until it is recorded. Nothing is said after the last word."""
        if job.is_settled or name_of(job.run) not in self._jobs:
            return
        job.is_settled = event == "released" or "ended" in event
        self._unsent.append({"run": job.run, "event": event})
        self._news.set()

    async def has_room(self):
        while len(self._unsent) + len(self._sent) >= MAX_UNRECORDED_REPORTS:
            self._recorded.clear()
            await self._recorded.wait()

    async def until_recorded(self, job):
        while any(report["run"] == job.run for report in self._unrecorded()):
            self._recorded.clear()
            await self._recorded.wait()

    def _unrecorded(self):
        return [report for _, report in self._sent] + list(self._unsent)

    # Listening.

    async def _listen(self, link):
        while True:
            async with asyncio.timeout(self._lease_ttl):
                messages = await receive(link)
            for message in messages:
                self._obey(message)

    def _obey(self, message):
        name, body = name_and_body(message)
        match name:
            case "dispatch":
                for dispatched in body:
                    self._take(dispatched)
            case "recorded":
                self._forget(body["through"])
                for run, verdict in body.get("exceptions", []):
                    self._verdict(run, verdict)
            case "cancel":
                self._cancel(body["run"], seconds(body["grace_ms"]))
            case "kill":
                for run in body["runs"]:
                    tell("killed", run=run)
                    self._drop(run)
            case "retract":
                for run in body["runs"]:
                    self._release(self._jobs.get(name_of(run)))
            case "token":
                self._identity.renewed(body["token"])
                tell("token renewed")
            case "drain":
                self.leave()
            case "superseded":
                self._superseded()
            case "refused":
                self._refused(body)
            case _:
                raise LinkEnded(f"an unknown message, or one out of place: {name}")

    def _forget(self, through):
        if through > self._last_number:
            raise LinkEnded(f"{through} was recorded, and {self._last_number} the last report")
        while self._sent and self._sent[0][0] <= through:
            _, report = self._sent.popleft()
            job = self._jobs.get(name_of(report["run"]))
            event = report["event"]
            if job and (event == "released" or "ended" in event):
                del self._jobs[name_of(report["run"])]
                tell("recorded", run=report["run"], event=event)
        self._recorded.set()
        self._news.set()

    def _verdict(self, run, verdict):
        tell("verdict", run=run, verdict=verdict)
        if verdict in ("stale", "missing"):
            self._drop(run)
        elif verdict == "cancel_requested":
            self._cancel(run, OWN_GRACE_SECONDS)

    def _superseded(self):
        now = time.monotonic()
        if self._superseded_at is not None and now - self._superseded_at < self._lease_ttl:
            raise Refused("superseded twice within a lease: another program runs as this agent")
        self._superseded_at = now
        raise LinkEnded("superseded by another hello of this agent")

    # The runs.

    def _take(self, dispatched):
        name = name_of(dispatched["run"])
        if name in self._jobs:
            return
        job = self._jobs[name] = Job(self, dispatched)
        tell("dispatched", run=job.run, kind=job.kind)
        if self._is_leaving:
            self._release(job)
        else:
            job.task = asyncio.create_task(self._attempt(job))

    async def _attempt(self, job):
        """Waits for a slot, runs the handler, and settles the run with how it ended."""
        limit = None
        try:
            async with asyncio.timeout(job.deadline) as deadline, self._slots:
                job.is_started = True
                self.report(job, "started")
                async with asyncio.timeout(job.timeout) as limit:
                    if job.kind not in HANDLERS:
                        raise retry("unknown_kind", f"this agent has no handler for {job.kind}")
                    output = json.dumps(await HANDLERS[job.kind](job)).encode()
            ended = {"succeeded": {"output": base64.b64encode(output).decode()}}
        except Outcome as outcome:
            ended = outcome.ended
        except Exception as error:
            code = type(error).__name__
            if deadline.expired():
                code = "deadline"
            elif limit and limit.expired():
                code = "timeout"
            ended = retry(code, str(error)).ended
        self.report(job, {"ended": ended})

    def _cancel(self, run, grace):
        job = self._jobs.get(name_of(run))
        if job is None or job.is_settled or job.cancelled.is_set():
            return
        job.cancelled.set()
        if job.is_started:
            asyncio.get_running_loop().call_later(grace, self._end_by_force, job)
        else:
            self._end_by_force(job)

    def _end_by_force(self, job):
        self.report(job, {"ended": "cancelled"})
        job.task.cancel()

    def _release(self, job):
        """Gives a run back that has not started; one that has goes on."""
        if job and not job.is_started:
            self.report(job, "released")
            if job.task:
                job.task.cancel()

    def _drop(self, run):
        """The run is not ours any more: its reports are not sent, and it leaves no trace."""
        job = self._jobs.pop(name_of(run), None)
        if job and job.task:
            job.task.cancel()
        self._news.set()

    def leave(self):
        """Takes nothing new, gives back what has not started, and ends with the rest."""
        if not self._is_leaving:
            tell("leaving", runs=len(self._jobs))
            self._is_leaving = True
            for job in list(self._jobs.values()):
                self._release(job)
            self._news.set()


async def send(link, messages):
    await link.send(json.dumps({"messages": messages}))


async def receive(link):
    """The messages of the next frame. Numbers of frames are not needed over WebSocket."""
    try:
        return json.loads(await link.receive())["messages"]
    except (ValueError, KeyError) as error:
        raise LinkEnded(f"a frame that cannot be read: {error}") from error


def name_and_body(message):
    """A message without fields is a string, one with fields a map with one key."""
    return (message, None) if isinstance(message, str) else next(iter(message.items()))


def first_of(messages):
    if not messages:
        raise LinkEnded("a frame without messages in a handshake")
    return *name_and_body(messages[0]), messages[1:]


def read_options():
    parser = argparse.ArgumentParser(description="A MAMOS agent in Python.")
    parser.add_argument("--url", required=True, help="the orchestrator: wss://host:port, or ws:// on this machine")
    parser.add_argument("--identity", required=True, help="the file for its key, token and life; made if missing")
    parser.add_argument("--registration-token-file", help="a one-time token from an operator; for the first start")
    parser.add_argument("--ca-file", help="trust this authority instead of the system's")
    parser.add_argument("--kind", default="python", help="the agent's type")
    parser.add_argument("--name", default=platform.node() or "python")
    parser.add_argument("--slots", type=int, default=4, help="how many attempts it runs at once")
    options = parser.parse_args()
    options.registration_token = None
    if options.registration_token_file:
        with open(options.registration_token_file, encoding="utf-8") as file:
            options.registration_token = file.read().strip()
    return options


async def main():
    options = read_options()
    agent = Agent(Identity(options.identity), options)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, agent.leave)
    try:
        await agent.live()
    except Refused as refused:
        tell("refused", message=str(refused))
        print(f"the orchestrator refuses this agent: {refused}", file=sys.stderr)
        return 5
    tell("left")
    return 0


if __name__ == "__main__":
    os.umask(0o077)
    sys.exit(asyncio.run(main()))
