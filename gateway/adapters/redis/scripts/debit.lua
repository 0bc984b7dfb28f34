#!lua flags=allow-oom
-- uses: prelude
-- debit: take money back from an account, once per debit id: what is available, the rest becomes debt. Never touches what is
-- held. Of an account with pockets one pocket gives.
-- KEYS  account, journal
-- ARGV  1 account id, 2 debit id, 3 amount, 4 cause, 5 pocket of an account that has them: allowance | prepaid | postpaid
-- reply {'debited', taken, owed, available, replayed 0|1} | {'no_account' | 'foreign' | 'too_great', available, held}

local PLACES = {allowance = 1, prepaid = 2, postpaid = 3}
local account_id, id = name_of(ARGV[1], 'account'), name_of(ARGV[2], 'debit')
local amount, cause, place = int(ARGV[3], 'amount'), name_of(ARGV[4], 'cause'), PLACES[ARGV[5]]
if amount == 0 then fail('amount is at least 1') end
if not place then fail('no such pocket') end

local now = now_ms()
local account, before = account_of(KEYS[1], 'd:' .. id)
call('XLEN', KEYS[2])
if not account then return {'no_account', 0, 0} end
if before then
  local a, c, taken, owed = string.match(before, '^(%d+) (%S+) (%d+) (%d+)$')
  if a ~= digits(amount) or c ~= cause then return {'foreign', account.available, account.held} end
  return {'debited', stored(taken), stored(owed), account.available, 1}
end
local pocket = account.pockets and account.pockets[place]
local taken = math.min(amount, pocket and pocket.available or account.available)
local owed = amount - taken
if account.debt + owed > EXACT or account.credited - amount < 0 - EXACT then
  return {'too_great', account.available, account.held}
end
account.available = account.available - taken
if pocket then pocket.available = pocket.available - taken end

journal(KEYS[2], 'debit', now, account_id, id,
  '-' .. digits(taken) .. ' 0 -' .. digits(amount) .. ' 0 ' .. digits(owed), ' cause=' .. cause)
save_account(KEYS[1], account)
call('HSET', KEYS[1], 'credited', digits(account.credited - amount), 'debt', digits(account.debt + owed),
  'd:' .. id, digits(amount) .. ' ' .. cause .. ' ' .. digits(taken) .. ' ' .. digits(owed))
return {'debited', taken, owed, account.available, 0}
