#!lua flags=allow-oom
-- uses: prelude pockets
-- credit_limit: how much an account may owe in its postpaid pocket, absolute, once per change. Lowered below what is used,
-- nothing is left there, and what holds give back of it goes too. Makes the account where there is none.
-- KEYS  account, index of accounts, journal
-- ARGV  1 account id, 2 id of the change, 3 limit
-- reply {'applied' | 'replayed', available, 0} | {'foreign' | 'too_great', available, held}

local account_id, id, limit = name_of(ARGV[1], 'account'), name_of(ARGV[2], 'change'), int(ARGV[3], 'limit')
local now = now_ms()
local account, fresh, before = person_account(KEYS[1], 'l:' .. id)
if not account then return {'foreign', 0, 0} end
call('SISMEMBER', KEYS[2], account_id)
call('XLEN', KEYS[3])
if before == digits(limit) then return {'replayed', account.available, 0} end
if before then return {'foreign', account.available, account.held} end
local pocket = account.pockets[3]
local over = pocket.available + pocket.held + pocket.posted - limit
local more = math.max(-over, -pocket.available)
if too_great(account, more) then return {'too_great', account.available, account.held} end
adjust(KEYS[3], account, account_id, 3, more, id, now, 'credit_limit')
save_person(KEYS[1], KEYS[2], account_id, account, fresh)
call('HSET', KEYS[1], 'l:' .. id, digits(limit), 'lowering', digits(math.min(math.max(over + more, 0), pocket.held)))
return {'applied', account.available, 0}
