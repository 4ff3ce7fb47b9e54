"""Who the agent is: its key, its token and its life, in one file."""

import base64
import fcntl
import hashlib
import json
import os
import uuid

import ed25519

# What a proof begins with, so that it is a proof of nothing else.
PURPOSE = b"mamos agent hello 1\0"


def base64url(data: bytes) -> str:
    """Base64url without padding, as keys, nonces and proofs are written."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def from_base64url(text: str) -> bytes:
    """The bytes of such a text."""
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


class Identity:
    """The file of one agent. Every change of it is on disk before the call returns."""

    def __init__(self, path):
        self._path = path
        # One program at a time: the lock ends with the program.
        self._lock = open(f"{path}.lock", "w", encoding="utf-8")
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise SystemExit(f"another program uses {path}; stop it, or name another file") from None
        if os.path.exists(path):
            with open(path, encoding="utf-8") as file:
                self._fields = json.load(file)
        else:
            self._fields = {
                "private_key": base64url(os.urandom(32)),
                "token": None,
                "session": None,
                "instance": str(uuid.uuid4()),
                "previous": None,
                "was_welcomed": False,
            }
        # A life that was welcomed is over with its program. One that never was goes on: the
        # orchestrator may have seen it, and would not know the next as its descendant.
        if self._fields["was_welcomed"]:
            self._fields |= {
                "previous": self._fields["instance"],
                "instance": str(uuid.uuid4()),
                "was_welcomed": False,
            }
        self._write()

    @property
    def token(self):
        """The agent's own token, or None before its registration."""
        return self._fields["token"]

    @property
    def life(self):
        """The part of a hello that tells copies apart, and the session it had last."""
        return {name: self._fields[name] for name in ("instance", "previous", "session")}

    def credentials(self, nonce: bytes, registration_token):
        """What a hello shows: its own token once it has one, else the one for the registration."""
        secret = from_base64url(self._fields["private_key"])
        token = self.token or registration_token
        if token is None:
            raise SystemExit("this agent is not registered yet; give it a registration token")
        signed = PURPOSE + nonce + hashlib.sha256(token.encode()).digest()
        proof = base64url(ed25519.sign(secret, signed))
        if self.token:
            return {"agent": {"token": token, "proof": proof}}
        key = base64url(ed25519.public_key(secret))
        return {"registration": {"token": token, "key": key, "proof": proof}}

    def welcomed(self, session, issued):
        """Notes that this life was welcomed, with the token if there is another."""
        self._change(session=session, was_welcomed=True, token=issued or self.token)

    def renewed(self, token):
        """Keeps the token to show from now on."""
        self._change(token=token)

    def _change(self, **fields):
        if self._fields | fields != self._fields:
            self._fields |= fields
            self._write()

    def _write(self):
        """Writes a file beside it and renames that, so that a crash leaves the old or the new one."""
        beside = f"{self._path}.new"
        opened = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with open(opened, "w", encoding="utf-8") as file:
            json.dump(self._fields, file, indent=2)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, self._path)
        folder = os.open(os.path.dirname(os.path.abspath(self._path)), os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
