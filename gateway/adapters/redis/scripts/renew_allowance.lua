#!lua flags=allow-oom
-- uses: prelude pockets
-- renew_allowance: begin a plan's period, once per period. What is left of the old allowance goes, the new one comes; what
-- holds of the old period give back later goes to the new one. Makes the account where there is none.
-- KEYS  account, index of accounts, journal
-- ARGV  1 account id, 2 period id, 3 amount, 4 plan ('' none any more), 5 the period's end ms (0 never)
-- reply {'applied' | 'replayed', available, 0} | {'foreign' | 'too_great', available, held}

local account_id, period = name_of(ARGV[1], 'account'), name_of(ARGV[2], 'period')
local amount, plan, ends_at = int(ARGV[3], 'amount'), ARGV[4], int(ARGV[5], 'end')
local now = now_ms()
local account, fresh, begun = person_account(KEYS[1], 'p:' .. period)
if not account then return {'foreign', 0, 0} end
local before = call('HMGET', KEYS[1], 'period', 'period_ends')
call('SISMEMBER', KEYS[2], account_id)
call('XLEN', KEYS[3])
-- A period that was begun, whatever plan came after it, or one before the running one, is not begun again.
if begun or before[1] == period or (ends_at > 0 and stored(before[2], 'period_ends') > ends_at and plan ~= '') then
  return {'replayed', account.available, 0}
end
local old = account.pockets[1].available
if too_great(account, amount - old) then return {'too_great', account.available, account.held} end
adjust(KEYS[3], account, account_id, 1, -old, 'expire:' .. period, now, 'grant_expiry')
adjust(KEYS[3], account, account_id, 1, amount, 'allow:' .. period, now, 'allowance')
save_person(KEYS[1], KEYS[2], account_id, account, fresh)
-- What each pocket had paid before: from here on the period's own use is counted.
local base = {}
for i, pocket in ipairs(account.pockets) do base[i] = digits(pocket.posted) end
call('HSET', KEYS[1], 'period', period, 'period_ends', digits(ends_at), 'plan', plan, 'granted', digits(amount),
  'period_base', table.concat(base, ' '), 'p:' .. period, digits(amount))
return {'applied', account.available, 0}
