-- Finds the lanes that hold a ready job. KEYS: ready. Jumps from lane to lane, and never looks at a second job.
local lanes, from = {}, '-'
while true do
  local chunk = redis.call('ZRANGEBYLEX', KEYS[1], from, '+', 'LIMIT', 0, 1)[1]
  if not chunk then return lanes end
  if #chunk > 8 and (#chunk - 8) % 34 == 0 then
    local lane = string.sub(chunk, 1, 8)
    lanes[#lanes + 1] = lane
    from = '(' .. lane .. string.rep('\255', 48)
  else
    redis.call('ZREM', KEYS[1], chunk)
  end
end
