-- Reads jobs without their payloads. KEYS: jobs, runs. ARGV: ids. Answers for each its spec and its record.
local answer = {}
for k = 1, #ARGV do
  local spec = redis.call('HGET', KEYS[1], ARGV[k]) or ''
  if #spec >= 49 then
    local details = struct.unpack('>I4', spec, 46)
    spec = string.sub(spec, 1, 49 + details)
  end
  answer[2 * k - 1] = spec
  answer[2 * k] = redis.call('HGET', KEYS[2], ARGV[k]) or ''
end
return answer
