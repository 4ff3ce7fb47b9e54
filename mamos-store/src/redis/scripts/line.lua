-- Lines: sorted lists of items, each a key and the id of a job, all of one width.
--
-- A line is a sorted set with equal scores, so that Redis sorts by bytes. Its members are chunks: a group (for
-- ready jobs their lane, else nothing) and up to MAX items in order. Chunks of a group never overlap. This makes the
-- cost of a batch a handful of commands, however many jobs it has.
local call, sub, concat, unpack32 = redis.call, string.sub, table.concat, struct.unpack
local MAX = 128
-- After every item: none has so many of these bytes in a row.
local TOP = string.rep('\255', 48)

-- Is one string of bytes before another of the same length? Lua's own comparison follows the locale.
local function less(a, b)
  if a == b then return false end
  local n, i = #a, 1
  while i + 3 <= n do
    local x, y = (unpack32('>I4', a, i)), (unpack32('>I4', b, i))
    if x ~= y then return x < y end
    i = i + 4
  end
  while i <= n do
    local x, y = string.byte(a, i), string.byte(b, i)
    if x ~= y then return x < y end
    i = i + 1
  end
  return false
end

-- The last chunk that begins at or before a place. What is no chunk does not belong here and is thrown away.
local function before(key, group, w, place)
  local g = #group
  while true do
    local chunk = call('ZREVRANGEBYLEX', key, '[' .. group .. place .. TOP, '[' .. group, 'LIMIT', 0, 1)[1]
    if not chunk then return nil end
    local n = #chunk - g
    if n > 0 and n % w == 0 then return chunk end
    call('ZREM', key, chunk)
  end
end

-- The first chunk of a group.
local function front(key, group, w)
  local g = #group
  while true do
    local chunk
    if g == 0 then
      chunk = call('ZRANGE', key, 0, 0)[1]
    else
      chunk = call('ZRANGEBYLEX', key, '[' .. group, '[' .. group .. TOP, 'LIMIT', 0, 1)[1]
    end
    if not chunk then return nil end
    local n = #chunk - g
    if n > 0 and n % w == 0 then return chunk end
    call('ZREM', key, chunk)
  end
end

local function put(key, group, w, items)
  local args, step = {}, w * MAX
  for i = 1, #items, step do
    args[#args + 1] = 0
    args[#args + 1] = group .. sub(items, i, i + step - 1)
    if #args >= 2000 then
      call('ZADD', key, unpack(args))
      args = {}
    end
  end
  if #args > 0 then call('ZADD', key, unpack(args)) end
end

local function insert(key, group, w, item)
  local chunk = before(key, group, w, item)
  if not chunk or less(sub(chunk, -w), item) then
    call('ZADD', key, 0, group .. item)
    return
  end
  local at = #group + 1
  while less(sub(chunk, at, at + w - 1), item) do at = at + w end
  if sub(chunk, at, at + w - 1) == item then return end
  call('ZREM', key, chunk)
  put(key, group, w, sub(chunk, #group + 1, at - 1) .. item .. sub(chunk, at))
end

-- Adds items, which are in order.
local function line_add(key, group, w, items)
  local last = before(key, group, w, '')
  if not last or less(sub(last, -w), sub(items, 1, w)) then
    put(key, group, w, items)
    return
  end
  for i = 1, #items, w do insert(key, group, w, sub(items, i, i + w - 1)) end
end

-- Takes items out, which are in order. Those that are not there are left alone.
local function line_del(key, group, w, items)
  local i, n = 1, #items
  while i <= n do
    local item = sub(items, i, i + w - 1)
    local chunk = before(key, group, w, item)
    i = i + w
    if chunk then
      local gone, last = { [item] = true }, sub(chunk, -w)
      while i <= n do
        local following = sub(items, i, i + w - 1)
        if less(last, following) then break end
        gone[following] = true
        i = i + w
      end
      local left, found = {}, false
      for at = #group + 1, #chunk, w do
        local kept = sub(chunk, at, at + w - 1)
        if gone[kept] then found = true else left[#left + 1] = kept end
      end
      if found then
        call('ZREM', key, chunk)
        if #left > 0 then call('ZADD', key, 0, group .. concat(left)) end
      end
    end
  end
end
