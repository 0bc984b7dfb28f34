#!lua flags=allow-oom
-- uses: prelude
-- outbox_end: an event waits no longer: it was told, nobody wants it, or it is dead.
-- KEYS  queue, due, dead letters
-- ARGV  1 organization, 2 the event's text, 3 most dead letters, 0: it is none
-- reply 1 it waited, 0 it did not

local org, most_dead = name_of(ARGV[1], 'organization'), int(ARGV[3], 'most dead letters')
call('LLEN', KEYS[1])
call('ZSCORE', KEYS[2], org)
call('LLEN', KEYS[3])

local waited = call('LREM', KEYS[1], 1, ARGV[2])
if most_dead == 0 then
  -- It may have become a dead letter, as one too many, while it was told.
  if waited == 0 then call('LREM', KEYS[3], 1, ARGV[2]) end
elseif waited == 1 then
  call('LPUSH', KEYS[3], ARGV[2])
  call('LTRIM', KEYS[3], 0, digits(most_dead - 1))
end
if call('LLEN', KEYS[1]) == 0 then call('ZREM', KEYS[2], org) end
return waited
