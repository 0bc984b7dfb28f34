#!lua flags=allow-oom
-- uses: prelude holding
-- extend_to: let an open hold reserve up to `total` (absolute, so that a retry cannot hold twice); never above its ceiling,
-- never less than before. `beyond` is told where less was granted: how much more there is for a yes, which raises the ceiling
-- and lifts the budgets that ask.
-- KEYS  account, hold, journal; then the keys of the hold's scopes
-- ARGV  1 hold id, 2 total
-- reply {'extended', granted, available, beyond} | {'not_open', available, held}
--       {'keys', ...}: come again with these scope keys

local id, total = name_of(ARGV[1], 'hold'), int(ARGV[2], 'total')
local hold, now = hold_of(KEYS[2]), now_ms()
local account = account_of(KEYS[1])
if not hold or hold[STATE] ~= 'open' or not account then
  return {'not_open', account and account.available or 0, account and account.held or 0}
end
local counters = counters_of(hold, 4)
if not counters then return keys_reply(hold) end
local wanted, beyond = total - hold[AMOUNT], 0
local more = math.min(wanted, hold[CEILING] - hold[AMOUNT])
if more > 0 then more = math.min(more, room_of(account, counters, now)) end
more = math.max(more, 0)
if more < wanted then beyond = room_of(account, counters, now, true) - more end
if more == 0 then return {'extended', hold[AMOUNT], account.available, beyond} end

reserve(account, hold[SPLIT], more)
hold[AMOUNT] = hold[AMOUNT] + more
journal(KEYS[3], 'extend', now, hold[ACCOUNT], id, '-' .. digits(more) .. ' ' .. digits(more) .. ' 0 0 0')
save_account(KEYS[1], account)
call('SET', KEYS[2], cmsgpack.pack(hold))
for _, counter in ipairs(counters) do
  if holds_money(counter) then
    counter.held = counter.held + more
    save_counter(counter)
  end
end
return {'extended', hold[AMOUNT], account.available, beyond}
