-- prelude: what register, heartbeat and deregister have in common; put in front of each.
-- KEYS  inst, lease, load, ver, log of one service
-- ARGV  [1] channel  [2] seconds that silent keys are kept  [3] entries that the log keeps
-- Log and load are of use, but not needed: a key of another type there is left as it is, and named
-- behind the answer of the script. Any other key of another type ends the script.
-- Everything is read before the first write: Redis does not undo a script that fails half way.

local INST, LEASE, LOAD, VER, LOG = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local CHANNEL, KEEP, LOG_LENGTH = ARGV[1], ARGV[2], ARGV[3]

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

local known = redis.call('HMGET', VER, 'e', 'v', 'h')
local epoch, version, hash = known[1], known[2], known[3]

-- What a command answers; nil if its key has another type.
local function try(...)
  local answer = redis.pcall(...)
  if type(answer) ~= 'table' or not answer.err then return answer end
  if not string.find(answer.err, 'WRONGTYPE', 1, true) then error(answer.err, 0) end
end

local has_load, changes = try('HLEN', LOAD), try('XREVRANGE', LOG, '+', '-', 'COUNT', 1)
local has_log = changes ~= nil
local newest = has_log and changes[1]

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
    if has_log then redis.call('DEL', LOG) end
  end
  version = version + 1
  hash = string.sub(redis.sha1hex(hash .. '|' .. op .. '|' .. id .. '|' .. record), 1, 12)
  redis.call('HSET', VER, 'e', epoch, 'v', whole(version), 'h', hash)
  if has_log then
    redis.call('XADD', LOG, 'MAXLEN', '~', LOG_LENGTH, epoch .. '-' .. whole(version),
      'o', op, 'i', id, 'r', record, 'h', hash)
  end
end

local function set_load(id, report)
  if has_load then redis.call('HSET', LOAD, id, report) end
end

local function forget_load(id)
  if has_load then redis.call('HDEL', LOAD, id) end
end

-- Tell watchers where the service stands now, and return it.
local function finish(status, changed)
  local answer = {status, epoch, whole(version), hash}
  for _, key in ipairs({INST, LEASE, VER}) do redis.call('EXPIRE', key, KEEP) end
  for key, is_ours in pairs({[LOAD] = has_load ~= nil, [LOG] = has_log}) do
    if is_ours then
      redis.call('EXPIRE', key, KEEP)
    else
      table.insert(answer, key)
    end
  end
  if changed then
    redis.call('PUBLISH', CHANNEL, epoch .. ' ' .. whole(version) .. ' ' .. hash)
  end
  return answer
end
