#!lua flags=allow-oom
-- uses: prelude holding
-- shrink_to: give back what an open hold reserves above `total` (absolute); never below what it has earned.
-- KEYS  account, hold, journal; then the keys of the hold's scopes
-- ARGV  1 hold id, 2 total
-- reply {'extended', granted, available} | {'not_open', available, held} | {'keys', ...}: come again with these scope keys

local id, total = name_of(ARGV[1], 'hold'), int(ARGV[2], 'total')
local hold, now = hold_of(KEYS[2]), now_ms()
local account = account_of(KEYS[1])
if not hold or hold[STATE] ~= 'open' or not account then
  return {'not_open', account and account.available or 0, account and account.held or 0}
end
local counters = counters_of(hold, 4)
if not counters then return keys_reply(hold) end
local less = hold[AMOUNT] - math.max(total, hold[EARNED])
if less <= 0 then return {'extended', hold[AMOUNT], account.available} end

release(account, hold[SPLIT], less)
hold[AMOUNT] = hold[AMOUNT] - less
local cut = lower(account)
journal(KEYS[3], 'shrink', now, hold[ACCOUNT], id, digits(less) .. ' -' .. digits(less) .. ' 0 0 0')
journal_lowered(KEYS[3], cut, now, hold[ACCOUNT], id)
save_account(KEYS[1], account)
call('SET', KEYS[2], cmsgpack.pack(hold))
for _, counter in ipairs(counters) do
  if holds_money(counter) then
    -- Others may have made anew what was lost: no more is taken out than is in it.
    counter.held = math.max(counter.held - less, 0)
    save_counter(counter)
  end
end
return {'extended', hold[AMOUNT], account.available}
