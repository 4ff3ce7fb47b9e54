-- Stores jobs. KEYS: meta, jobs, runs, unique, lanes, order, ready, due, deadlines.
-- ARGV: the number of jobs, the number of lanes, each lane's id and text, and then for each part of the batch:
-- how many jobs; their ids; their specs without a sequence number; how many unique keys, each with the job's number in the
-- part; how many lanes get ready jobs, each with an ordered list of (priority, run_at, number); two such lists of
-- (time, number) for scheduled jobs and for deadlines.
-- Answers three values for each job that was not stored: its number in the batch; what is stored under its id, and
-- its run; or nothing, and who has its unique key.
local META, JOBS, RUNS, UNIQUE, LANES, ORDER, READY, DUE, DEADLINES =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8], KEYS[9]
local total, lanes = tonumber(ARGV[1]), tonumber(ARGV[2])
local pos, done, refused = 3 + 2 * lanes, 0, {}

-- Picks the jobs that were stored from a list of (time, number) or (priority, time, number).
local function picked(list, width, keyed)
  local items = {}
  for at = 1, #list, width + 2 do
    local high, low = string.byte(list, at + width, at + width + 1)
    local item = keyed[high * 256 + low]
    if item then items[#items + 1] = sub(list, at, at + width - 1) .. item end
  end
  return concat(items)
end

if lanes > 0 then call('HSET', LANES, unpack(ARGV, 3, 2 + 2 * lanes)) end
local seq = call('HINCRBY', META, 'seq', total) - total
while pos <= #ARGV do
  local n = tonumber(ARGV[pos])
  local known = call('HMGET', JOBS, unpack(ARGV, pos + 1, pos + n))
  local specs = pos + n
  local keyed, order, args, taken = {}, {}, {}, {}
  local at = specs + n + 1
  local keys = tonumber(ARGV[at])
  for k = at + 1, at + 2 * keys, 2 do
    local number = tonumber(ARGV[k])
    if not known[number] and call('HSETNX', UNIQUE, ARGV[k + 1], ARGV[pos + number]) == 0 then
      taken[number] = call('HGET', UNIQUE, ARGV[k + 1])
    end
  end
  at = at + 1 + 2 * keys
  for k = 1, n do
    local id = ARGV[pos + k]
    if known[k] then
      refused[#refused + 1] = done + k
      refused[#refused + 1] = known[k]
      refused[#refused + 1] = call('HGET', RUNS, id) or ''
    elseif taken[k] then
      refused[#refused + 1] = done + k
      refused[#refused + 1] = ''
      refused[#refused + 1] = taken[k]
    else
      local number = seq + done + k
      local place = struct.pack('>I4I4', math.floor(number / 4294967296), number % 4294967296)
      local item = place .. id
      keyed[k] = item
      order[#order + 1] = item
      args[#args + 1] = id
      args[#args + 1] = place .. ARGV[specs + k]
    end
  end
  if #args > 0 then
    call('HSET', JOBS, unpack(args))
    line_add(ORDER, '', 24, concat(order))
  end
  local groups = tonumber(ARGV[at])
  for k = at + 1, at + 2 * groups, 2 do
    local items = picked(ARGV[k + 1], 10, keyed)
    if items ~= '' then line_add(READY, ARGV[k], 34, items) end
  end
  at = at + 1 + 2 * groups
  local due, deadlines = picked(ARGV[at], 8, keyed), picked(ARGV[at + 1], 8, keyed)
  if due ~= '' then line_add(DUE, '', 32, due) end
  if deadlines ~= '' then line_add(DEADLINES, '', 32, deadlines) end
  done = done + n
  pos = at + 2
end
return refused
