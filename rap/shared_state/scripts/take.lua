-- take: take one token out of a bucket that time fills.
-- KEYS  [1] the bucket, a hash: t(okens), u(pdated), b(locked until), r(ecent attempts)
-- ARGV  [1] id of this attempt, 8 characters  [2] capacity  [3] tokens a second
--       [4] tokens of a new bucket  [5] ms for which an empty bucket refuses all  [6] ms to keep a
--       full one
-- Answers 0, or the ms after which to try again if there was none.
-- Times are ms on the clock of this server. The last 32 attempts that got a token are known, so
-- that one made again because its answer was lost does not take a second one.

local attempt, capacity, rate = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]) / 1000
local initial, block, keep = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local clock = redis.call('TIME')
local now = clock[1] * 1000 + clock[2] / 1000

local known = redis.call('HMGET', KEYS[1], 't', 'u', 'b', 'r')

-- A number that this script can have written, and nothing else that someone has put there.
local function number(text, otherwise)
  local value = text and string.match(text, '^-?%d') and tonumber(text)
  return value and value == value and value or otherwise
end

local tokens, updated = number(known[1], initial), number(known[2], now)
local blocked, recent = math.min(number(known[3], 0), now + block), known[4] or ''
for i = 1, #recent, #attempt do
  if string.sub(recent, i, i + #attempt - 1) == attempt then return 0 end
end

tokens = math.min(capacity, math.max(0, tokens) + math.max(0, now - updated) * rate)
local wait = math.max(0, blocked - now)
if wait == 0 and tokens >= 1 then
  tokens = tokens - 1
  recent = string.sub(recent .. attempt, -32 * #attempt)
elseif wait == 0 then
  wait = math.max((1 - tokens) / rate, block)
  blocked = now + block
end

redis.call('HSET', KEYS[1], 't', string.format('%.17g', tokens), 'u', string.format('%.3f', now),
  'b', string.format('%.3f', blocked), 'r', recent)
local until_full = math.max((capacity - tokens) / rate, blocked - now)
redis.call('PEXPIRE', KEYS[1], string.format('%.0f', math.min(until_full + keep, 2 ^ 46)))
return math.ceil(wait)
