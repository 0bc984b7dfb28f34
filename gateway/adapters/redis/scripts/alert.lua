#!lua flags=allow-oom
-- uses: prelude holding settle
-- alert: tell which shares of its limit a budget's window has used already, each once a window, as the postings do. For a
-- limit that was lowered, and a share that is new.
-- KEYS  counter, budget record, outbox
-- ARGV  1 detail of a claim: 'refuse <org> <per cent> ...'
-- reply the shares that are told by now

local now, v = now_ms(), call('HMGET', KEYS[1], 'used', 'held', 'alerted')
local exceed, org = scope_detail(ARGV[1])
name_of(org, 'organization')
local counter = {measure = 'm', key = KEYS[1], budget = KEYS[2], outbox = KEYS[3], detail = ARGV[1], limit = -1,
  used = stored(v[1], 'used'), gone = not v[1], alerted = v[3] or ''}
weigh_thresholds(counter, now)
tell_thresholds(counter, now)
return call('HGET', KEYS[1], 'alerted') or ''
