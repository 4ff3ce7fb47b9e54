-- Writes what was planned from what was read, if that still stands. ARGV: sections, each an operation, the
-- number of its key, how many arguments it has, and these.
-- Answers 0 if something changed meanwhile, and nothing was written; else 1, and what was asked for.
local answer = { 1 }
local pos, n = 1, #ARGV
while pos <= n do
  local op, key, count = ARGV[pos], KEYS[tonumber(ARGV[pos + 1])], tonumber(ARGV[pos + 2])
  local first = pos + 3
  if op == 'C' or op == 'W' then
    -- Fields of a hash are as they were read; nothing stands for none.
    local fields = op == 'C' and count / 2 or count / 3
    for from = 0, fields - 1, 1000 do
      local to = math.min(from + 1000, fields)
      local stored = call('HMGET', key, unpack(ARGV, first + from, first + to - 1))
      local expected = first + fields + from - 1
      for k = 1, to - from do
        if (stored[k] or '') ~= ARGV[expected + k] then return { 0 } end
      end
    end
  elseif op == 'E' then
    for k = first, first + count - 1 do
      if call('HEXISTS', key, ARGV[k]) == 0 then return { 0 } end
    end
  elseif op == 'N' then
    if call('SCARD', key) ~= tonumber(ARGV[first]) then return { 0 } end
  end
  pos = first + count
end

-- The time at which the first item of a line is due.
local function head(key, w)
  local chunk = front(key, '', w)
  return chunk and sub(chunk, 1, 8) or ''
end

pos = 1
while pos <= n do
  local op, key, count = ARGV[pos], KEYS[tonumber(ARGV[pos + 1])], tonumber(ARGV[pos + 2])
  local first = pos + 3
  if op == 'W' then
    local fields = count / 3
    for from = 0, fields - 1, 1000 do
      local args = {}
      for k = first + from, first + math.min(from + 1000, fields) - 1 do
        args[#args + 1] = ARGV[k]
        args[#args + 1] = ARGV[k + 2 * fields]
      end
      call('HSET', key, unpack(args))
    end
  elseif op == 'X' then
    call(ARGV[first], key, unpack(ARGV, first + 1, first + count - 1))
  elseif op == 'D' then
    line_del(key, ARGV[first], tonumber(ARGV[first + 1]), ARGV[first + 2])
  elseif op == 'A' then
    line_add(key, ARGV[first], tonumber(ARGV[first + 1]), ARGV[first + 2])
  elseif op == 'F' then
    -- Forgets the sessions that ended long ago.
    while call('LLEN', key) > tonumber(ARGV[first]) do
      local id = call('LPOP', key)
      call('HDEL', KEYS[tonumber(ARGV[first + 1])], id)
    end
  elseif op == 'H' then
    answer[#answer + 1] = head(key, tonumber(ARGV[first]))
  end
  pos = first + count
end
return answer
