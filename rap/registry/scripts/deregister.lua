-- deregister: remove one instance.
-- ARGV  [4] instance id  [5] its incarnation
-- Answers {0, epoch, version, hash}; {-1} if it is not there, {-2} if another incarnation holds
-- the id: then nothing was written.

local id, incarnation = ARGV[4], ARGV[5]
local record = redis.call('HGET', INST, id)
if not record then return {-1} end
local holder = read_record(record)
if holder and holder ~= incarnation then return {-2} end

redis.call('HDEL', INST, id)
redis.call('ZREM', LEASE, id)
forget_load(id)
change('del', id, '')
return finish(0, true)
