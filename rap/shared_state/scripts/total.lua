-- total: tell how many connections all instances hold under one key.
-- KEYS  as in connections
-- ARGV  [1] key
-- Answers the number. Nothing is written.

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
local total = 0
for _, instance in ipairs(redis.call('ZRANGEBYSCORE', KEYS[2], '(' .. now, '+inf')) do
  total = total + (tonumber(redis.call('HGET', KEYS[1], instance .. ARGV[1]) or 0) or 0)
end
return total
