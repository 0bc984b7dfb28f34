#!lua flags=allow-oom
-- uses: prelude pockets
-- renew_allowance: begin a plan's period, or end the plan: what is left of the old allowance goes, the new one comes, and what
-- may be owed becomes what the plan says, unless an operator set it. A period's allowance comes once, whatever plan ran between.
-- What holds of the old period give back later goes to the new one. Makes the account where there is none.
-- KEYS  account, index of accounts, journal
-- ARGV  1 account id, 2 period id, 3 amount, 4 plan ('' none any more), 5 the period's end ms (0 never), 6 the period that it
--       follows: where another runs, nothing is changed ('' whatever runs), 7 the plan's credit limit
-- reply {'applied' | 'replayed', available, 0} | {'foreign' | 'too_great' | 'period_over', available, held}

local account_id, period = name_of(ARGV[1], 'account'), name_of(ARGV[2], 'period')
local amount, plan, ends_at = int(ARGV[3], 'amount'), ARGV[4], int(ARGV[5], 'end')
local follows, limit = ARGV[6], int(ARGV[7], 'limit')
local now = now_ms()
local account, fresh, periods = person_account(KEYS[1], 'periods')
if not account then return {'foreign', 0, 0} end
local before = call('HMGET', KEYS[1], 'period', 'plan', 'plan_limit', 'own_limit')
local runs, old_plan, old_limit = before[1] or '', before[2] or '', stored(before[3], 'plan_limit')
call('SISMEMBER', KEYS[2], account_id)
call('XLEN', KEYS[3])
-- Of one plan, a period that ends before the running one is late. Another plan's begins at once, whenever it ends.
local late = old_plan == plan and (plan == '' or (ends_at > 0 and (account.period_ends or 0) > ends_at))
if runs == period or late or (follows ~= '' and runs ~= follows) then return {'replayed', account.available, 0} end
if ends_at > 0 and ends_at <= now then return {'period_over', account.available, account.held} end
-- The periods that were begun and still run, as 'id end id end ...'. One that is over needs no memory: it begins no more.
local kept = {}
for id, ends in string.gmatch(periods or '', '(%S+) (%d+)') do
  if id == period then
    amount = 0
  elseif ends == '0' or tonumber(ends) > now then
    kept[#kept + 1] = id .. ' ' .. ends
  end
end
if plan ~= '' then kept[#kept + 1] = period .. ' ' .. digits(ends_at) end
local old, more, lowering = account.pockets[1].available, 0, account.lowering or 0
if not before[4] and limit ~= old_limit then more, lowering = limit_change(account, limit) end
if too_great(account, amount - old + math.max(more, 0)) then return {'too_great', account.available, account.held} end
adjust(KEYS[3], account, account_id, 1, -old, 'expire:' .. period, now, 'grant_expiry')
adjust(KEYS[3], account, account_id, 1, amount, 'allow:' .. period, now, 'allowance')
adjust(KEYS[3], account, account_id, 3, more, 'limit:' .. period, now, 'credit_limit')
save_person(KEYS[1], KEYS[2], account_id, account, fresh)
-- What each pocket had paid before: from here on the period's own use is counted.
local base = {}
for i, pocket in ipairs(account.pockets) do base[i] = digits(pocket.posted) end
call('HSET', KEYS[1], 'period', period, 'period_ends', digits(ends_at), 'plan', plan, 'granted', digits(amount),
  'period_base', table.concat(base, ' '), 'periods', table.concat(kept, ' '), 'plan_limit', digits(limit),
  'lowering', digits(lowering))
return {'applied', account.available, 0}
