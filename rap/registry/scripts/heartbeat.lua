-- heartbeat: renew the lease of one instance, and remove those that have died.
-- ARGV  [4] instance id  [5] its incarnation  [6] ms to live  [7] load record, msgpack, or ''
--       [8] percent of all that may be removed at once  [9] below this many all may be
--       [10] ms of silence after which an instance is removed in any case
-- Answers {0, epoch, version, hash}; {-1} if lease, record or version are gone, so that the
-- instance must register in full; {-2, ms until that lease runs out} if another incarnation holds
-- the id. With -1 and -2 nothing was written.
-- When many leases run out at once it was rather Redis or the network that stood still, so none
-- of them is removed before the silence of [10]. A lease that had run out and is renewed counts as
-- a change: a watcher may have seen the instance as suspect. A record without a lease, which only
-- somebody else can have removed, gets one: its owner renews that, or it runs out as any other.

local id, incarnation, ttl, report = ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local share, small, dead_after = tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])

local record = redis.call('HGET', INST, id)
local expiry = tonumber(redis.call('ZSCORE', LEASE, id) or nil)
local holder = record and read_record(record)
if not (holder and expiry and has_version) then return {-1} end
if holder ~= incarnation then return {-2, math.max(0, expiry - now)} end

local revived = expiry <= now
local expired = redis.call('ZCOUNT', LEASE, '-inf', now) - (revived and 1 or 0)
local horizon = now
if total >= small and expired > math.max(1, math.floor(total * share / 100)) then
  horizon = now - dead_after
end
local gone = redis.call('ZRANGEBYSCORE', LEASE, '-inf', horizon)

redis.call('ZADD', LEASE, now + ttl, id)
if leases < total then
  for _, other in ipairs(redis.call('HKEYS', INST)) do
    redis.call('ZADD', LEASE, 'NX', now + ttl, other)
  end
end
if report ~= '' then set_load(id, report) end
if revived then change('put', id, record) end
local changed = revived
for _, other in ipairs(gone) do
  if other ~= id then
    redis.call('ZREM', LEASE, other)
    forget_load(other)
    if redis.call('HDEL', INST, other) == 1 then
      change('exp', other, '')
      changed = true
    end
  end
end
return finish(0, changed)
