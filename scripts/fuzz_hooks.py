"""What Schemathesis cannot know of the API: things that are there, and who may do what.

Who may do what is written down here by hand, and not read from the document.
"""

import os
import random
import re

import schemathesis

ROLE = os.environ["MAMOS_FUZZ_ROLE"]
PUBLIC = re.compile(r"/(livez|readyz|metrics|\.well-known/.*)|/api/v1/(login|setup|version|openapi\.json)")
OF_USERS = re.compile(r"/api/v1/(logout|me(/.*)?)")
OF_ADMINS = re.compile(r"/api/v1/(users|keys|roles|signing-keys|audit)(/.*)?")
OF_OPERATORS = re.compile(r"/api/v1/registration-tokens(/.*)?")
OF_AGENTS = re.compile(r"/api/v1/agents/[^/]*(/(health|metrics|logs))?")

known = {}
with open(os.environ["MAMOS_FUZZ_KNOWN"]) as lines:
    for line in lines:
        if line.startswith("known "):
            _, name, value = line.split()
            known.setdefault(name, []).append(value)


def may(method, path):
    """May the role do this?"""
    if PUBLIC.fullmatch(path):
        return True
    is_reading = method in ("GET", "HEAD", "OPTIONS")
    if ROLE == "agent":
        is_own = path.split("/")[4:5] == known["agent"]
        return path == "/api/v1/me" or (is_reading and is_own and OF_AGENTS.fullmatch(path) is not None)
    if OF_USERS.fullmatch(path) or ROLE == "admin":
        return True
    if OF_ADMINS.fullmatch(path):
        return False
    return ROLE == "operator" or (is_reading and not OF_OPERATORS.fullmatch(path))


@schemathesis.check
def the_role_permits_it(ctx, response, case):
    path = response.request.path_url.split("?")[0]
    if 200 <= response.status_code < 300 and not may(response.request.method, path):
        raise AssertionError(f"{ROLE} may not {response.request.method} {path}, and was answered well")


@schemathesis.hook
def map_path_parameters(ctx, path_parameters):
    """Names something that is there, half of the time."""
    chance = random.Random(repr(path_parameters))
    for name in path_parameters or {}:
        if name in known and chance.random() < 0.5:
            path_parameters[name] = chance.choice(known[name])
    return path_parameters


@schemathesis.hook
def before_call(ctx, case, kwargs):
    """Asks for events a page at a time: the stream has no end."""
    if case.path == "/api/v1/events":
        case.query = {**(case.query or {}), "format": "json"}
