//! What must happen at once on the server.
//!
//! Times are the server's, so that the clocks of hosts do not matter.

use redis::Script;

pub(super) struct Scripts {
    pub(super) publish: Script,
    pub(super) join_list: Script,
    pub(super) leave_list: Script,
    pub(super) join_stream: Script,
    pub(super) leave_stream: Script,
    pub(super) reclaim: Script,
    pub(super) acknowledge: Script,
}

impl Default for Scripts {
    fn default() -> Self {
        let with_now = |code: &str| Script::new(&format!("{NOW}{code}"));
        Self {
            publish: with_now(PUBLISH),
            join_list: with_now(JOIN_LIST),
            leave_list: with_now(LEAVE_LIST),
            join_stream: with_now(JOIN_STREAM),
            leave_stream: Script::new(LEAVE_STREAM),
            reclaim: with_now(RECLAIM),
            acknowledge: Script::new(ACKNOWLEDGE),
        }
    }
}

const NOW: &str = "
local function now()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end
";

/// KEYS: members, stream. ARGV: channel, lists, most in the stream, most in a list, most bytes in a list,
/// payloads. Refuses all or takes all.
const PUBLISH: &str = "
local count = #ARGV - 5
local durable = redis.call('EXISTS', KEYS[2]) == 1
if durable and redis.call('XLEN', KEYS[2]) + count > tonumber(ARGV[3]) then return 0 end
local lists, found = {}, {}
if redis.call('EXISTS', KEYS[1]) == 1 then
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now(), '+inf')) do
    local group = string.match(member, '^(.*)|')
    if group and not found[group] then
      found[group] = true
      lists[#lists + 1] = ARGV[2] .. group
    end
  end
end
for i = 6, #ARGV do
  local payload = ARGV[i]
  redis.call('PUBLISH', ARGV[1], payload)
  if durable then redis.call('XADD', KEYS[2], '*', 'p', payload) end
  for _, list in ipairs(lists) do
    local keep = math.floor(tonumber(ARGV[5]) / math.max(#payload, 1))
    keep = math.max(1, math.min(keep, tonumber(ARGV[4])))
    redis.call('RPUSH', list, payload)
    redis.call('LTRIM', list, -keep, -1)
  end
end
for _, list in ipairs(lists) do redis.call('PEXPIRE', list, 60000) end
return 1
";

/// KEYS: members, list. ARGV: group, member, milliseconds to live. The first member of a group begins with
/// an empty list; a sign of life is the same.
const JOIN_LIST: &str = "
local time = now()
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', '(' .. time)
local alone = true
for _, member in ipairs(redis.call('ZRANGE', KEYS[1], 0, -1)) do
  if string.match(member, '^(.*)|') == ARGV[1] then alone = false end
end
if alone then redis.call('DEL', KEYS[2]) end
redis.call('ZADD', KEYS[1], time + ARGV[3], ARGV[1] .. '|' .. ARGV[2])
redis.call('PEXPIRE', KEYS[1], ARGV[3])
return 1
";

/// KEYS: members, list. ARGV: group, member.
const LEAVE_LIST: &str = "
redis.call('ZREM', KEYS[1], ARGV[1] .. '|' .. ARGV[2])
for _, member in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], now(), '+inf')) do
  if string.match(member, '^(.*)|') == ARGV[1] then return 1 end
end
redis.call('DEL', KEYS[2])
return 1
";

/// KEYS: stream, alive, wake. ARGV: group, consumer, milliseconds to live. A sign of life is the same.
const JOIN_STREAM: &str = "
for _, key in ipairs({KEYS[1], KEYS[3]}) do
  local made = redis.pcall('XGROUP', 'CREATE', key, ARGV[1], '$', 'MKSTREAM')
  if made.err and not string.find(made.err, 'BUSYGROUP') then return made end
end
redis.call('ZADD', KEYS[2], now() + ARGV[3], ARGV[2])
return 1
";

/// KEYS: alive, wake. ARGV: consumer.
const LEAVE_STREAM: &str = "
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('XADD', KEYS[2], 'NOMKSTREAM', 'MAXLEN', '16', '*', 'w', '1')
return 1
";

/// KEYS: stream, alive. ARGV: group, consumer, most. Gives messages of consumers that are not alive to this
/// one.
const RECLAIM: &str = "
local time = now()
for _, info in ipairs(redis.call('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])) do
  local consumer = {}
  for i = 1, #info, 2 do consumer[info[i]] = info[i + 1] end
  local expires = redis.call('ZSCORE', KEYS[2], consumer.name)
  if consumer.name ~= ARGV[2] and not (expires and tonumber(expires) > time) then
    if consumer.pending == 0 then
      redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
      redis.call('ZREM', KEYS[2], consumer.name)
    else
      local ids = {}
      for _, pending in ipairs(redis.call('XPENDING', KEYS[1], ARGV[1], '-', '+', ARGV[3], consumer.name)) do
        ids[#ids + 1] = pending[1]
      end
      return redis.call('XCLAIM', KEYS[1], ARGV[1], ARGV[2], 0, unpack(ids))
    end
  end
end
return {}
";

/// KEYS: stream. ARGV: group, ids. Acknowledges, then removes what every group has acknowledged: all before
/// the oldest entry that some group has not been given or has not acknowledged.
const ACKNOWLEDGE: &str = "
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
local low_time, low_number
for _, info in ipairs(redis.call('XINFO', 'GROUPS', KEYS[1])) do
  local group = {}
  for i = 1, #info, 2 do group[info[i]] = info[i + 1] end
  local id, after = group['last-delivered-id'], 1
  if group.pending > 0 then id, after = redis.call('XPENDING', KEYS[1], group.name)[2], 0 end
  local time, number = string.match(id, '^(%d+)-(%d+)$')
  time, number = tonumber(time), tonumber(number) + after
  if not low_time or time < low_time or (time == low_time and number < low_number) then
    low_time, low_number = time, number
  end
end
if low_time then
  redis.call('XTRIM', KEYS[1], 'MINID', string.format('%.0f-%.0f', low_time, low_number))
end
return 1
";
