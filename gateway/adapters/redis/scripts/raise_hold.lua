#!lua flags=allow-oom
-- uses: prelude
-- raise_hold: what a person said yes to. An open hold's ceiling becomes `ceiling` (absolute, never below what it holds), and
-- the budgets that were named, where they ask, no longer limit it, but still count it. Moves no money.
-- KEYS  account, hold
-- ARGV  1 hold id, 2 ceiling, 3 ids of budgets, with spaces between
-- reply {'extended', granted, available} | {'not_open', available, held}

local ceiling, lifts = int(ARGV[2], 'ceiling'), ' ' .. ARGV[3] .. ' '
name_of(ARGV[1], 'hold')
local hold, account = hold_of(KEYS[2]), account_of(KEYS[1])
if not hold or hold[STATE] ~= 'open' or not account then
  return {'not_open', account and account.available or 0, account and account.held or 0}
end
hold[CEILING] = math.max(hold[AMOUNT], ceiling)
for _, scope in ipairs(hold[SCOPES]) do
  local named = scope[2] ~= '' and find(lifts, ' ' .. budget_name(scope[2]) .. ' ', 1, true)
  if named and scope_detail(scope[6]) == 'ask' then scope[8] = 1 end
end
call('SET', KEYS[2], cmsgpack.pack(hold))
return {'extended', hold[AMOUNT], account.available}
