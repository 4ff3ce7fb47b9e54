-- Counts jobs, a slice at a time. KEYS: order, jobs, runs. ARGV: where to begin, how many chunks.
-- Answers where to go on, and for each job that can be understood its lane, state and time, 17 bytes each.
local chunks = redis.call('ZRANGEBYLEX', KEYS[1], ARGV[1], '+', 'LIMIT', 0, tonumber(ARGV[2]))
local found = {}
for _, chunk in ipairs(chunks) do
  if #chunk % 24 == 0 then
    for at = 1, #chunk, 24 do
      local id = string.sub(chunk, at + 8, at + 23)
      local run = redis.call('HGET', KEYS[3], id)
      if run then
        if #run >= 118 and string.byte(run, 1) == 82 then
          found[#found + 1] = string.sub(run, 93, 100) .. string.sub(run, 2, 2) .. string.sub(run, 85, 92)
        end
      else
        local spec = redis.call('HGET', KEYS[2], id)
        if spec and #spec >= 49 and string.byte(spec, 9) == 74 then
          found[#found + 1] = string.sub(spec, 20, 27) .. string.sub(spec, 10, 10) .. string.sub(spec, 12, 19)
        end
      end
    end
  end
end
return { chunks[#chunks] or '', table.concat(found) }
