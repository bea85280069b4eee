-- register: write the record of one instance and give it a lease.
-- ARGV  [4] instance id  [5] its record, msgpack  [6] its incarnation  [7] ms to live
-- Answers {0, epoch, version, hash}, or {-2, ms until that lease runs out} if another incarnation
-- with a lease holds the id: then nothing was written. A record that is up replaces one that is
-- draining at once: that process may have been killed.
-- Version, hash and log change only with the record, or when the lease had run out: a watcher may
-- have seen the instance as suspect.

local id, record, incarnation, ttl = ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local old = redis.call('HGET', INST, id)
local expiry = tonumber(redis.call('ZSCORE', LEASE, id) or 0)

if old and expiry > now then
  local other, state = read_record(old)
  local _, new_state = read_record(record)
  local replaces = state == 'draining' and new_state == 'up'
  if other and other ~= incarnation and not replaces then return {-2, expiry - now} end
end

local changed = old ~= record or expiry <= now or not has_version
redis.call('ZADD', LEASE, now + ttl, id)
if changed then
  redis.call('HSET', INST, id, record)
  change('put', id, record)
end
return finish(0, changed)
