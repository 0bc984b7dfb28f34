#!lua
-- uses:
-- refund_intend: write the intent to pay an invoice, once per payment hash; a refund that held nothing may be tried again.
-- KEYS  the refund (hash), unfinished ones, unfinished ones to the same destination (sorted sets)
-- ARGV  1 payment hash, 2 body, 3 run of the store, 4 most in all, 5 most per destination
-- reply {'ok' | 'known', state, body, written at ms, run} | {'many', 'all' | 'destination'}

local function int(value, name)
  if value and #value <= 15 and string.find(value, '^[1-9]%d*$') then return tonumber(value) end
  error({err = 'ERR farebox: not a positive integer of at most 15 digits: ' .. name})
end

local in_all, per_destination = int(ARGV[4], 'in all'), int(ARGV[5], 'per destination')
local before = redis.call('HMGET', KEYS[1], 'state', 'body', 'written_at_ms', 'run')
local open, same = redis.call('ZCARD', KEYS[2]), redis.call('ZCARD', KEYS[3])
if before[1] and before[1] ~= 'refused' then return {'known', before[1], before[2], before[3], before[4]} end
if open >= in_all then return {'many', 'all'} end
if same >= per_destination then return {'many', 'destination'} end
local time = redis.call('TIME')
local now = string.format('%.0f', time[1] * 1000 + math.floor(time[2] / 1000))
redis.call('HSET', KEYS[1], 'state', 'intended', 'body', ARGV[2], 'written_at_ms', now, 'run', ARGV[3])
redis.call('PERSIST', KEYS[1])
redis.call('ZADD', KEYS[2], now, ARGV[1])
redis.call('ZADD', KEYS[3], now, ARGV[1])
return {'ok', 'intended', ARGV[2], now, ARGV[3]}
