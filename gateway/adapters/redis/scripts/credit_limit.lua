#!lua flags=allow-oom
-- uses: prelude pockets
-- credit_limit: how much an account may owe in its postpaid pocket, absolute, once per change: from then on it is the
-- operator's own, which no plan touches, until 'plan' makes it the plan's again. Lowered below what is used, nothing is left there,
-- and what holds give back of it goes too. Makes the account where there is none.
-- KEYS  account, index of accounts, journal
-- ARGV  1 account id, 2 id of the change, 3 limit, or 'plan'
-- reply {'applied' | 'replayed', available, 0} | {'foreign' | 'too_great', available, held}

local account_id, id = name_of(ARGV[1], 'account'), name_of(ARGV[2], 'change')
local own = ARGV[3] ~= 'plan'
local asked = own and digits(int(ARGV[3], 'limit')) or 'plan'
local now = now_ms()
local account, fresh, before = person_account(KEYS[1], 'l:' .. id)
if not account then return {'foreign', 0, 0} end
local limit = own and tonumber(asked) or stored(call('HGET', KEYS[1], 'plan_limit'), 'plan_limit')
call('SISMEMBER', KEYS[2], account_id)
call('XLEN', KEYS[3])
if before == asked then return {'replayed', account.available, 0} end
if before then return {'foreign', account.available, account.held} end
local more, lowering = limit_change(account, limit)
if too_great(account, more) then return {'too_great', account.available, account.held} end
adjust(KEYS[3], account, account_id, 3, more, id, now, 'credit_limit')
save_person(KEYS[1], KEYS[2], account_id, account, fresh)
call('HSET', KEYS[1], 'l:' .. id, asked, 'lowering', digits(lowering))
if own then call('HSET', KEYS[1], 'own_limit', '1') else call('HDEL', KEYS[1], 'own_limit') end
return {'applied', account.available, 0}
