#!lua
-- uses: prelude
-- outbox_retry: let a dead letter wait again, after what waits; the organization may be told at once.
-- KEYS  dead letters, queue, due
-- ARGV  1 organization, 2 the event's text
-- reply 1, or 0 where it is there no more

local org = name_of(ARGV[1], 'organization')
call('LLEN', KEYS[1])
call('LLEN', KEYS[2])
call('ZSCORE', KEYS[3], org)

if call('LREM', KEYS[1], 1, ARGV[2]) == 0 then return 0 end
call('RPUSH', KEYS[2], ARGV[2])
call('ZADD', KEYS[3], '0', org)
return 1
