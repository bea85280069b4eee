-- claim: remember a nonce unless it is known.
-- KEYS  [1] of the nonce
-- ARGV  [1] id of this attempt  [2] ms to remember it
-- Answers 1 if the nonce was new, 0 if not. An attempt that is made again because its answer was
-- lost finds its own id and gets the same answer.

if redis.call('SET', KEYS[1], ARGV[1], 'NX', 'PX', ARGV[2]) then return 1 end
if redis.call('GET', KEYS[1]) == ARGV[1] then return 1 end
return 0
