-- prelude: what register, heartbeat and deregister have in common; put in front of each.
-- KEYS  inst, lease, load, ver, log of one service
-- ARGV  [1] channel  [2] seconds that silent keys are kept  [3] entries that the log keeps
-- Everything is read before the first write: Redis does not undo a script that fails half way.

local INST, LEASE, LOAD, VER, LOG = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local CHANNEL, KEEP, LOG_LENGTH = ARGV[1], ARGV[2], ARGV[3]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local known = redis.call('HMGET', VER, 'e', 'v', 'h')
local epoch, version, hash = known[1], known[2], known[3]
local newest = redis.call('XREVRANGE', LOG, '+', '-', 'COUNT', 1)[1]

-- Whether a text is a number of up to 15 digits; more would not be counted exactly.
local function is_number(text)
  return text and #text <= 15 and string.match(text, '^%d+$') ~= nil
end

-- Nonsense counts as no version, so that the next registration writes a new one.
local has_version = is_number(epoch) and is_number(version) and hash
version = has_version and tonumber(version)

local function whole(number)
  return string.format('%.0f', number)
end

-- A key of another type ends the script here.
local total = redis.call('HLEN', INST)
local leases = redis.call('ZCARD', LEASE)
redis.call('HLEN', LOAD)

-- A log that is ahead of the version would refuse the next entry: both begin anew then.
if has_version and newest then
  local e, v = string.match(newest[1], '^(%d+)-(%d+)$')
  has_version = tonumber(e) < tonumber(epoch) or (e == epoch and tonumber(v) <= version)
end

-- Incarnation and state in a record; nil if it is no record.
local function read_record(record)
  local ok, fields = pcall(cmsgpack.unpack, record)
  if ok and type(fields) == 'table' then return fields.incarnation, fields.state end
end

-- Add one change to version, hash and log. op: put, del, exp.
local function change(op, id, record)
  if not has_version then
    epoch, version, hash, has_version = whole(now), 0, '', true
    redis.call('DEL', LOG)
  end
  version = version + 1
  hash = string.sub(redis.sha1hex(hash .. '|' .. op .. '|' .. id .. '|' .. record), 1, 12)
  redis.call('HSET', VER, 'e', epoch, 'v', whole(version), 'h', hash)
  redis.call('XADD', LOG, 'MAXLEN', '~', LOG_LENGTH, epoch .. '-' .. whole(version),
    'o', op, 'i', id, 'r', record, 'h', hash)
end

-- Tell watchers where the service stands now, and return it.
local function finish(status, changed)
  for _, key in ipairs(KEYS) do redis.call('EXPIRE', key, KEEP) end
  if changed then
    redis.call('PUBLISH', CHANNEL, epoch .. ' ' .. whole(version) .. ' ' .. hash)
  end
  return {status, epoch, whole(version), hash}
end
