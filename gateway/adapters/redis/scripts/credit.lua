#!lua flags=allow-oom
-- uses: prelude
-- credit: add money to an account, once per credit id, and make the account where it does not exist. What was paid goes to a
-- debt first. What nobody paid comes out of the house's account, so that the sums of what was paid stay true.
-- KEYS  account, index of accounts, journal; for the mode 'house' the house's account too
-- ARGV  1 account id, 2 credit id, 3 amount, 4 unit, 5 rate, 6 source, 7 cause, 8 mode: paid | house | moved,
--       9 pocket: allowance | prepaid | postpaid, '' for an account of one pocket, 10 class, 11 id of the house's account
-- reply {'applied' | 'replayed', available, debt paid} | {'foreign' | 'too_great', available, held}

local GREATEST_AVAILABLE = 9000000000000000
local PLACES = {allowance = 1, prepaid = 2, postpaid = 3}
local account_id, id = name_of(ARGV[1], 'account'), name_of(ARGV[2], 'credit')
local amount, unit, rate = int(ARGV[3], 'amount'), name_of(ARGV[4], 'unit'), int(ARGV[5], 'rate')
local source, cause, mode = name_of(ARGV[6], 'source'), name_of(ARGV[7], 'cause'), ARGV[8]
local pocket, class, house_id = ARGV[9], name_of(ARGV[10], 'class'), ARGV[11]
if amount == 0 then fail('amount is at least 1') end
if mode ~= 'paid' and mode ~= 'house' and mode ~= 'moved' then fail('mode is paid, house or moved') end
if pocket ~= '' and not PLACES[pocket] then fail('no such pocket') end
if mode == 'house' and (not KEYS[4] or KEYS[4] == KEYS[1]) then fail('the house pays another account from its own') end
local contents = digits(amount) .. ' ' .. unit .. ' ' .. source .. ' ' .. cause

local now, from = now_ms(), 'from:' .. source
local account, before, from_source = account_of(KEYS[1], 'c:' .. id, from)
local house = mode == 'house' and (account_of(KEYS[4]) or {unit = unit, credited = 0, posted = 0})
call('SISMEMBER', KEYS[2], account_id)
call('XLEN', KEYS[3])
if before then
  return {before == contents and 'replayed' or 'foreign', account.available, before == contents and 0 or account.held}
end
if house then name_of(house_id, 'house') end
local fresh = not account
if fresh then
  account = {unit = unit, available = 0, held = 0, credited = 0, posted = 0, debt = 0, shortfalls = 0}
  if pocket ~= '' then
    account.pockets = {}
    for i = 1, 3 do account.pockets[i] = {available = 0, held = 0, posted = 0} end
  end
end
if account.unit ~= unit or (account.pockets ~= nil) ~= (pocket ~= '') or (house and house.unit ~= unit) then
  return {'foreign', account.available, account.held}
end
local debt_paid = mode == 'paid' and math.min(account.debt, amount) or 0
local total, from_total = account.credited + amount, stored(from_source, from) + amount
if account.available + amount - debt_paid > GREATEST_AVAILABLE or total > EXACT or from_total > EXACT
  or (house and house.credited + amount > EXACT) then
  return {'too_great', account.available, account.held}
end
account.available = account.available + amount - debt_paid
if account.pockets then
  local p = account.pockets[PLACES[pocket]]
  p.available = p.available + amount - debt_paid
end

journal(KEYS[3], 'credit', now, account_id, id,
  digits(amount - debt_paid) .. ' 0 ' .. digits(amount) .. ' 0 -' .. digits(debt_paid),
  ' source=' .. source .. ' cause=' .. cause)
if fresh then
  call('SADD', KEYS[2], account_id)
  call('HSET', KEYS[1], 'unit', unit, 'class', class)
end
save_account(KEYS[1], account)
-- A payment forgives half of what the payer's shortfalls count, so that refusing is not for ever and a small payment does
-- not wash the record clean.
local shortfalls = mode == 'paid' and math.floor(account.shortfalls / 2) or account.shortfalls
call('HSET', KEYS[1], 'credited', digits(total), 'debt', digits(account.debt - debt_paid), 'rate', digits(rate),
  'shortfalls', digits(shortfalls), 'c:' .. id, contents, from, digits(from_total))
if house then
  local given = digits(amount)
  journal(KEYS[3], 'house', now, house_id, id, '0 0 ' .. given .. ' ' .. given .. ' 0',
    ' for=' .. account_id .. ' cause=' .. cause)
  call('SADD', KEYS[2], house_id)
  call('HSET', KEYS[4], 'unit', unit, 'class', 'house', 'credited', digits(house.credited + amount),
    'posted', digits(house.posted + amount))
end
return {'applied', account.available, debt_paid}
