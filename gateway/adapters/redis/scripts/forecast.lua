#!lua flags=allow-oom
-- uses: prelude
-- forecast: tell once a window that a budget's forecast passes its limit.
-- KEYS  counter, outbox
-- ARGV  1 org, 2 data of the event: a JSON object
-- reply 1 told, 0 it was told before, or there is no such counter any more

local org, now = name_of(ARGV[1], 'org'), now_ms()
local before = call('HMGET', KEYS[1], 'used', 'forecast_told')
call('XLEN', KEYS[2])
if not before[1] or before[2] then return 0 end
tell(KEYS[2], 'budget.forecast', now, org, string.sub(ARGV[2], 2, -2))
call('HSET', KEYS[1], 'forecast_told', '1')
return 1
