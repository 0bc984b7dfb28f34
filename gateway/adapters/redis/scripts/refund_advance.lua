#!lua
-- uses:
-- refund_advance: a refund goes from the state that its worker saw to the next one; whoever comes late is told what stands.
-- KEYS  the refund (hash), unfinished ones, unfinished ones to the same destination (sorted sets)
-- ARGV  1 payment hash, 2 expected state, 3 next state, 4 body, 5 run of the store, 6 ms to remember an ended one
-- reply {state, body, written at ms, run} | {} where there is no such refund

local keep = ARGV[6]
if not string.find(keep, '^[1-9]%d*$') or #keep > 15 then error({err = 'ERR farebox: not a positive integer: keep'}) end
local states = {intended = true, held = true, paid = true, failed = true, refused = true}
if not states[ARGV[3]] then error({err = 'ERR farebox: not a state of a refund'}) end
local before = redis.call('HMGET', KEYS[1], 'state', 'body', 'written_at_ms', 'run')
redis.call('ZSCORE', KEYS[2], ARGV[1])
redis.call('ZSCORE', KEYS[3], ARGV[1])
if not before[1] then return {} end
if before[1] ~= ARGV[2] then return before end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'state', ARGV[3], 'body', ARGV[4], 'written_at_ms', now, 'run', ARGV[5])
if ARGV[3] ~= 'intended' and ARGV[3] ~= 'held' then
  redis.call('ZREM', KEYS[2], ARGV[1])
  redis.call('ZREM', KEYS[3], ARGV[1])
  redis.call('PEXPIRE', KEYS[1], keep)
end
return {ARGV[3], ARGV[4], now, ARGV[5]}
