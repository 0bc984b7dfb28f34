#!lua flags=allow-oom
-- uses: prelude holding settle
-- expire: post a hold that its worker has left behind at its checkpoint, with the outcome told there. Refuses while the hold
-- is renewed, unless the caller has seen that the worker's lease is gone. A hold that an execution or a refund owns never
-- expires.
-- KEYS  account, hold, open holds, journal; then the keys of the hold's scopes
-- ARGV  1 hold id, 2 retention ms, 3 '1' the worker's lease is gone, '0' otherwise
-- reply {'ended', state, posted, shortfall, available, replayed 0|1, pockets...} | {'not_open' | 'renewed', available, held}
--       | {'keys', ...}: come again with these scope keys

local id, retention, gone = name_of(ARGV[1], 'hold'), int(ARGV[2], 'retention'), int(ARGV[3], 'lease gone')
if retention == 0 or gone > 1 then fail('retention > 0, lease gone 0 or 1') end
local hold, now = hold_of(KEYS[2]), now_ms()
local account = account_of(KEYS[1])
call('ZSCORE', KEYS[3], id)
if not hold or not account then return {'not_open', account and account.available or 0, account and account.held or 0} end
if hold[STATE] ~= 'open' then return posted_reply(hold, account, 1) end
if hold[OWNER] ~= '' or (now < hold[RENEWED_UNTIL] and gone == 0) then
  return {'renewed', account.available, account.held}
end
local counters = counters_of(hold, 5)
if not counters then return keys_reply(hold) end
return settle(id, hold, account, counters, now, 'expired', hold[EARNED], hold[OUTCOME], retention)
