-- snapshot: all instances of a service with their leases, and the version that they make up.
-- KEYS  inst, lease, ver of one service
-- Answers {epoch, version, hash, now in ms, {id, record, ...}, {id, expiry in ms, ...}}; the first
-- three are nil where the service has no version: nobody registered, or Redis has lost it.

local clock = redis.call('TIME')
local known = redis.call('HMGET', KEYS[3], 'e', 'v', 'h')
return {
  known[1], known[2], known[3],
  string.format('%.0f', clock[1] * 1000 + math.floor(clock[2] / 1000)),
  redis.call('HGETALL', KEYS[1]),
  redis.call('ZRANGE', KEYS[2], 0, -1, 'WITHSCORES'),
}
