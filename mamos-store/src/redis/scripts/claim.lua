-- Leases ready jobs to sessions. KEYS: sessions, queues, ready, jobs, runs, history, due, ended, and what each taker holds.
-- ARGV: now; how many jobs at most; how many bytes at most for each group; the end of the record of a run that nobody can
-- understand; and for each group: how many lanes, their ids, their queues; how many takers, each with the session's
-- id, how its record must begin, its limit, and the number of its key.
-- Answers when the next job is due; whether there may be more; the stale sessions; and for each session its id, its agent
-- and its jobs, each with id, spec, and record unless it is the first run.
local SESSIONS, QUEUES, READY, JOBS, RUNS, HISTORY, DUE, ENDED =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local now, max_jobs, max_bytes, broken_end = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local W, NONE = 34, string.rep('\0', 8)
local COUNTERS = '\0\0\0\1' .. NONE .. '\0\0\0\1'
local byte = string.byte
local lists, by_session, stale, is_stale, more = {}, {}, {}, {}, 0

local function is_spec(spec) return spec and #spec >= 49 and byte(spec, 9) == 74 end

local function is_run(run)
  if not run or #run < 122 or byte(run, 1) ~= 82 then return false end
  local progress = 121 + (unpack32('>I2', run, 119))
  return #run >= progress + 1 and #run >= progress + 1 + (unpack32('>I2', run, progress))
end

-- A lane, and how far it was taken from.
local function fill(source)
  source.chunk = front(READY, source.lane, W)
  source.at = 9
  return source.chunk
end

local function head(source) return sub(source.chunk, source.at, source.at + W - 1) end

-- Enters a source into those that are sorted by their first job.
local function enter(sources, source)
  local item, low, high = head(source), 1, #sources + 1
  while low < high do
    local middle = math.floor((low + high) / 2)
    if less(head(sources[middle]), item) then low = middle + 1 else high = middle end
  end
  table.insert(sources, low, source)
end

-- Takes up to so many items, in the order of claim over all sources: their ids, and where each stood. Strings cost more than all
-- else here, so that the items themselves are cut out only when somebody asks for them.
local function take(sources, wanted)
  local ids, chunks, places, n = {}, {}, {}, 0
  while n < wanted and #sources > 0 do
    local source = sources[1]
    local limit = sources[2] and head(sources[2])
    local is_left = true
    while n < wanted do
      if limit and less(limit, head(source)) then break end
      n = n + 1
      ids[n] = sub(source.chunk, source.at + W - 16, source.at + W - 1)
      chunks[n] = source.chunk
      places[n] = source.at
      source.at = source.at + W
      if source.at > #source.chunk then
        call('ZREM', READY, source.chunk)
        is_left = fill(source)
        if limit or not is_left then break end
      end
    end
    if not is_left or limit then
      table.remove(sources, 1)
      if is_left then enter(sources, source) end
    end
  end
  return ids, chunks, places
end

-- Writes back what is left of chunks that were begun.
local function leave(sources)
  for _, source in ipairs(sources) do
    if source.at > 9 then
      call('ZREM', READY, source.chunk)
      call('ZADD', READY, 0, source.lane .. sub(source.chunk, source.at))
    end
  end
end

-- Ends a job of which nobody knows what it is.
local function bury(id, item, lane, run)
  local epoch = run and byte(run, 1) == 82 and #run >= 11 and sub(run, 4, 11) or NONE
  local record = 'R\6\0' .. epoch .. NONE .. NONE .. NONE .. NONE .. '\255' .. NONE .. now .. NONE .. COUNTERS ..
    sub(item, 3, 10) .. lane .. sub(item, 1, 2) .. NONE .. sub(item, 11, 18) .. broken_end
  call('HSET', RUNS, id, record)
  line_add(ENDED, '', 32, now .. sub(item, 11))
end

local function next_run(id, run, session, agent)
  local high, low = unpack32('>I4I4', run, 4)
  if high + low > 0 then
    local before = call('HGET', HISTORY, id) or ''
    call('HSET', HISTORY, id, before .. struct.pack('>I4', #run) .. run)
  end
  low = low + 1
  if low == 4294967296 then high, low = high + 1, 0 end
  local progress = 121 + (unpack32('>I2', run, 119))
  local rest = progress + 2 + (unpack32('>I2', run, progress))
  return 'R\3' .. sub(run, 3, 3) .. struct.pack('>I4I4', high, low) .. session .. now .. NONE .. '\255' .. NONE .. NONE ..
    sub(run, 61, 80) .. sub(run, 69, 72) .. sub(run, 85, 118) .. agent .. '\0\0' .. sub(run, rest)
end

local function serve(takers, sources, wanted)
  local bytes, count, turn, size, left = 0, 0, 1, 32, {}
  while count < wanted and #sources > 0 and #takers > 0 do
    local ids, chunks, places = take(sources, math.min(size, wanted - count))
    if #ids == 0 then break end
    local function item(k) return sub(chunks[k], places[k], places[k] + W - 1) end
    local function lane(k) return sub(chunks[k], 1, 8) end
    local specs, runs = call('HMGET', JOBS, unpack(ids)), call('HMGET', RUNS, unpack(ids))
    local records, is_full = {}, false
    for k = 1, #ids do
      local id, spec, run = ids[k], specs[k], runs[k]
      if is_full then
        left[#left + 1] = { lane(k), item(k) }
      elseif is_spec(spec) and not run and byte(spec, 10) == 2 or is_spec(spec) and is_run(run) and byte(run, 2) == 2 then
        if bytes > 0 and bytes + #spec > max_bytes then
          left[#left + 1] = { lane(k), item(k) }
          is_full, more = true, 1
        else
          bytes = bytes + #spec
          count = count + 1
          local taker = takers[turn]
          local list = taker.list
          local record
          if run then
            record = next_run(id, run, taker.id, list[2])
          else
            record = 'R\3' .. sub(spec, 11, 11) .. taker.first .. sub(spec, 12, 37) .. sub(spec, 1, 8) .. taker.last
          end
          records[#records + 1] = id
          records[#records + 1] = record
          local held = taker.held
          held[#held + 1] = id
          local at = #list
          list[at + 1] = id
          list[at + 2] = spec
          list[at + 3] = run and record or ''
          taker.limit = taker.limit - 1
          if taker.limit == 0 then
            table.remove(takers, turn)
          else
            turn = turn + 1
          end
          if turn > #takers then turn = 1 end
        end
      else
        more = 1
        local is_elsewhere = is_run(run) and byte(run, 2) ~= 2 or not run and is_spec(spec)
        if (spec or run) and not is_elsewhere then bury(id, item(k), lane(k), run) end
      end
    end
    if #records > 0 then call('HSET', RUNS, unpack(records)) end
    if is_full then break end
    -- Small jobs are read many at a time, large ones few.
    size = bytes > count * 4096 and 32 or 512
  end
  leave(sources)
  for _, item in ipairs(left) do insert(READY, item[1], W, item[2]) end
end

local pos = 5
while pos <= #ARGV do
  local n = tonumber(ARGV[pos])
  local paused = n > 0 and call('HMGET', QUEUES, unpack(ARGV, pos + n + 1, pos + 2 * n)) or {}
  local at = pos + 2 * n + 1
  local takers, all, wanted = {}, {}, 0
  for k = at + 1, at + 4 * tonumber(ARGV[at]), 4 do
    local id, limit = ARGV[k], tonumber(ARGV[k + 2])
    local record = call('HGET', SESSIONS, id)
    if record and #record >= 24 and sub(record, 1, 6) == ARGV[k + 1] and less(now, sub(record, 7, 14)) then
      local list = by_session[id]
      if not list then
        list = { id, sub(record, 23, 24 + (unpack32('>I2', record, 23))) }
        by_session[id] = list
        lists[#lists + 1] = list
      end
      local taker = { id = id, limit = limit, list = list, held = {}, key = KEYS[tonumber(ARGV[k + 3])] }
      taker.first = '\0\0\0\0\0\0\0\1' .. id .. now .. NONE .. '\255' .. NONE .. NONE .. NONE .. COUNTERS
      taker.last = list[2] .. '\0\0'
      if limit > 0 then
        takers[#takers + 1] = taker
        all[#all + 1] = taker
      end
      wanted = wanted + limit
    elseif not is_stale[id] then
      is_stale[id] = true
      stale[#stale + 1] = id
    end
  end
  if wanted > max_jobs then wanted, more = max_jobs, 1 end
  if wanted > 0 then
    local sources = {}
    for k = 1, n do
      if paused[k] ~= '1' then
        local source = { lane = ARGV[pos + k] }
        if fill(source) then enter(sources, source) end
      end
    end
    serve(takers, sources, wanted)
    for _, taker in ipairs(all) do
      for from = 1, #taker.held, 4000 do
        call('SADD', taker.key, unpack(taker.held, from, math.min(from + 3999, #taker.held)))
      end
    end
  end
  pos = at + 1 + 4 * tonumber(ARGV[at])
end

local due = front(DUE, '', 32)
return { due and sub(due, 1, 8) or '', more, stale, lists }
