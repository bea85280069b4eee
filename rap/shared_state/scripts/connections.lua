-- connections: write how many connections one instance holds, and admit more of them.
-- KEYS  [1] counts, a hash: instance + key to count, instance to sequence number
--       [2] leases, a sorted set: instance to expiry in ms
-- ARGV  [1] instance, 16 characters  [2] ms that its lease lasts from now; 0 gives all back
--       [3] sequence number  [4] 1 if the instance knows that it has no lease
--       then for each key: key, count held, how many more are wanted, limit for all instances
-- Answers {instances with a lease, granted, granted, ...}; {-1} if the lease is gone, so that the
-- instance must send all its counts; {-2} if a later message was here before this one. With -1 and
-- -2 nothing was written.
-- Counts are absolute: a message that arrives twice changes nothing more.

local COUNTS, LEASES = KEYS[1], KEYS[2]
local me, ttl, sequence, is_first = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4] == '1'
local CHUNK = 1000  -- arguments of one command

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local has_lease = redis.call('ZSCORE', LEASES, me)
local last = tonumber(redis.call('HGET', COUNTS, me) or nil)
if last and last > sequence then return {-2} end
if not (is_first or (has_lease and last)) then return {-1} end

-- Others whose lease ran out have died, and hold nothing. Counting on with what they held would be
-- the one thing that never heals.
local dead = {}
for _, instance in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '-inf', now)) do
  if instance ~= me then
    dead[instance] = true
    redis.call('ZREM', LEASES, instance)
  end
end
if next(dead) then
  for _, field in ipairs(redis.call('HKEYS', COUNTS)) do
    if dead[string.sub(field, 1, #me)] then redis.call('HDEL', COUNTS, field) end
  end
end

redis.call('ZADD', LEASES, now + ttl, me)
redis.call('HSET', COUNTS, me, sequence)
local instances = redis.call('ZRANGE', LEASES, 0, -1)

local function held_by_others(key)
  local total = 0
  for start = 1, #instances, CHUNK do
    local fields = {}
    for i = start, math.min(start + CHUNK - 1, #instances) do
      if instances[i] ~= me then fields[#fields + 1] = instances[i] .. key end
    end
    if #fields > 0 then
      for _, count in ipairs(redis.call('HMGET', COUNTS, unpack(fields))) do
        total = total + (tonumber(count or 0) or 0)
      end
    end
  end
  return total
end

local answer = {#instances}
for i = 5, #ARGV, 4 do
  local key, held, wanted, limit = ARGV[i], tonumber(ARGV[i + 1]), tonumber(ARGV[i + 2]), ARGV[i + 3]
  local granted = 0
  if wanted > 0 then
    granted = math.max(0, math.min(wanted, tonumber(limit) - held_by_others(key) - held))
  end
  if held + granted > 0 then
    redis.call('HSET', COUNTS, me .. key, held + granted)
  else
    redis.call('HDEL', COUNTS, me .. key)
  end
  answer[#answer + 1] = granted
end

-- When the last lease has run out nothing of it is worth keeping.
for _, name in ipairs(KEYS) do
  local life = ttl + 1000
  if redis.call('PTTL', name) < life then redis.call('PEXPIRE', name, life) end
end
return answer
