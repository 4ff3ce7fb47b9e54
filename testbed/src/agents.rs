//! Users of brokers that may use one agent's topics only, as `docs/bus-nats.md` and `docs/bus-redis.md`
//! describe them.

/// A configuration of NATS with a user `orchestrator` (password `o`) that may do everything, and a user
/// `agent` (password `a`, inbox prefix `_INBOX.{link}`) for the link of that name.
pub fn nats_agent_config(prefix: &str, link: &str) -> String {
    format!(
        r#"authorization {{ users = [
  {{ user: orchestrator, password: o }}
  {{ user: agent, password: a, permissions: {{
    publish: ["{prefix}.*.link.{link}.*.up", "{prefix}.*.link.{link}.*.up.~p.>", "{prefix}.*.link-hello", "{prefix}.*.link-hello.~p.>", "_INBOX.{link}.>"]
    subscribe: ["{prefix}.t.link.{link}.*.down", "{prefix}.t.link.{link}.*.down.~p.>", "_INBOX.{link}.>"]
  }} }}
] }}
"#
    )
}

/// The arguments of `ACL` that make a user `agent` (password `a`) of Redis for the link of that name.
pub fn redis_agent_acl(prefix: &str, link: &str) -> Vec<String> {
    let publish = format!(
        "(+ping +evalsha +script|load +time +exists +xlen +xadd +zrangebyscore +rpush +ltrim +pexpire +publish \
         &{prefix}:t:link.{link}.*.up &{prefix}:t:link-hello ~{prefix}:?:link.{link}.*.up ~{prefix}:?:link-hello \
         ~{prefix}:q:link.{link}.*.up|* ~{prefix}:q:link-hello|*)"
    );
    let listen = format!("&{prefix}:t:link.{link}.*.down");
    let words =
        ["SETUSER", "agent", "reset", "on", ">a", "+ping", "+subscribe", "+unsubscribe", &listen, &publish];
    words.map(str::to_owned).to_vec()
}
