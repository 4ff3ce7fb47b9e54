#!/usr/bin/env bash
# Makes what is secret, once: passwords, the URLs with them, and a certificate for the proxy. Nothing that is there is changed.
set -euo pipefail
cd "$(dirname "$0")/secrets"
# Containers read these files as other users than you, so the directory keeps others out, not their modes.
chmod 700 .
umask 022

random() { openssl rand -hex 24; }
once() { [ -e "$1" ] || cat >"$1.new"; [ ! -e "$1.new" ] || mv "$1.new" "$1"; }

random | once postgres_password
random | once .orchestrator
random | once .rack
printf 'postgres://mamos:%s@postgres:5432/mamos\n' "$(cat postgres_password)" | once store
printf 'nats://orchestrator:%s@nats:4222\n' "$(cat .orchestrator)" | once server_bus
printf 'nats://rack:%s@nats:4222?inbox_prefix=_INBOX.rack\n' "$(cat .rack)" | once agent_rack_bus
# Filled by the README's `mamosctl tokens create`.
printf '' | once registration_token
# docs/bus-nats.md explains the permissions.
once nats_users.conf <<USERS
authorization { users = [
  { user: orchestrator, password: "$(cat .orchestrator)", permissions: {
    publish: ["mamos.>", "_INBOX.>"]
    subscribe: ["mamos.>", "_INBOX.>"]
  } }
  { user: rack, password: "$(cat .rack)", permissions: {
    publish: ["mamos.*.link.rack.*.up", "mamos.*.link.rack.*.up.~p.>", "mamos.*.link-hello", "mamos.*.link-hello.~p.>", "_INBOX.rack.>"]
    subscribe: ["mamos.t.link.rack.*.down", "mamos.t.link.rack.*.down.~p.>", "_INBOX.rack.>"]
  } }
] }
USERS
if [ ! -e proxy.pem ]; then
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 -subj /CN=mamos \
        -addext subjectAltName=DNS:localhost,DNS:proxy -keyout .proxy.key -out proxy.crt 2>/dev/null
    cat proxy.crt .proxy.key >proxy.pem
fi
