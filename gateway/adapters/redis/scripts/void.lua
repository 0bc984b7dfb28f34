#!lua flags=allow-oom
-- uses: prelude holding settle
-- void: end the hold at no charge. Of an unknown id a tombstone stays, which refuses a late place. A hold that has ended
-- answers as it ended.
-- KEYS  account, hold, open holds, journal; then the keys of the hold's scopes
-- ARGV  1 hold id, 2 account id, 3 outcome, 4 retention ms
-- reply {'ended', state, posted, shortfall, available, replayed 0|1, pockets...} | {'foreign', available, held}
--       | {'keys', ...}: come again with these scope keys

local id, account_id = name_of(ARGV[1], 'hold'), name_of(ARGV[2], 'account')
local outcome, retention = ARGV[3], int(ARGV[4], 'retention')
if not outcome or retention == 0 then fail('outcome and retention') end
local hold, now = hold_of(KEYS[2]), now_ms()
local account = account_of(KEYS[1])
call('ZSCORE', KEYS[3], id)
if not hold then
  hold = {'voided', account_id, 0, 0, 0, 0, 0, 0, 0, 0, '', '', now, now, 0, now, now, {}, {}, '', outcome, 0, 0}
  call('SET', KEYS[2], cmsgpack.pack(hold), 'PX', digits(retention))
  return posted_reply(hold, account, 0)
end
if hold[ACCOUNT] ~= account_id then
  return {'foreign', account and account.available or 0, account and account.held or 0}
end
if hold[STATE] ~= 'open' then return posted_reply(hold, account, 1) end
if not account then fail('corrupt: an open hold without its account') end
local counters = counters_of(hold, 5)
if not counters then return keys_reply(hold) end
return settle(id, hold, account, counters, now, 'voided', 0, outcome, retention)
